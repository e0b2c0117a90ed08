"""Sparse teacher targets: exactly K entries per token, unbiased; and their Parquet form "tw-logits/1".

Method: threshold resampling (Fearnhead & Clifford 2003) applied to distillation. Choose c with sum(min(1, p / c)) = K;
keep every p >= c as it is, draw the others systematically with inclusion probability p / c and give them weight c. The
expectation of the weights is p itself. A renormalised top-k is biased and was measured to be worse than no
distillation (infra/decisions/0004-sparse-targets.md; the bias is proven in arXiv 2503.16870).

Per token: ids uint16 [K] by falling weight, log weights uint8 [K - 1] between log c and the top-1's log-probability,
float16 [2] (top-1 log-probability, log c), and float16 target log-probability and entropy. All of a sequence is one
binary value per column, which is read without a look at its tokens; Parquet lists are slower (decision 4 has the speeds).
Legend: N tokens, V vocabulary, K entries, L tokens of one sequence.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from tinywave_core.errors import TrainingError
from tinywave_core.storage.fingerprint import canonical_json
from tinywave_core.storage.shards import read_table

FORMAT = "tw-logits/1"
GROUP_ROWS = 64  # sequences of a row group: a few megabytes, what is coded in one go

LOGITS = pa.schema(
    [
        pa.field("seq_id", pa.binary(16), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),  # L
        pa.field("input_ids", pa.binary(), nullable=False),  # uint16 [L]; so that a shard can be trained on alone
        pa.field("ids", pa.binary(), nullable=False),  # uint16 [L, K]
        pa.field("logw", pa.binary(), nullable=False),  # uint8 [L, K - 1]
        pa.field("head", pa.binary(), nullable=False),  # float16 [L, 2]: top-1 log-probability, log c
        pa.field("target_logp", pa.binary(), nullable=False),  # float16 [L]: of the true next token; last is 0
        pa.field("entropy", pa.binary(), nullable=False),  # float16 [L], nats
    ]
)
_PACKED = ("input_ids", "target_logp", "entropy")
_LEVELS = 255
_SMALLEST = 1e-20  # a softmax can underflow to 0, which could not be drawn from


@dataclass(frozen=True)
class SparseTargets:
    """Targets of one or more sequences."""

    ids: npt.NDArray[np.int64]
    """Token ids [L, K]."""
    weights: npt.NDArray[np.float32]
    """Unbiased probabilities [L, K]; a row sums to 1 up to the coding."""
    entropy: npt.NDArray[np.float32]
    """Of the teacher's whole distribution [L], nats."""
    target_logp: npt.NDArray[np.float32]
    """Teacher's log-probability of the true next token [L]."""


def sample_offsets(seed: int, seq_id: str, length: int) -> npt.NDArray[np.float64]:
    """Uniform numbers [L] for the sampler: a function of (seed, sequence id, position), never of batch or order."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{seq_id}".encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).random(length)


def sparse_targets(
    probabilities_NV: torch.Tensor, entries: int, offsets_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and weights [N, K] of every row of float64 probabilities, by falling weight; exactly K different ids."""
    p, order = probabilities_NV.clamp(min=_SMALLEST).sort(dim=-1, descending=True, stable=True)
    mass_from = p.flip(-1).cumsum(-1).flip(-1)  # summed from the small end: no cancellation in a thin tail
    head = _head_size(p, mass_from, entries)
    drawn = entries - head
    threshold = mass_from.gather(-1, head[:, None])[:, 0] / drawn
    column = torch.arange(p.shape[-1], device=p.device)
    inclusion = torch.where(column < head[:, None], 0.0, p / threshold[:, None])
    # Stretched to end exactly at the number to be drawn, so that rounding never loses or adds an entry.
    reach = inclusion.cumsum(-1)
    reach = reach * (drawn / reach[:, -1])[:, None]
    slots = torch.arange(entries, device=p.device)
    points = (slots - head[:, None]).clamp(min=0) + offsets_N[:, None].to(p.dtype)
    found = torch.searchsorted(reach, points, right=True).clamp(max=p.shape[-1] - 1)
    is_head = slots < head[:, None]
    picked = torch.where(is_head, slots, found)
    weights = torch.where(is_head, p.gather(-1, picked), threshold[:, None])
    return order.gather(-1, picked), weights


def _head_size(p: torch.Tensor, mass_from: torch.Tensor, entries: int) -> torch.Tensor:
    """Entries [N] that are kept exactly: the fewest j < K so that p[j] < c(j) = mass from j on / (K - j)."""
    threshold = mass_from[:, :entries] / (entries - torch.arange(entries, device=p.device))
    fits = p[:, :entries] < threshold
    fits[:, -1] = True  # one entry is always drawn, which keeps the estimate unbiased
    return fits.to(torch.int8).argmax(-1)


def encode(
    ids_NK: npt.NDArray[np.int64], weights_NK: npt.NDArray[np.floating]
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """The coded ids [N, K], levels [N, K - 1] and head [N, 2] of any number of tokens, each by itself."""
    log_weights = np.log(np.maximum(weights_NK, 1e-30, dtype=np.float32))
    head = log_weights[:, [0, -1]].astype("<f2")
    top, floor = head[:, :1].astype(np.float32), head[:, 1:].astype(np.float32)  # levels between what is stored
    per_level = np.maximum(top - floor, np.float32(1e-6)) / np.float32(_LEVELS)
    levels = log_weights[:, 1:] - floor
    levels /= per_level
    np.rint(levels, out=levels)
    np.clip(levels, 0, _LEVELS, out=levels)
    return ids_NK.astype("<u2"), levels.astype(np.uint8), head


def decode(ids: memoryview, logw: memoryview, head: memoryview, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (int64) and weights (float32) [N, K] from the coded bytes of N tokens."""
    levels = torch.from_numpy(np.frombuffer(logw, np.uint8).reshape(tokens, -1).astype(np.float32))
    ends = torch.from_numpy(np.frombuffer(head, "<f2").reshape(tokens, 2).astype(np.float32))
    top, floor = ends[:, :1], ends[:, 1:]
    weights = torch.empty(tokens, levels.shape[1] + 1)
    weights[:, :1] = top
    torch.addcmul(floor, levels, (top - floor) / _LEVELS, out=weights[:, 1:])
    wide = np.frombuffer(ids, "<u2").reshape(tokens, -1).astype(np.int64)
    return torch.from_numpy(wide), weights.exp_()


# The file ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Captured:
    """What the teacher says about one sequence of L tokens."""

    seq_id: str
    input_ids: npt.NDArray[np.uint16]
    ids_LK: npt.NDArray[np.int64]
    weights_LK: npt.NDArray[np.float64]
    target_logp: npt.NDArray[np.float64]
    """Teacher's log-probability of the true next token [L]; the last is 0."""
    entropy: npt.NDArray[np.float64]
    """Of the teacher's whole distribution at the capture temperature [L], nats."""


def write_shard(captured: Iterable[Captured], about: Mapping[str, Any], path: Path) -> None:
    """Write one logit shard; `about` goes into its key-values, so that whoever opens it needs no settings."""
    # Stored so that reading is a copy: what is read at every step lies open, what repeats or is for people is packed.
    packed: dict[str, Literal["zstd", "none"]] = {n: "zstd" if n in _PACKED else "none" for n in LOGITS.names}
    schema = LOGITS.with_metadata({"tinywave": canonical_json(dict(about))})
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(
        path,
        schema,
        compression=packed,
        compression_level=dict.fromkeys(_PACKED, 1),
        use_dictionary=False,  # values are large and never the same
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        rest = iter(captured)
        while group := list(islice(rest, GROUP_ROWS)):
            writer.write_batch(_record_batch(group, schema))


def _record_batch(group: Sequence[Captured], schema: pa.Schema) -> pa.RecordBatch:
    """One row group, coded in one go: per sequence it would take twice as long."""
    lengths = np.asarray([len(c.input_ids) for c in group])
    ids, levels, head = encode(np.concatenate([c.ids_LK for c in group]), np.concatenate([c.weights_LK for c in group]))
    columns = {
        "input_ids": np.concatenate([c.input_ids for c in group]).astype("<u2"),
        "ids": ids,
        "logw": levels,
        "head": head,
        "target_logp": np.concatenate([c.target_logp for c in group]).astype("<f2"),
        "entropy": np.concatenate([c.entropy for c in group]).astype("<f2"),
    }
    arrays = {
        "seq_id": pa.array([bytes.fromhex(c.seq_id) for c in group], schema.field("seq_id").type),
        "n_tokens": pa.array(lengths, pa.int32()),
        **{name: _blobs(values, lengths) for name, values in columns.items()},
    }
    return pa.record_batch([arrays[name] for name in schema.names], schema=schema)


def _blobs(values: np.ndarray, lengths: npt.NDArray[np.int64]) -> pa.Array:
    """Rows of `values`, cut at the ends of the sequences, as one binary value each, without a copy."""
    row_bytes = values.nbytes // max(len(values), 1)
    ends = np.concatenate([[0], np.cumsum(lengths) * row_bytes])
    assert ends[-1] < 2**31, "a row group of more than 2 GB"
    buffers = [None, pa.py_buffer(ends.astype("<i4")), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.binary(), len(lengths), buffers)


def read_about(path: Path) -> dict[str, Any]:
    """What a logit shard says of itself: format, entries, temperature, seed, teacher, vocabulary, packing, types, code."""
    metadata = pq.read_schema(path).metadata or {}
    if b"tinywave" not in metadata:
        raise TrainingError(
            f"{path.name} does not say what it is: expected a logit shard as the stage logit_caching writes it"
        )
    return json.loads(metadata[b"tinywave"])  # type: ignore[no-any-return]


class LogitCache:
    """Targets of the sequences of several logit shards, by sequence id; kept coded, K entries of 3 bytes per token."""

    def __init__(
        self, shards: Mapping[str, Path], wanted: Mapping[str, Any], only: Sequence[str] | None = None
    ) -> None:
        """Shards by the name that errors give them; of all their sequences, or of some `only`.

        TrainingError, naming both, where a shard was captured with another teacher, vocabulary, packing, … than `wanted`, or in
        another format, or at another temperature than the shard before it.
        """
        self.temperature = 1.0
        """Softmax temperature at capture."""
        self._tables = []
        same = {"format": FORMAT, **wanted}
        used = None if only is None else pa.array([bytes.fromhex(i) for i in only], pa.binary(16))
        for name, path in shards.items():
            about = read_about(path)
            _require(about, same, name)
            same["temperature"] = self.temperature = about["temperature"]
            # Without the input ids, which are for those who train on a shard alone.
            table = read_table(path, [column for column in LOGITS.names if column != "input_ids"])
            self._tables.append(
                (table if used is None else table.filter(pc.is_in(table["seq_id"], used))).combine_chunks()
            )
        self._places = {
            value.hex(): (t, row)
            for t, table in enumerate(self._tables)
            for row, value in enumerate(table["seq_id"].to_pylist())
        }

    def __contains__(self, seq_id: str) -> bool:
        return seq_id in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, seq_id: str) -> SparseTargets:
        number, row = self._places[seq_id]
        table = self._tables[number]
        length = table["n_tokens"][row].as_py()
        parts = {n: memoryview(table[n][row].as_buffer()) for n in ("ids", "logw", "head", "entropy", "target_logp")}
        ids, weights = decode(parts["ids"], parts["logw"], parts["head"], length)
        return SparseTargets(
            ids=ids.numpy(),
            weights=weights.numpy(),
            entropy=np.frombuffer(parts["entropy"], "<f2").astype(np.float32),
            target_logp=np.frombuffer(parts["target_logp"], "<f2").astype(np.float32),
        )

    def require_all(self, seq_ids: Sequence[str]) -> None:
        """TrainingError unless every sequence has its targets."""
        missing = [seq_id for seq_id in seq_ids if seq_id not in self]
        if missing:
            raise TrainingError(
                f"{len(missing)} of {len(seq_ids)} training sequences have no cached logits, such as {missing[0]}: run "
                "logit_caching again with the same settings"
            )


def _require(about: Mapping[str, Any], wanted: Mapping[str, Any], shard: str) -> None:
    for name, expected in wanted.items():
        found = about.get(name)
        if found != expected:
            raise TrainingError(
                f"{shard} was captured with {name} {found!r}, but {expected!r} is needed here: its targets would mean "
                "something else. Run logit_caching again with the same teacher, tokens and settings"
            )

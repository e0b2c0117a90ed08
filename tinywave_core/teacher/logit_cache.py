"""Sparse teacher targets: exactly K entries per token, unbiased; and their Parquet form "tw-logits/2".

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
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tinywave_core.errors import TrainingError
from tinywave_core.sequences.dataset import CachedTargets
from tinywave_core.sequences.table import SequenceTable
from tinywave_core.storage.fingerprint import canonical_json
from tinywave_core.storage.indices import kept_arrays
from tinywave_core.storage.ranges import LocalRanges, Ranges
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact
from tinywave_core.storage.values import Layout, Values

FORMAT = "tw-logits/2"
LOGITS_FILE = "logits.parquet"
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
_PACKED = ("input_ids",)
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
        data_page_size=2**30,  # one page for each column of a row group, so that a value's place follows by adding up
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


_STEP = ("ids", "logw", "head", "entropy")  # what is read at every step
_OPEN = (*_STEP, "target_logp")
INDEX = "logits-1"  # the name of a shard's index; another one whenever the arrays below change


def index_of(shard: Artifact | Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays by which the targets of one shard are found without opening it: ids as bytes [N], tokens [N], where values lie,
    and what the shard says of itself."""
    path = shard if isinstance(shard, Path) else shard.path(LOGITS_FILE)
    about = read_about(path)
    if about.get("format") != FORMAT:  # before its columns are looked at, which may lie otherwise
        return {"about": np.array(json.dumps(about))}
    rows = read_table(path, ["seq_id", "n_tokens"])
    layout = Layout.of(path, _OPEN)
    return {
        "seq_id": id_bytes(rows["seq_id"].combine_chunks()),
        "n_tokens": rows["n_tokens"].to_numpy(),
        "first_rows": layout.first_rows,
        "chunks": layout.chunks,
        "about": np.array(json.dumps(about)),
    }


def id_bytes(ids: pa.Array) -> npt.NDArray[np.bytes_]:
    """Sequence ids as NumPy has them, of 16 bytes each; without a copy."""
    (_, values) = ids.buffers()
    return np.frombuffer(values, "S16", count=len(ids), offset=ids.offset * 16)


class LogitCache:
    """Targets of the sequences of several logit shards, read where they lie: memory holds 60 bytes of each sequence."""

    def __init__(
        self,
        shards: Mapping[str, Ranges],
        wanted: Mapping[str, Any],
        indices: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    ) -> None:
        """Shards by the name that errors give them, and their indices.

        TrainingError, naming both, where a shard was captured with another teacher, vocabulary, packing, … than `wanted`, or in
        another format, or at another temperature than the shard before it.
        """
        self.temperature = 1.0
        """Softmax temperature at capture."""
        self.entries = 0
        """Entries of a token, K."""
        self._files = list(shards.values())
        self._values = []
        same = {"format": FORMAT, **wanted}
        ids, starts, lengths = [np.empty(0, "S16")], [0], [np.empty(0, np.int32)]
        for name, file in shards.items():
            index = indices[name]
            about = json.loads(str(index["about"]))
            _require(about, same, name)
            same["temperature"] = self.temperature = about["temperature"]
            self.entries = entries = int(about["entries"])  # the same in all shards: they share one config
            widths = {"ids": 2 * entries, "logw": entries - 1, "head": 4, "target_logp": 2, "entropy": 2}
            before = np.concatenate([[0], np.cumsum(index["n_tokens"], dtype=np.int64)])
            layout = Layout(_OPEN, index["first_rows"], index["chunks"])
            self._values.append(Values(file, layout, before, widths))
            ids.append(index["seq_id"])
            lengths.append(index["n_tokens"])
            starts.append(starts[-1] + len(index["seq_id"]))
        self._starts, self._lengths = np.asarray(starts), np.concatenate(lengths)
        self._sorted = np.concatenate(ids)
        self._order = np.argsort(self._sorted, kind="stable")
        self._sorted = self._sorted[self._order]

    @classmethod
    def of_files(cls, paths: Mapping[str, Path], wanted: Mapping[str, Any]) -> "LogitCache":
        """Of files without a store, by the name that errors give them."""
        files = {name: LocalRanges(path) for name, path in paths.items()}
        return cls(files, wanted, {name: index_of(path) for name, path in paths.items()})

    @classmethod
    def of_shards(
        cls, shards: Sequence[Artifact], wanted: Mapping[str, Any], local_bytes: float = math.inf
    ) -> "LogitCache":
        """Of artifacts of the store: the first to open one compares it with its digest and keeps an index beside the store.

        Of a store elsewhere, copies of as many shards as fit into `local_bytes` stay on this machine; the others are read over the
        network, a page of 64 sequences when it is first touched and then a sequence at a time.
        """
        indices, files = {}, {}
        for shard in shards:
            fits = shard.size(LOGITS_FILE) <= local_bytes
            local_bytes -= shard.size(LOGITS_FILE) if fits else 0
            indices[shard.id] = kept_arrays(shard, INDEX, partial(index_of, shard))
            files[shard.id] = shard.ranges(LOGITS_FILE, copied=fits)
        return cls(files, wanted, indices)

    def __len__(self) -> int:
        return len(self._sorted)

    def tokens(self, places_S: npt.NDArray[np.int64]) -> int:
        """Tokens of the sequences at some places."""
        return int(self._lengths[places_S].sum())

    def __contains__(self, seq_id: str) -> bool:
        return bool(self.places(np.array([bytes.fromhex(seq_id)], "S16"))[0] >= 0)

    def __getitem__(self, seq_id: str) -> SparseTargets:
        place = int(self.places(np.array([bytes.fromhex(seq_id)], "S16"))[0])
        if place < 0:
            raise KeyError(seq_id)
        return self.read(np.array([place]))

    def places(self, ids_S: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
        """Where the targets of each sequence are, for `read` [S]; -1 for a sequence without any."""
        if not len(self):
            return np.full(len(ids_S), -1)
        at = np.minimum(np.searchsorted(self._sorted, ids_S), len(self) - 1)
        return np.where(self._sorted[at] == ids_S, self._order[at], -1)

    def read(self, places_S: npt.NDArray[np.int64]) -> SparseTargets:
        """The targets at some places, one sequence after the other; DamagedArtifactError where bytes are not those that were
        written."""
        shards_S = np.searchsorted(self._starts, places_S, side="right") - 1
        rows_S = places_S - self._starts[shards_S]
        parts: dict[str, list[bytes]] = {column: [b""] * len(places_S) for column in _STEP}
        for shard in np.unique(shards_S).tolist():
            here = np.flatnonzero(shards_S == shard)
            for column in _STEP:
                for at, value in zip(here.tolist(), self._values[shard].read(rows_S[here], column), strict=True):
                    parts[column][at] = value
        ids, logw, head, entropy = (b"".join(parts[column]) for column in _STEP)
        entropies = np.frombuffer(entropy, "<f2").astype(np.float32)
        wide, weights = decode(memoryview(ids), memoryview(logw), memoryview(head), len(entropies))
        return SparseTargets(wide.numpy(), weights.numpy(), entropies)

    def of(self, sequences: SequenceTable) -> "SequenceTargets":
        """Those of a dataset's sequences, by their numbers; TrainingError where one has none."""
        return SequenceTargets(self, self.require_all(sequences.ids))

    def target_logp(self, place: int) -> npt.NDArray[np.float32]:
        """Teacher's log-probability of the true next token [L]; the last is 0."""
        shard = int(np.searchsorted(self._starts, place, side="right")) - 1
        row = place - int(self._starts[shard])
        (value,) = self._values[shard].read(np.array([row]), "target_logp")
        return np.frombuffer(value, "<f2").astype(np.float32)

    def require_all(self, ids_S: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
        """The places of all these sequences; TrainingError where one has no targets."""
        places = self.places(ids_S)
        missing = np.flatnonzero(places < 0)
        if len(missing):
            name = ids_S.view(np.uint8).reshape(-1, 16)[missing[0]].tobytes().hex()
            raise TrainingError(
                f"{len(missing)} of {len(ids_S)} training sequences have no cached logits, such as {name}: run "
                "logit_caching again with the same settings"
            )
        return places


@dataclass(frozen=True)
class SequenceTargets:
    """Cached targets of the sequences of one dataset."""

    cache: LogitCache
    places: npt.NDArray[np.int64]
    """Of each sequence, in the cache [S]."""

    def targets(self, rows: Sequence[Sequence[int]], row_length: int) -> CachedTargets:
        """Of sequences by number, side by side in rows: read and decoded at once."""
        found = self.cache.read(self.places[[number for row in rows for number in row]])
        shape = (len(rows), row_length)
        ids = np.zeros((*shape, self.cache.entries), dtype=np.int64)
        weights = np.zeros(ids.shape, dtype=np.float32)
        entropy = np.zeros(shape, dtype=np.float32)
        start = 0
        for r, row in enumerate(rows):
            end = start + self.cache.tokens(self.places[row])
            ids[r, : end - start], weights[r, : end - start] = found.ids[start:end], found.weights[start:end]
            entropy[r, : end - start] = found.entropy[start:end]
            start = end
        return CachedTargets(ids, weights, entropy)

    def target_logp(self, number: int) -> npt.NDArray[np.float32]:
        """Teacher's log-probability of the true next token of one sequence [L]; the last is 0."""
        return self.cache.target_logp(int(self.places[number]))


def _require(about: Mapping[str, Any], wanted: Mapping[str, Any], shard: str) -> None:
    for name, expected in wanted.items():
        found = about.get(name)
        if found != expected:
            raise TrainingError(
                f"{shard} was captured with {name} {found!r}, but {expected!r} is needed here: its targets would mean "
                "something else. Run logit_caching again with the same teacher, tokens and settings"
            )

"""Sparse teacher targets: exactly K entries per token, unbiased; and their Parquet form "tw-logits/1".

Method: threshold resampling (Fearnhead & Clifford 2003) applied to distillation. Choose c with sum(min(1, p / c)) = K;
keep every p >= c as it is, draw the others systematically with inclusion probability p / c and give them weight c. The
expectation of the weights is p itself. A renormalised top-k is biased and was measured to be worse than no
distillation (infra/decisions/0004-sparse-targets.md; the bias is proven in arXiv 2503.16870).

Per token: ids uint16 [K] by falling weight, log weights uint8 [K - 1] between log c and the top-1's log-probability,
float16 [2] (top-1 log-probability, log c), and for people float16 target log-probability and entropy.
Legend: N tokens, V vocabulary, K entries, L tokens of one sequence.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

LOGITS = pa.schema(
    [
        pa.field("seq_id", pa.string(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),  # L
        pa.field("input_ids", pa.binary(), nullable=False),  # uint16 [L]
        pa.field("ids", pa.binary(), nullable=False),  # uint16 [L, K]
        pa.field("logw", pa.binary(), nullable=False),  # uint8 [L, K - 1]
        pa.field("head", pa.binary(), nullable=False),  # float16 [L, 2]: top-1 log-probability, log c
        pa.field("target_logp", pa.binary(), nullable=False),  # float16 [L]: of the true next token; last is 0
        pa.field("entropy", pa.binary(), nullable=False),  # float16 [L], nats
    ]
)
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


def encode(ids: torch.Tensor, weights: torch.Tensor) -> dict[str, bytes]:
    """The binary columns ids, logw and head of one sequence's targets [L, K]."""
    log_weights = weights.clamp(min=1e-30).log().cpu().numpy()
    head = log_weights[:, [0, -1]].astype(np.float16)
    top, floor = head[:, :1].astype(np.float32), head[:, 1:].astype(np.float32)  # levels between what is stored
    scale = np.maximum(top - floor, 1e-6)
    levels = np.rint((log_weights[:, 1:] - floor) / scale * _LEVELS).clip(0, _LEVELS)
    return {
        "ids": ids.cpu().numpy().astype("<u2").tobytes(),
        "logw": levels.astype(np.uint8).tobytes(),
        "head": head.astype("<f2").tobytes(),
    }


def decode(row: dict[str, bytes], length: int) -> SparseTargets:
    """The targets of one row of a logit shard."""
    ids = np.frombuffer(row["ids"], dtype="<u2").reshape(length, -1)
    levels = np.frombuffer(row["logw"], dtype=np.uint8).reshape(length, -1).astype(np.float32)
    head = np.frombuffer(row["head"], dtype="<f2").reshape(length, 2).astype(np.float32)
    top, floor = head[:, :1], head[:, 1:]
    log_weights = np.concatenate([top, floor + levels * ((top - floor) / _LEVELS)], axis=1)
    return SparseTargets(
        ids=ids.astype(np.int64),
        weights=np.exp(log_weights),
        entropy=np.frombuffer(row["entropy"], dtype="<f2").astype(np.float32),
        target_logp=np.frombuffer(row["target_logp"], dtype="<f2").astype(np.float32),
    )


class LogitCache:
    """Targets of the sequences of several logit shards, by sequence id."""

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        self._rows: dict[str, tuple[int, dict[str, bytes]]] = {}
        for table in tables:
            for row in _rows(table):
                self._rows[row["seq_id"]] = (row["n_tokens"], row)

    def __contains__(self, seq_id: str) -> bool:
        return seq_id in self._rows

    def __getitem__(self, seq_id: str) -> SparseTargets:
        length, row = self._rows[seq_id]
        return decode(row, length)


def _rows(table: pa.Table) -> Iterator[dict]:
    columns = ["seq_id", "n_tokens", "ids", "logw", "head", "target_logp", "entropy"]
    yield from table.select(columns).to_pylist()

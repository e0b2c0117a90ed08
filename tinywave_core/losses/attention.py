"""Attention alignment: KL between attention maps, on sampled rows and heads, computed beside SDPA.

Whole maps of both models would need eager attention and gigabytes; a few softmax rows from the queries and keys that
SDPA gets anyway cost a few percent and leave the model's own output bit-identical. transformers calls the registered
functions below in place of its own; outside `tapping` they are plain attention (models/attention.py).
Legend: B batch rows, H heads, h sampled heads, T positions, r sampled query positions, E head width.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from tinywave_core.devices import sent
from tinywave_core.models.attention import BLOCK_SPARSE, DENSE, Mask, allowed_rows, packed_attention

IMPLEMENTATION = DENSE
"""What a model must be loaded with for its rows to be read, or BLOCK_SPARSE."""

_CPU = torch.device("cpu")


@dataclass
class AttentionTap:
    """Which rows and heads are read, on the models' device, and what was read: log-probabilities [B, h, r, T] by layer."""

    positions_r: torch.Tensor
    heads_h: torch.Tensor
    layers: frozenset[int]
    log_maps: dict[int, torch.Tensor] = field(default_factory=dict)
    heads_of: Mapping[int, torch.Tensor] = field(default_factory=dict)
    """Of a teacher that was made narrower, by layer: its heads that stayed. `heads_h` are then numbers of these."""


# A context variable, not a global: two models may train in two threads of one process.
_current: ContextVar[AttentionTap | None] = ContextVar("attention_tap", default=None)


@contextlib.contextmanager
def tapping(tap: AttentionTap) -> Iterator[AttentionTap]:
    """Read attention rows of the forward passes in this block into `tap`."""
    token = _current.set(tap)
    try:
        yield tap
    finally:
        _current.reset(token)


def recompute_context() -> contextlib.AbstractContextManager[object]:
    """For blocks that are run a second time in the backward pass: the tap of this moment, into a copy that nobody reads.

    The rows must be computed anew, for autograd wants the same tensors, and must not be counted twice.
    """
    tap = _current.get()
    return contextlib.nullcontext() if tap is None else tapping(replace(tap, log_maps={}))


def sample_tap(
    length: int, heads: int, rows: int, num_heads: int, layers: set[int], seed: int, device: torch.device = _CPU
) -> AttentionTap:
    """Query positions and heads of one step, drawn from `seed` alone: teacher and student get the same."""
    # Drawn on the CPU, so that the rows do not depend on the device.
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randperm(length, generator=generator)[: min(rows, length)].sort().values
    picked = torch.randperm(num_heads, generator=generator)[: min(heads, num_heads)].sort().values
    return AttentionTap(sent(positions, device), sent(picked, device), frozenset(layers))


def row_divergence(student_log: torch.Tensor, teacher_log: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of each row of log-probabilities [..., T]; masked positions are -inf in both and count as 0."""
    teacher = teacher_log.exp()
    # Where both are masked the gap would be -inf + inf, and 0 times that is no number either.
    gap = torch.where(teacher > 0, teacher_log - student_log, 0.0)
    return (teacher * gap).sum(-1)


def attention_loss(
    student_log_BhrT: torch.Tensor, teacher_log_BhrT: torch.Tensor, valid_Br: torch.Tensor
) -> torch.Tensor:
    """Mean over heads and valid rows of KL(teacher || student)."""
    kl_Bhr = row_divergence(student_log_BhrT, teacher_log_BhrT)
    valid = valid_Br[:, None, :].expand_as(kl_Bhr)
    # All sampled rows of a small micro-batch can be padding: it then costs 0, not 0 / 0.
    return (kl_Bhr * valid).sum() / valid.sum().clamp(min=1)


def read_outside_of_compiled_blocks() -> None:
    """For models whose blocks are compiled: the tap is another one in every step and layer, and traced, it would be compiled anew
    for each; attention itself stays a part of the block."""
    _register(_untraced())


@functools.cache  # or each call would make another function, which is compiled anew
def _untraced() -> Callable[..., None]:
    return torch.compiler.disable(_read)


def _read(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, mask: Mask | None, scaling: float | None
) -> None:
    """The rows of this layer into the tap, if it is tapped."""
    tap = _current.get()
    if tap is not None and (layer := int(module.layer_idx)) in tap.layers:  # type: ignore[arg-type]
        heads = tap.heads_of[layer][tap.heads_h.cpu()] if layer in tap.heads_of else tap.heads_h
        tap.log_maps[layer] = _log_rows(query, key, mask, scaling, tap.positions_r, heads)


def _tapped(
    read: Callable[..., None],
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Mask | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    read(module, query, key, attention_mask, scaling)
    return packed_attention(module, query, key, value, attention_mask, scaling, **kwargs), None


def _log_rows(
    query_BHTE: torch.Tensor,
    key: torch.Tensor,
    mask: Mask | None,
    scaling: float | None,
    positions_r: torch.Tensor,
    heads_h: torch.Tensor,
) -> torch.Tensor:
    heads, rows = heads_h.to(query_BHTE.device), positions_r.to(query_BHTE.device)
    # Several query heads can share one key head.
    groups = query_BHTE.shape[1] // key.shape[1]
    # In float32: a log-probability in bfloat16 has two or three digits.
    q = query_BHTE[:, heads][:, :, rows].float()
    k = key[:, heads // groups].float()
    scores = q @ k.transpose(-1, -2) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    causal = torch.arange(k.shape[2], device=k.device) <= rows[:, None]
    allowed = causal if mask is None else allowed_rows(mask, rows, k.shape[2])
    return F.log_softmax(scores.masked_fill(~allowed, float("-inf")), dim=-1)


def _register(read: Callable[..., None]) -> None:
    for name in (DENSE, BLOCK_SPARSE):
        AttentionInterface.register(name, functools.partial(_tapped, read))
        AttentionMaskInterface.register(name, sdpa_mask)


_register(_read)

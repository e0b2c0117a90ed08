"""Capture: from the teacher's hidden states to sparse targets, and what a cache of them leaves out.

Pure functions of one sequence and its id, so that batches and their order change nothing.
Legend: L tokens of one sequence, D width, K entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from tinywave_core.config.logit_caching import LogitCachingConfig
from tinywave_core.devices import double, sent
from tinywave_core.sequences.dataset import Batch
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.teacher.logit_cache import Captured, sample_offsets, sparse_targets
from tinywave_core.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class CapturedSequence:
    """Targets of one sequence of L tokens, and what only the figures need."""

    captured: Captured
    beyond_L: npt.NDArray[np.float64]
    """Mass beyond the K likeliest tokens."""


class _Targets(NamedTuple):
    """The arrays of one sequence, where they were computed."""

    ids_LK: torch.Tensor
    weights_LK: torch.Tensor
    target_logp_L: torch.Tensor
    entropy_L: torch.Tensor
    beyond_L: torch.Tensor


def capture_batch(
    model: LlamaForCausalLM,
    hidden_BTD: torch.Tensor,
    batch: Batch,
    sequences: Sequence[TokenSequence],
    config: LogitCachingConfig,
    vocabulary: Vocabulary,
) -> list[CapturedSequence]:
    """The sequences of a packed batch, one after the other, from the teacher's last hidden states."""
    captured, targets = [], []
    for r, row in enumerate(batch.rows):
        start = 0
        for index in row:
            end = start + len(sequences[index].ids)
            captured.append(sequences[index])
            # Each by itself, though a product over the whole batch would be fewer: its last bits would depend on the neighbours.
            targets.append(_targets(model, hidden_BTD[r, start:end], sequences[index], config, vocabulary))
            start = end
    return [
        CapturedSequence(Captured(s.id, s.ids, ids, weights, logp, entropy), beyond)
        for s, ids, weights, logp, entropy, beyond in zip(captured, *_fetched(captured, targets), strict=True)
    ]


def _fetched(sequences: Sequence[TokenSequence], targets: Sequence[_Targets]) -> list[list[npt.NDArray[Any]]]:
    """Each kind of array by sequence, on the host: one transfer a kind, so that a GPU is waited for once a batch."""
    ends = np.cumsum([len(s.ids) for s in sequences])[:-1]
    return [np.split(torch.cat(kind).cpu().numpy(), ends) for kind in zip(*targets, strict=True)]


def _targets(
    model: LlamaForCausalLM,
    hidden_LD: torch.Tensor,
    sequence: TokenSequence,
    config: LogitCachingConfig,
    vocabulary: Vocabulary,
) -> _Targets:
    """Targets and diagnostics of one sequence; probabilities in float64, padding rows of the head left out."""
    # In float64: sums over the whole vocabulary decide which entry of the tail is drawn.
    logits = double(model.get_output_embeddings()(hidden_LD)[:, : vocabulary.tokens])
    log_p = torch.log_softmax(logits / config.temperature, dim=-1)
    p = log_p.exp()
    chosen, weights = sparse_targets(
        p, config.entries, sent(sample_offsets(config.seed, sequence.id, len(sequence.ids)), p.device)
    )
    following = sent(sequence.ids[1:].astype(np.int64), p.device)
    # The teacher's own NLL is that of its distribution at temperature 1, whatever is captured.
    plain = log_p if config.temperature == 1 else torch.log_softmax(logits, dim=-1)
    target = F.pad(plain[:-1].gather(-1, following[:, None])[:, 0], (0, 1))  # after the last token nothing follows
    top = p.topk(config.entries, dim=-1).values.sum(-1)
    return _Targets(chosen, weights, target, -(p * log_p).sum(-1), 1 - top)

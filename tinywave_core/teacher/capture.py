"""Capture: from the teacher's hidden states to sparse targets, and what a cache of them leaves out.

Pure functions of one sequence and its id, so that batches and their order change nothing.
Legend: L tokens of one sequence, D width, K entries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaForCausalLM

from tinywave_core.config.logit_caching import LogitCachingConfig
from tinywave_core.devices import double
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


def capture_batch(
    model: LlamaForCausalLM,
    hidden_BTD: torch.Tensor,
    batch: Batch,
    sequences: Sequence[TokenSequence],
    config: LogitCachingConfig,
    vocabulary: Vocabulary,
) -> Iterator[CapturedSequence]:
    """The sequences of a packed batch, one after the other, from the teacher's last hidden states."""
    for r, row in enumerate(batch.rows):
        start = 0
        for index in row:
            end = start + len(sequences[index].ids)
            yield capture(model, hidden_BTD[r, start:end], sequences[index], config, vocabulary)
            start = end


def capture(
    model: LlamaForCausalLM,
    hidden_LD: torch.Tensor,
    sequence: TokenSequence,
    config: LogitCachingConfig,
    vocabulary: Vocabulary,
) -> CapturedSequence:
    """Targets and diagnostics of one sequence; probabilities in float64, padding rows of the head left out."""
    ids = sequence.ids
    # In float64: sums over the whole vocabulary decide which entry of the tail is drawn.
    logits = double(model.lm_head(hidden_LD)[:, : vocabulary.tokens])
    log_p = torch.log_softmax(logits / config.temperature, dim=-1)
    p = log_p.exp()
    offsets = torch.from_numpy(sample_offsets(config.seed, sequence.id, len(ids))).to(p.device)
    chosen, weights = sparse_targets(p, config.entries, offsets)
    following = torch.from_numpy(ids[1:].astype(np.int64)).to(p.device)
    # The teacher's own NLL is that of its distribution at temperature 1, whatever is captured.
    plain = log_p if config.temperature == 1 else torch.log_softmax(logits, dim=-1)
    target = torch.zeros(len(ids), dtype=torch.float64)
    target[:-1] = plain[:-1].gather(-1, following[:, None])[:, 0].cpu()
    top = p.topk(config.entries, dim=-1).values.sum(-1)
    captured = Captured(
        seq_id=sequence.id,
        input_ids=ids,
        ids_LK=chosen.cpu().numpy(),
        weights_LK=weights.cpu().numpy(),
        target_logp=target.numpy(),
        entropy=-(p * log_p).sum(-1).cpu().numpy(),
    )
    return CapturedSequence(captured, (1 - top).cpu().numpy())

"""Log-probabilities of token sequences under a model; padding never changes a score beyond rounding.

Legend: L tokens of one sequence, V ids of the vocabulary.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaForCausalLM

from tinywave_core.errors import TrainingError
from tinywave_core.models.parts import decoder_of, head_of
from tinywave_core.progress import Progress, no_progress

Score = npt.NDArray[np.float32]
"""Log-probabilities of tokens 1 … L - 1 of one sequence: [L - 1]."""
_ROWS = 16


@torch.no_grad()
def token_log_probabilities(
    model: LlamaForCausalLM,
    sequences: Sequence[npt.NDArray],
    progress: Progress = no_progress,
    classes_V: npt.NDArray[np.int8] | None = None,
) -> list[Score]:
    """For every sequence [L], the log-probability of tokens 1 … L - 1 given those before: [L - 1] each.

    With `classes_V`, the class of every id, a token competes with those of its own class only. TrainingError where a
    log-probability is not finite: such a model can be compared with nothing.
    """
    decoder, head = decoder_of(model), head_of(model)
    classes = None if classes_V is None else torch.from_numpy(classes_V).to(model.device)
    scores: list[Score] = [np.empty(0, dtype=np.float32)] * len(sequences)
    by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for start in range(0, len(by_length), _ROWS):
        rows = by_length[start : start + _ROWS]
        longest = len(sequences[rows[-1]])
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for r, index in enumerate(rows):
            ids[r, : len(sequences[index])] = torch.from_numpy(sequences[index].astype(np.int64))
        ids = ids.to(model.device)
        # Right padding needs no mask: a causal model never looks at it. Without this one transformers looks for packed rows,
        # and makes a mask for them.
        hidden = decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
        for r, index in enumerate(rows):
            length = len(sequences[index])
            logits = head(hidden[r, : length - 1]).float()
            log_p = _log_softmax(logits, None if classes is None else classes[ids[r, 1:length]], classes)
            scores[index] = _finite(log_p.gather(-1, ids[r, 1:length, None])[:, 0].cpu().numpy())
        progress(min(start + _ROWS, len(sequences)), len(sequences), "sequences scored")
    return scores


def _finite(log_p: Score) -> Score:
    if not np.isfinite(log_p).all():
        raise TrainingError(
            f"the model gives {int((~np.isfinite(log_p)).sum())} of {len(log_p)} tokens of a sequence a likelihood that is "
            "not a finite number: its training diverged. Train it again with a lower learning rate "
            "(--adaptation.training.learning_rate or --distillation.training.learning_rate)"
        )
    return log_p


def _log_softmax(
    logits_LV: torch.Tensor, wanted_L: torch.Tensor | None, classes_V: torch.Tensor | None
) -> torch.Tensor:
    if wanted_L is None or classes_V is None:
        return torch.log_softmax(logits_LV, dim=-1)
    return torch.log_softmax(logits_LV.masked_fill(wanted_L[:, None] != classes_V, -torch.inf), dim=-1)


def by_name(named: Sequence[tuple[str, npt.NDArray]], scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Scores of sequences with names, in the order in which they have one; a name that none has is that of an empty list."""
    pieces: dict[str, list[Score]] = defaultdict(list)
    for (name, _), score in zip(named, scores, strict=True):
        pieces[name].append(score)
    return pieces


def mean_nll(scores: Sequence[Score]) -> float:
    """Negative log-likelihood per token, in nats, over all sequences together."""
    return -float(np.concatenate(list(scores)).mean(dtype=np.float64))

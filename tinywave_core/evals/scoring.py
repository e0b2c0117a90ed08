"""Log-probabilities of token sequences under a model; padding never changes a score beyond rounding.

Legend: L tokens of one sequence.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaForCausalLM

from tinywave_core.stages.base import Progress, no_progress

_ROWS = 16


@torch.no_grad()
def token_log_probabilities(
    model: LlamaForCausalLM, sequences: Sequence[npt.NDArray], progress: Progress = no_progress
) -> list[npt.NDArray[np.float32]]:
    """For every sequence [L], the log-probability of tokens 1 … L - 1 given those before: [L - 1] each."""
    scores: list[npt.NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(sequences)
    by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for start in range(0, len(by_length), _ROWS):
        rows = by_length[start : start + _ROWS]
        longest = len(sequences[rows[-1]])
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for r, index in enumerate(rows):
            ids[r, : len(sequences[index])] = torch.from_numpy(sequences[index].astype(np.int64))
        ids = ids.to(model.device)
        # Right padding needs no mask: a causal model never looks at it.
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        for r, index in enumerate(rows):
            length = len(sequences[index])
            log_p = torch.log_softmax(model.lm_head(hidden[r, : length - 1]).float(), dim=-1)
            scores[index] = log_p.gather(-1, ids[r, 1:length, None])[:, 0].cpu().numpy()
        progress(min(start + _ROWS, len(sequences)), len(sequences), "sequences scored")
    return scores


def mean_nll(scores: Sequence[npt.NDArray[np.float32]]) -> float:
    """Negative log-likelihood per token, in nats, over all sequences together."""
    return -float(np.concatenate(list(scores)).mean(dtype=np.float64))

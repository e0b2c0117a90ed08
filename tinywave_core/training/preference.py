"""Pairs of continuations as rows of training batches, and the objective that learns which of the two is better.

A row is one pair: the better continuation behind its prompt, then the worse behind the same, as two documents; what is
predicted are the tokens of the continuations alone. All pairs have as many tokens, so a mean over targets is a mean over pairs, and the
trainer (batches, checkpoints, resuming) is the one of all other trainings. Log-probabilities before the training are made once and
come with the rows.
Legend: R rows, T tokens of a row, P pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from tinywave_core.config.preference import PreferenceConfig
from tinywave_core.devices import mixed_precision, sent
from tinywave_core.losses.preference import preference_loss
from tinywave_core.models.forward import forward
from tinywave_core.models.parts import head_of
from tinywave_core.sequences.dataset import IGNORED, Batch, PackedDataset
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.training.trainer import LossTerms


class PairDataset(PackedDataset):
    """Rows of one pair each; as in its base, any batch can be made without the ones before it."""

    def __init__(self, pairs: Sequence[TokenSequence], config: PreferenceConfig, batch_pairs: int) -> None:
        """`pairs`: the ids of the better continuation with its prompt, then those of the worse, as long."""
        super().__init__(pairs, config.row_tokens, batch_pairs, config.seed)
        self.prompt, self.new = config.prompt_tokens, config.new_tokens
        self.reference_P2: npt.NDArray[np.float64] | None = None
        """Log-probabilities before the training, by pair; set before the first batch."""

    def batch(self, step: int, share: slice = slice(None)) -> Batch:
        """The batch of one optimiser step, counted from 0."""
        batch = super().batch(step, share)
        targets = tuple(2 * self.new * len(row) for row in self.rows_of_step(step))
        return replace(batch, step_targets=sum(targets), row_targets=targets)

    def collate(self, rows: list[list[int]]) -> Batch:
        """Lay out a pair in each row; an empty one is padding."""
        half = self.prompt + self.new
        ids, positions, documents = (np.zeros((len(rows), 2, half), np.int64) for _ in range(3))
        labels = np.full((len(rows), 2, half), IGNORED, np.int64)
        there = np.array([bool(row) for row in rows], bool)
        numbers = np.array([pair for row in rows for pair in row], np.int64)
        if len(numbers):
            ids[there] = np.stack(self.sequences.tokens(numbers)).astype(np.int64).reshape(-1, 2, half)
            positions[there] = np.arange(half)
            documents[there] = np.array([[1], [2]])
            labels[there, :, self.prompt - 1 : -1] = ids[there, :, self.prompt :]
        reference = None
        if self.reference_P2 is not None:
            reference = np.zeros((len(rows), 2))
            reference[there] = self.reference_P2[numbers]
        ids_RT, positions_RT, documents_RT, labels_RT = (
            array.reshape(len(rows), -1) for array in (ids, positions, documents, labels)
        )
        return Batch(ids_RT, positions_RT, documents_RT, labels_RT, rows, reference=reference)


def log_probabilities(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Of both continuations of every pair, over their tokens: [P, 2]."""
    kept = np.flatnonzero(batch.labels != IGNORED)
    wanted = sent(batch.labels.ravel()[kept], model.device)
    hidden = forward(model, batch).last_BTD.flatten(0, 1)[sent(kept, model.device)]
    logp = -F.cross_entropy(head_of(model)(hidden).float(), wanted, reduction="none")
    pairs = sum(bool(row) for row in batch.rows)
    return logp.view(pairs, 2, -1).sum(-1)


@torch.no_grad()
def reference_of(
    model: LlamaForCausalLM, dataset: PairDataset, rows: int, device: torch.device
) -> npt.NDArray[np.float64]:
    """Log-probabilities of all pairs of a dataset under the model as it is: [P, 2]; `rows` go through it at once."""
    model.eval()
    parts = [np.zeros((0, 2))]
    numbers = range(len(dataset.sequences))
    for start in range(0, len(numbers), rows):
        batch = dataset.collate([[number] for number in numbers[start : start + rows]])
        with mixed_precision(device):
            parts.append(log_probabilities(model, batch).double().cpu().numpy())
    return np.concatenate(parts)


@dataclass(frozen=True)
class PreferenceObjective:
    """DPO on rows of pairs, with the likelihood of the better continuation beside it where that has a weight."""

    config: PreferenceConfig

    def __call__(self, model: LlamaForCausalLM, batch: Batch, _: int) -> LossTerms:
        """Sums over targets, as everywhere: each pair counts as often as it has tokens."""
        assert batch.reference is not None
        logp_P2 = log_probabilities(model, batch)
        there = np.array([bool(row) for row in batch.rows], bool)
        reference_P2 = sent(batch.reference[there].astype(np.float32), model.device)
        found = preference_loss(logp_P2, reference_P2, self.config.beta)
        better_nll_P = -logp_P2[:, 0] / self.config.new_tokens
        total = (found.loss_P + self.config.likelihood_weight * better_nll_P).sum()
        terms = {
            "preference": found.loss_P,
            "accuracy": found.right_P,
            "margin": found.margin_P,
            "better_nll": better_nll_P,
            "worse_nll": -logp_P2[:, 1] / self.config.new_tokens,
        }
        targets = 2 * self.config.new_tokens
        return LossTerms(total * targets, {name: value.detach().sum() * targets for name, value in terms.items()})

    def checked(self, model: LlamaForCausalLM, batch: Batch) -> LossTerms:
        """The same on pairs that are not trained on; its loss says which weights are kept."""
        return self(model, batch, 0)

"""Validation while a model trains: which checks, on which rows, and when there is nothing more to hope for.

Checks are at equal distances in steps and at the end. Order and rows are functions of the sequences, so that a resumed run checks
what the undisturbed one would have checked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from tinywave_core.config.validation import ValidationConfig
from tinywave_core.devices import sent
from tinywave_core.models.forward import forward
from tinywave_core.models.parts import head_of
from tinywave_core.sequences.dataset import IGNORED, Batch, PackedDataset
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.training.checkpoint import Best

_PART = 1024  # positions whose logits are in memory at once


@dataclass(frozen=True)
class Validation:
    """The checks of one training run."""

    dataset: PackedDataset
    config: ValidationConfig
    patient_until: int = 0
    """The step up to which no check counts against the training: what is to change it has not begun."""

    @classmethod
    def on(
        cls, sequences: Sequence[TokenSequence], row_length: int, config: ValidationConfig, patient_until: int = 0
    ) -> "Validation | None":
        """On these sequences; None where there are none."""
        return cls(PackedDataset(sequences, row_length, 1, seed=0), config, patient_until) if sequences else None

    def is_due(self, step: int, steps: int) -> bool:
        """Whether the model is checked after `step` of `steps` steps."""
        return step == steps or step % self._distance(steps) == 0

    def is_over(self, step: int, steps: int, best: Best | None) -> bool:
        """Whether so many checks brought nothing better that training stops after `step`."""
        if best is None or not self.is_due(step, steps):
            return False
        return (step - max(best.step, self.patient_until)) // self._distance(steps) >= self.config.patience

    def batches(self, rows: int, multiple: int) -> Iterator[Batch]:
        """All sequences once, in batches of `rows` rows; the last one is filled up to a multiple with rows of padding."""
        packed = self.dataset.rows_of_pass(0).lists()
        packed += [[]] * (-len(packed) % multiple)
        yield from self.dataset.collate(packed).split(rows)

    def _distance(self, steps: int) -> int:
        return -(-steps // self.config.checks)


def cross_entropy(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Summed over the targets of a batch, in nats; without a gradient's memory where none is recorded."""
    hidden = forward(model, batch).last_BTD.flatten(0, 1)
    kept = np.flatnonzero(batch.labels != IGNORED)
    wanted_N = sent(batch.labels.ravel()[kept], hidden.device)
    total = hidden.new_zeros((), dtype=torch.float32)
    # In parts: the logits of all positions would take more memory than a training step does.
    for part, wanted in zip(hidden[sent(kept, hidden.device)].split(_PART), wanted_N.split(_PART), strict=True):
        total += F.cross_entropy(head_of(model)(part).float(), wanted, reduction="sum")
    return total

"""What adaptation reports of its teacher."""

from tinywave_core.steps.base import Summary
from tinywave_core.training.summary import TrainingSummary


class TeacherSummary(Summary):
    """A teacher after its training."""

    parameters: int
    layers: int
    width: int
    method: str
    """`full` or `lora`."""
    started_from: str
    """`random weights`, `checkpoint` or `base`."""
    train_sequences: int
    """Without those that validate."""
    train_tokens: int
    """Of all these, each counted once."""
    train_hours: float
    steps: int
    """Optimiser steps that were taken."""
    training: TrainingSummary
    """How, and which weights were kept."""
    held_out_nll_before: float | None
    """Nats per token; None without held-out speech."""
    held_out_nll_after: float | None
    held_out_floor_nll: float | None
    """Of the best table of counts of one to four of the training tokens (`evals/ngrams.py`)."""
    train_loss: float
    """Of the last step."""

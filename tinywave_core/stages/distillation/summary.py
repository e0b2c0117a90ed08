"""What distillation reports of a student or its control."""

from typing import Literal

from tinywave_core.steps.base import Summary
from tinywave_core.training.summary import TrainingSummary


class StudentSummary(Summary):
    """A student, or the control, after its training."""

    parameters: int
    teacher_parameters: int
    vocabulary: Literal["full", "speech"]
    layers: int
    layers_copied: list[int]
    """Teacher blocks that the student's blocks started as."""
    layers_aligned: list[tuple[int, int]]
    """Pairs of blocks that were aligned: student, teacher."""
    weights: dict[str, float]
    """Of the terms of the loss, by name."""
    live_steps: int
    """Steps in which the teacher ran beside it."""
    nll_at_start: dict[str, float]
    """Nats per token of `teacher` and `student` before training; empty for one that learns from no teacher."""
    steps: int
    """Optimiser steps that were taken."""
    training: TrainingSummary
    """How, and which weights were kept."""
    tokens_seen: int
    """In these steps, padding included."""
    started_from: str
    """`teacher`, or the id of the student before it."""
    continuations: int
    """How many continuations led to it."""
    train_sequences: int
    new_sequences: int
    new_tokens: int
    replayed_sequences: int
    replayed_tokens: int
    restarted: str = ""
    """Why a student that was to be continued began from the teacher again; unset where it did not."""
    final: dict[str, int | float]
    """Numbers of the last step: loss, terms, gradient norm; `batches_left_out` if there are any."""

"""What distillation reports of a student or its control."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tinywave_core.config.preference import JudgeName
from tinywave_core.steps.base import Summary
from tinywave_core.training.summary import TrainingSummary


class Start(BaseModel):
    """The student of another run that a student started from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    """Of its weights, config and vocabulary."""
    name: str
    """Of the folder that its directory lies in: its id, where that is a store."""
    tokenizer: str | None
    """Id of the speech tokenizer that it was trained with."""


class KeptParts(BaseModel):
    """What a narrower student has of its teacher, by number."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    channels: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...]
    """Of each block of the teacher."""
    neurons: tuple[tuple[int, ...], ...]
    """Likewise."""


class Preferred(BaseModel):
    """How the preference tuning of a student went."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    pairs: int
    """To train on."""
    validation_pairs: int
    planned_steps: int
    steps: int
    """That were taken."""
    passes: float
    """Over the pairs, in these steps."""
    best_step: int | None
    """After which the weights were kept; 0: those before the tuning, since nothing was better. None: the last ones, for nothing validated."""
    checked: dict[str, float]
    """Of the kept weights on the pairs that validate: loss, accuracy, margin; empty where there are none, and of those before the tuning."""
    final: dict[str, float]
    """Numbers of the last step, on pairs that are trained on."""


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
    kept: KeptParts | None = None
    """Unset for a student of the teacher's width."""
    weights: dict[str, float]
    """Of the terms of the loss, by name."""
    own_share: float | None = None
    """Of the rows that it learned from, those with its own continuations; unset where it was to have none."""
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
    """`teacher`, `random weights`, `student` (see `start`), or the id of the student before it."""
    start: Start | None = None
    """Of another run; unset where there was none."""
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
    preference: Preferred | None = None
    """Of a student after preference tuning; all else is of its distillation. Unset for any other."""


class PairsSummary(Summary):
    """Part `pairs`."""

    judge: JudgeName
    vocabulary: dict[str, Any]
    """Of the ids."""
    prompts: dict[str, int]
    """By `train` and `validation`."""
    too_short: int
    """Sequences that were drawn and have no more tokens than a prompt."""
    candidates: int
    """Continuations of all prompts."""
    failures: dict[str, int]
    """Of these, those without a score, by reason."""
    without_pair: dict[str, int]
    """Prompts of which no pair was made, by reason."""
    pairs: dict[str, int]
    """By `train` and `validation`."""
    scores: dict[str, float | None]
    """The judge's mean for `better` and `worse`; None without pairs."""
    repetition: dict[str, float | None]
    """Mean auto-BLEU of tokens, likewise."""

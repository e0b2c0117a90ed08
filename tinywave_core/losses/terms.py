"""The terms of the distillation loss: what computes each, by the name of its weight in config/distillation.py.

A term is a sum over the targets of a micro-batch. Those at the head (`language_model`, `logits`) are computed together, since
they share one product with the head's matrix (losses/logits.py); of the others each has a function of what the models show.
losses/README.md says how a term is added.
Legend: B rows, T row length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tinywave_core.config.distillation import DistillationConfig, LossWeightsConfig, Term
from tinywave_core.devices import sent
from tinywave_core.errors import TrainingError
from tinywave_core.losses.attention import IMPLEMENTATION, AttentionTap, attention_loss
from tinywave_core.losses.hidden import cosine_loss, mse_loss
from tinywave_core.losses.logits import LogitSignal, fused_logit_loss
from tinywave_core.models.forward import Forward
from tinywave_core.sequences.dataset import IGNORED, Batch


@dataclass(frozen=True)
class Views:
    """What the models show of one micro-batch."""

    config: DistillationConfig
    pairs: Sequence[tuple[int, int]]
    """Blocks that are compared: student, teacher."""
    batch: Batch
    student: Forward
    student_tap: AttentionTap
    teacher: Forward | None = None
    """None in a step without the live teacher."""
    teacher_tap: AttentionTap | None = None
    alignment: torch.nn.ModuleList | None = None
    """From the width of the student to the teacher's, by pair; None where they are equally wide."""


@dataclass(frozen=True)
class Computation:
    """What computes a term, and what it reads; only what some term reads is kept of a forward pass."""

    function: Callable[[Views], torch.Tensor]
    """Sum over the micro-batch's targets; carries the gradient."""
    hidden: bool = False
    """Whether it reads the outputs of mapped blocks."""
    maps: bool = False
    """Whether it reads attention maps of mapped blocks."""


def hidden_states(views: Views) -> torch.Tensor:
    """Distance of mapped hidden states, a mean over the pairs of blocks."""
    assert views.teacher is not None
    student, teacher = views.student.hidden, views.teacher.hidden
    missing = [pair for pair in views.pairs if pair[0] >= len(student) or pair[1] >= len(teacher)]
    if missing:
        raise TrainingError(
            f"hidden alignment was asked for, but no hidden states came from the block pairs {missing}: the student gave "
            f"those of {len(student)} blocks, the teacher of {len(teacher)}"
        )
    distance = cosine_loss if views.config.hidden_form == "cosine" else mse_loss
    valid_BT = sent(views.batch.labels != IGNORED, views.student.last_BTD.device)
    wide = [
        student[s] if views.alignment is None else views.alignment[n](student[s])
        for n, (s, _) in enumerate(views.pairs)
    ]
    costs = [distance(own, teacher[t], valid_BT) for own, (_, t) in zip(wide, views.pairs, strict=True)]
    return torch.stack(costs).sum() / len(views.pairs)


def attention_maps(views: Views) -> torch.Tensor:
    """Divergence of mapped attention maps: its mean over sampled rows and heads, for each target."""
    assert views.teacher_tap is not None
    student, teacher = views.student_tap.log_maps, views.teacher_tap.log_maps
    missing = [pair for pair in views.pairs if pair[0] not in student or pair[1] not in teacher]
    if missing:
        raise TrainingError(
            f"attention alignment was asked for, but no attention rows came from the block pairs {missing}: load "
            f"both models with attn_implementation={IMPLEMENTATION!r}, or set distillation.weights.attention to 0"
        )
    # Padding looks at padding, which would be learned as well.
    valid = sent(views.batch.documents > 0, views.student.last_BTD.device)[:, views.student_tap.positions_r]
    losses = []
    for s, t in views.pairs:
        losses.append(attention_loss(student[s], teacher[t].to(student[s].device), valid))
    # The mean over a few rows stands for every target, so that the weight means the same in every batch.
    return torch.stack(losses).mean() * views.batch.targets


AT_HEAD = ("language_model", "logits")
COMPUTATIONS = {
    "hidden": Computation(hidden_states, hidden=True),
    "attention": Computation(attention_maps, maps=True),
}
"""By term, of all that are not at the head."""


def at_head(
    weights: LossWeightsConfig,
    hidden_ND: torch.Tensor,
    head_VD: torch.Tensor,
    labels_N: torch.Tensor,
    signal: LogitSignal | None,
    temperature: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The weighted sum of the terms at the head, and each alone, without a gradient; cross-entropy is reported whatever its weight."""
    loss = fused_logit_loss(
        hidden_ND,
        head_VD,
        labels_N,
        signal,
        language_model=weights.language_model,
        logits=weights.logits,
        temperature=temperature,
    )
    # Student and control are compared by it, also where the student does not learn from it.
    terms = {"language_model": loss.language_model}
    return loss.total, terms if signal is None else terms | {"logits": loss.logits}


def computations(terms: Sequence[Term]) -> dict[Term, Computation]:
    """What computes each of the terms that are not at the head."""
    return {term: COMPUTATIONS[term.name] for term in terms if term.name not in AT_HEAD}

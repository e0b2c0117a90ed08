"""The term `on_policy`: how far the student is from the live teacher on what it said itself, in the rows that hold its continuations.

It has the seam of the other terms at the head (`fused_logit_loss` with a `LogitSignal`), over positions of its own.
"""

import torch

from tinywave_core.config.distillation import ON_POLICY, OnPolicyConfig
from tinywave_core.losses.divergences import OwnSpeechSignal
from tinywave_core.losses.logits import LiveTeacher, LogitLoss, fused_logit_loss
from tinywave_core.models.forward import Forward
from tinywave_core.sequences.dataset import Batch


def own_speech_loss(
    config: OnPolicyConfig, student: Forward, head_VD: torch.Tensor, batch: Batch, teacher: LiveTeacher
) -> LogitLoss:
    """The weighted divergence, summed over the tokens that the student said in this micro-batch."""
    labels_N = torch.from_numpy(batch.own_speech.labels).flatten()
    drawn = labels_N.clamp(min=0).to(head_VD.device) if config.form == "sampled" else None
    signal = OwnSpeechSignal(teacher, config.divergence, config.beta, drawn)
    hidden_ND = student.last_BTD.flatten(0, 1)
    return fused_logit_loss(
        hidden_ND, head_VD, labels_N, signal, language_model=0.0, logits=config.weight, temperature=1.0
    )


def means_of_each(batch: Batch, terms: dict[str, torch.Tensor], own: torch.Tensor) -> dict[str, torch.Tensor]:
    """The terms as they are shown: each a mean over the targets that it counts, once divided by all targets of the step.

    Without those of data in a step that has none, so that their curves show no 0 that was never measured.
    """
    data_targets = batch.step_targets - batch.own_targets
    shown = {name: value * (batch.step_targets / data_targets) for name, value in terms.items()} if data_targets else {}
    return shown | {ON_POLICY: own * (batch.step_targets / batch.own_targets)}

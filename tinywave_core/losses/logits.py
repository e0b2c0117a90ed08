"""Language modelling and softened-logit loss over a large vocabulary without a [N, V] matrix of gradients.

The output projection and both losses are fused and chunked over time; the gradient is analytic, so no chunk is kept for
backward. Cross-entropy is on the true tokens, the logit term is the forward KL from the teacher's sparse targets
(arXiv 2506.23670: softened logits; Hinton et al. 2015: times temperature squared).
Legend: N tokens, D width, V vocabulary, K entries.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from tinywave_core.sequences.dataset import IGNORED

_CHUNK = 256


@dataclass(frozen=True)
class LogitLoss:
    """Sums over tokens."""

    total: torch.Tensor
    """Weighted sum; the only one that carries a gradient."""
    language_model: torch.Tensor
    """Cross-entropy with the true tokens, nats."""
    logits: torch.Tensor
    """Cross-entropy with the teacher's sparse targets minus the teacher's entropy: an unbiased estimate of the KL."""


@dataclass(frozen=True)
class TeacherTargets:
    """Sparse targets of N tokens on the model's device."""

    ids_NK: torch.Tensor
    weights_NK: torch.Tensor
    entropy_N: torch.Tensor


def fused_logit_loss(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_N: torch.Tensor,
    targets: TeacherTargets | None,
    *,
    language_model: float,
    logits: float,
    temperature: float,
) -> LogitLoss:
    """Weighted sum of both terms over all positions whose label is not IGNORED."""
    keep = labels_N != IGNORED
    hidden_ND, labels_N = hidden_ND[keep], labels_N[keep]
    if targets is not None:
        targets = TeacherTargets(targets.ids_NK[keep], targets.weights_NK[keep], targets.entropy_N[keep])
    values = _Fused.apply(hidden_ND, weight_VD, labels_N, targets, language_model, logits, temperature)
    return LogitLoss(*values)


class _Fused(torch.autograd.Function):
    """Computes losses and gradients in one pass over chunks; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        targets: TeacherTargets | None,
        lm_weight: float,
        kl_weight: float,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        grad_hidden, grad_weight = torch.zeros_like(hidden), torch.zeros_like(weight)
        lm, kl = hidden.new_zeros((), dtype=torch.float32), hidden.new_zeros((), dtype=torch.float32)
        head = weight.to(
            hidden.dtype
        )  # bfloat16 products under autocast; the weight's gradient is summed in its own type
        for start in range(0, len(hidden), _CHUNK):
            part = slice(start, start + _CHUNK)
            h = hidden[part]
            z = (h @ head.T).float()
            lm_part, grad = _cross_entropy(z, labels[part], lm_weight)
            lm += lm_part
            if targets is not None and kl_weight:
                kl_part, kl_grad = _sparse_kl(z, targets, part, temperature)
                kl += kl_part
                grad += kl_weight * kl_grad
            grad = grad.to(hidden.dtype)
            grad_hidden[part] = grad @ head
            grad_weight += grad.T @ h
        ctx.save_for_backward(grad_hidden, grad_weight)
        total = lm_weight * lm + kl_weight * kl
        ctx.mark_non_differentiable(lm, kl)
        return total, lm, kl

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_total, grad_weight * grad_total, None, None, None, None, None


def _cross_entropy(z: torch.Tensor, labels: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    log_q = F.log_softmax(z, dim=-1)
    loss = -log_q.gather(-1, labels[:, None]).sum()
    grad = log_q.exp_()
    grad.scatter_add_(-1, labels[:, None], grad.new_full((len(labels), 1), -1.0))
    return loss, grad.mul_(scale)


def _sparse_kl(
    z: torch.Tensor, targets: TeacherTargets, part: slice, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    ids, weights = targets.ids_NK[part], targets.weights_NK[part]
    log_q = F.log_softmax(z / temperature, dim=-1)
    cross_entropy = -(weights * log_q.gather(-1, ids)).sum()
    grad = log_q.exp_().mul_(weights.sum(-1, keepdim=True))
    grad.scatter_add_(-1, ids, -weights)
    loss = (cross_entropy - targets.entropy_N[part].sum()) * temperature**2
    return loss, grad.mul_(temperature)  # d(z / T) / dz = 1 / T, times T squared

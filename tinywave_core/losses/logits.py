"""Language modelling and softened-logit loss over a large vocabulary without a [N, V] matrix.

The output projection and both losses are fused and chunked over time; the gradient is analytic and takes the place of
the chunk's logits, so no chunk is kept for backward. Cross-entropy is on the true tokens, the logit term is the forward
KL from the teacher (arXiv 2506.23670: softened logits; Hinton et al. 2015: times temperature squared). What the teacher
says comes as a `LogitSignal`, sparse from the cache or whole from its last hidden states: the loss does not know which.
Legend: N tokens, n tokens of a part, D width, V vocabulary, K entries.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from tinywave_core.devices import sent
from tinywave_core.errors import TrainingError
from tinywave_core.sequences.dataset import IGNORED

_CHUNK = 256  # positions whose logits exist at once: 32 MiB at 32,512 rows
_PART = 32  # positions of a chunk whose softmaxes exist at once
_HEAD_ROWS = 4096  # of the head's gradient that a chunk is added to at once, or the product is as large as the head


@dataclass(frozen=True)
class LogitLoss:
    """Sums over tokens."""

    total: torch.Tensor
    """Weighted sum; the only one that carries a gradient."""
    language_model: torch.Tensor
    """Cross-entropy with the true tokens, nats."""
    logits: torch.Tensor
    """KL from the teacher to the student times temperature squared; of sparse targets an unbiased estimate."""


class LogitSignal(Protocol):
    """What the teacher says about N positions."""

    def kl(self, log_q_nV: torch.Tensor, positions_n: torch.Tensor, temperature: float) -> torch.Tensor:
        """Summed KL(teacher || student) at some positions, both at `temperature`; leaves its gradient with respect to
        the tempered logits, q - p, in place of the student's log-probabilities."""
        ...


@dataclass(frozen=True)
class TeacherTargets:
    """The cached signal: sparse targets of N tokens on the model's device."""

    ids_NK: torch.Tensor
    weights_NK: torch.Tensor
    entropy_N: torch.Tensor

    def kl(self, log_q_nV: torch.Tensor, positions_n: torch.Tensor, temperature: float) -> torch.Tensor:  # noqa: ARG002
        """Cross-entropy with the targets minus the teacher's entropy; the cache has its one temperature already."""
        # `temperature` is not used: a distribution that was cut cannot be brought to another one without bias.
        ids, weights = self.ids_NK[positions_n], self.weights_NK[positions_n].to(log_q_nV.dtype)
        cross_entropy = -(weights * log_q_nV.gather(-1, ids)).sum()
        # A coded row sums to 1 only nearly: the gradient is that of the sum above, not of one that was never computed.
        log_q_nV.exp_().mul_(weights.sum(-1, keepdim=True))
        log_q_nV.scatter_add_(-1, ids, -weights)
        return cross_entropy - self.entropy_N[positions_n].sum()


@dataclass(frozen=True)
class LiveTeacher:
    """The live signal: the teacher's own distribution, made from its last hidden states where it is needed.

    `rows` is the shared prefix of both vocabularies. Teacher rows beyond it (padding, or tokens that the student lacks) are
    left out of its softmax: the target is its exact distribution given that the token is one that both have. Student rows
    beyond it have target 0, and what the student puts there costs it.
    """

    hidden_ND: torch.Tensor
    """After the final norm."""
    head_VD: torch.Tensor
    rows: int

    def __post_init__(self) -> None:
        if not 0 < self.rows <= len(self.head_VD):
            raise TrainingError(
                f"the live teacher's head has {len(self.head_VD)} rows, {self.rows} were to be compared: use a teacher "
                "whose vocabulary begins as the student's does"
            )

    def kl(self, log_q_nV: torch.Tensor, positions_n: torch.Tensor, temperature: float) -> torch.Tensor:
        """The whole sum over the vocabulary, exact."""
        log_p = self.log_p(log_q_nV, positions_n, temperature)
        # From here on in place: every copy is as large as the softmax of the part.
        p = log_p.exp()
        shared = log_q_nV[:, : self.rows]
        loss = log_p.sub_(shared).mul_(p).sum()
        log_q_nV.exp_()
        shared.sub_(p)
        return loss

    def log_p(self, log_q_nV: torch.Tensor, positions_n: torch.Tensor, temperature: float) -> torch.Tensor:
        """The teacher's log-probabilities [n, rows] at some positions, at `temperature` and in the student's precision."""
        if self.rows > log_q_nV.shape[1]:
            raise TrainingError(
                f"the student has {log_q_nV.shape[1]} rows, {self.rows} were to be compared with the live teacher's"
            )
        # Cut, not padded: a row of padding with logit 0 would get a share of the probability.
        head = self.head_VD[: self.rows].to(self.hidden_ND.dtype)
        z = (self.hidden_ND[positions_n] @ head.T).to(log_q_nV.dtype)
        return F.log_softmax(z / temperature, dim=-1)


def fused_logit_loss(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_N: torch.Tensor,
    targets: LogitSignal | None,
    *,
    language_model: float,
    logits: float,
    temperature: float,
) -> LogitLoss:
    """Weighted sum of both terms over all positions whose label is not IGNORED. Labels that lie on the CPU cost a GPU no wait."""
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
        targets: LogitSignal | None,
        lm_weight: float,
        kl_weight: float,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # The losses are sums over thousands of tokens, too long for 16 bits.
        exact = torch.promote_types(hidden.dtype, torch.float32)
        lm, kl = hidden.new_zeros((), dtype=exact), hidden.new_zeros((), dtype=exact)
        grad_hidden, grad_weight = torch.zeros_like(hidden), torch.zeros_like(weight)
        # bfloat16 products under autocast; the weight's gradient is summed in its own type
        head = weight.to(hidden.dtype)
        signal = targets if kl_weight else None
        # Padding has no label, and would cost its product with the head all the same.
        kept = sent(np.flatnonzero(labels.cpu().numpy() != IGNORED), hidden.device)
        labels = sent(labels, hidden.device)
        for positions in kept.split(_CHUNK):
            h = hidden[positions]
            z = (h @ head.T).to(exact)
            for start in range(0, len(z), _PART):
                part, at = z[start : start + _PART], positions[start : start + _PART]
                log_q = F.log_softmax(part / temperature, dim=-1) if signal is not None else None
                lm += _cross_entropy(part, labels[at], lm_weight)
                if signal is not None and log_q is not None:
                    kl += signal.kl(log_q, at, temperature) * temperature**2
                    part.add_(log_q, alpha=kl_weight * temperature)  # d(z / T) / dz = 1 / T, times T squared
            grad = z.to(hidden.dtype)
            grad_hidden[positions] = (grad @ head).to(hidden.dtype)
            for start in range(0, len(weight), _HEAD_ROWS):
                rows = slice(start, start + _HEAD_ROWS)
                grad_weight[rows] += grad[:, rows].T @ h
        ctx.save_for_backward(grad_hidden, grad_weight)
        total = lm_weight * lm + kl_weight * kl
        ctx.mark_non_differentiable(lm, kl)  # for the curves; the gradient of the total is there already
        return total, lm, kl

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_total, grad_weight * grad_total, None, None, None, None, None


def _cross_entropy(z_nV: torch.Tensor, labels_n: torch.Tensor, scale: float) -> torch.Tensor:
    """Summed cross-entropy; leaves its gradient times `scale` in place of the logits."""
    log_q = F.log_softmax(z_nV, dim=-1)
    loss = -log_q.gather(-1, labels_n[:, None]).sum()
    torch.exp(log_q, out=z_nV)
    z_nV.scatter_add_(-1, labels_n[:, None], z_nV.new_full((len(labels_n), 1), -1.0))
    z_nV.mul_(scale)
    return loss

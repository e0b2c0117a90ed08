"""How far the student is from the live teacher at each position: forward KL, reverse KL, generalised Jensen-Shannon.

In: the student's log-probabilities of a part of the positions, and the live teacher. Out: the summed divergence, and its gradient with
respect to the student's logits in place of its log-probabilities (`losses/logits.py` asks for both at once). The student q and the
teacher p are compared over the tokens that both have, each normalised over these. The generalised Jensen-Shannon divergence is
beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q, as in GKD (Agarwal et al. 2024).
Legend: N tokens, n tokens of a part, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from tinywave_core.config.distillation import DivergenceName
from tinywave_core.losses.logits import LiveTeacher

# Each takes log p and log q [n, V] and gives the summed divergence and its gradient with respect to q's logits.
Divergence = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def forward_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p || q): the student must cover all that the teacher says."""
    p = log_p.exp()
    return (p * (log_p - log_q)).sum(), log_q.exp() - p


def reverse_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(q || p): the student must not say what the teacher would not."""
    return _above(log_q, log_q - log_p)


def jensen_shannon(log_p: torch.Tensor, log_q: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The generalised Jensen-Shannon divergence; near beta 0 it acts as forward KL, near 1 as reverse KL, times a factor."""
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    to_teacher = (log_p.exp() * (log_p - log_m)).sum()
    to_student, gradient = _above(log_q, log_q - log_m)
    # What m changes with q cancels: the derivative with respect to q is (1 - beta) log(q / m), up to a constant.
    return beta * to_teacher + (1 - beta) * to_student, (1 - beta) * gradient


def sampled_reverse_kl(
    log_p: torch.Tensor, log_q: torch.Tensor, tokens_n: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Estimates of KL(q || p) and of its gradient from one token of each position, which the student q drew.

    The value is p / q - 1 - log(p / q), which is never negative; the gradient that of log q times log(q / p). Both have the expectation
    of `reverse_kl`.
    """
    at = tokens_n[:, None]
    ratio = log_p.gather(-1, at) - log_q.gather(-1, at)
    gradient = log_q.exp() * ratio
    gradient.scatter_add_(-1, at, -ratio)
    return (ratio.expm1() - ratio).sum(), gradient


def _above(log_q: torch.Tensor, ratio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed mean of `ratio` under q, and q times its distance from that mean."""
    q = log_q.exp()
    mean_n1 = (q * ratio).sum(-1, keepdim=True)
    return mean_n1.sum(), q * (ratio - mean_n1)


@dataclass(frozen=True)
class OwnSpeechSignal:
    """The live teacher's word on what the student said itself: a `LogitSignal` with another divergence than forward KL."""

    teacher: LiveTeacher
    divergence: DivergenceName
    beta: float
    """Of `jensen_shannon`."""
    tokens_N: torch.Tensor | None = None
    """The tokens that were drawn, for the sampled form; None: the whole vocabulary counts."""

    def kl(self, log_q_nV: torch.Tensor, positions_n: torch.Tensor, temperature: float) -> torch.Tensor:
        """The summed divergence at some positions, both at `temperature`; leaves its gradient in place of the log-probabilities."""
        log_p = self.teacher.log_p(log_q_nV, positions_n, temperature)
        rows = log_p.shape[1]
        log_q = log_q_nV[:, :rows]
        log_q = log_q - log_q.logsumexp(-1, keepdim=True)  # rows of padding have no target here, and none is drawn
        loss, gradient = self._divergence(positions_n)(log_p, log_q)
        log_q_nV[:, :rows] = gradient
        log_q_nV[:, rows:] = 0
        return loss

    def _divergence(self, positions_n: torch.Tensor) -> Divergence:
        if self.tokens_N is not None:
            return partial(sampled_reverse_kl, tokens_n=self.tokens_N[positions_n])
        if self.divergence == "jensen_shannon":
            return partial(jensen_shannon, beta=self.beta)
        return forward_kl if self.divergence == "forward" else reverse_kl

"""The divergences on the student's own speech, against their definitions in float64 and autograd."""

import math

import pytest
import torch
import torch.nn.functional as F

from tinywave_core.losses.divergences import OwnSpeechSignal, sampled_reverse_kl
from tinywave_core.losses.logits import LiveTeacher, fused_logit_loss

pytestmark = pytest.mark.arithmetic
N, D, V, SHARED = 70, 6, 11, 9  # more positions than are worked on at once; two rows of padding in the student's head


def definition(name: str, p: torch.Tensor, q: torch.Tensor, beta: float) -> torch.Tensor:
    """The divergence as the papers write it, with sums over the vocabulary written out."""
    kl = lambda a, b: (a * (a / b).log()).sum()
    m = beta * p + (1 - beta) * q
    return {"forward": kl(p, q), "reverse": kl(q, p), "jensen_shannon": beta * kl(p, m) + (1 - beta) * kl(q, m)}[name]


def problem() -> tuple[torch.Tensor, torch.Tensor, LiveTeacher]:
    torch.manual_seed(0)
    hidden, head = torch.randn(N, D, dtype=torch.float64), torch.randn(V, D, dtype=torch.float64)
    teacher = LiveTeacher(
        torch.randn(N, D, dtype=torch.float64), torch.randn(SHARED + 1, D, dtype=torch.float64), SHARED
    )
    return hidden.requires_grad_(), head.requires_grad_(), teacher


def fused(hidden, head, signal, labels=None, weight=1.0):
    labels = torch.zeros(len(hidden), dtype=torch.long) if labels is None else labels
    return fused_logit_loss(hidden, head, labels, signal, language_model=0.0, logits=weight, temperature=1.0)


@pytest.mark.parametrize(
    ("name", "beta"),
    [("forward", 0.5), ("reverse", 0.5), ("jensen_shannon", 0.5), ("jensen_shannon", 0.1), ("jensen_shannon", 0.9)],
)
def test_value_and_gradients_are_those_of_the_definition_over_the_shared_tokens(name, beta):
    hidden, head, teacher = problem()
    p = F.softmax(teacher.hidden_ND @ teacher.head_VD[:SHARED].T, -1)
    wanted = 0.7 * definition(name, p, F.softmax(hidden @ head[:SHARED].T, -1), beta)
    expected = torch.autograd.grad(wanted, [hidden, head])
    out = fused(hidden, head, OwnSpeechSignal(teacher, name, beta), weight=0.7)
    if name != "forward" and name != "jensen_shannon":
        assert out.total.item() > 1
    assert out.total.item() == pytest.approx(wanted.item(), rel=1e-12)
    for found, true in zip(torch.autograd.grad(out.total, [hidden, head]), expected, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-12)


def test_reverse_kl_of_two_coins_is_the_closed_form():
    hidden, head = torch.ones(1, 1), torch.tensor([[math.log(0.9)], [math.log(0.1)]])
    teacher = LiveTeacher(torch.zeros(1, 1), torch.ones(2, 1), 2)
    out = fused(hidden, head, OwnSpeechSignal(teacher, "reverse", 0.5))
    assert out.total.item() == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2), rel=1e-5)


@pytest.mark.parametrize("name", ["forward", "reverse", "jensen_shannon"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name):
    hidden, head, _ = problem()
    out = fused(hidden, head, OwnSpeechSignal(LiveTeacher(hidden.detach(), head.detach(), V), name, 0.3))
    assert out.total.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(out.total, hidden)[0].abs().max() < 1e-14


def test_the_expectation_of_the_sampled_form_is_the_full_form():
    """Every token counted by the probability with which the student draws it: no random numbers."""
    hidden, head, teacher = problem()
    q = F.softmax(hidden @ head[:SHARED].T, -1).detach()
    full = fused(hidden, head, OwnSpeechSignal(teacher, "reverse", 0.5))
    value, gradient = 0.0, torch.zeros_like(hidden)
    for n in range(3):
        one = LiveTeacher(teacher.hidden_ND[n : n + 1], teacher.head_VD, SHARED)
        for token in range(SHARED):
            row = hidden[n : n + 1]
            out = fused(row, head, OwnSpeechSignal(one, "reverse", 0.5, torch.tensor([token])))
            value += q[n, token] * out.total.detach()
            gradient[n] += q[n, token] * torch.autograd.grad(out.total, row)[0][0]
    first = OwnSpeechSignal(LiveTeacher(teacher.hidden_ND[:3], teacher.head_VD, SHARED), "reverse", 0.5)
    assert value.item() == pytest.approx(fused(hidden[:3], head, first).total.item(), rel=1e-12)
    torch.testing.assert_close(gradient[:3], torch.autograd.grad(full.total, hidden)[0][:3])


def test_the_sampled_estimate_is_never_negative_and_says_more_of_a_token_that_the_teacher_would_say():
    log_p, log_q = torch.tensor([[0.8, 0.2], [0.2, 0.8]]).log(), torch.tensor([[0.5, 0.5]] * 2).log()
    value, gradient = sampled_reverse_kl(log_p, log_q.clone(), torch.tensor([0, 0]))
    ratios = [0.8 / 0.5, 0.2 / 0.5]
    assert value.item() == pytest.approx(sum(r - 1 - math.log(r) for r in ratios), rel=1e-5)
    assert gradient[0, 0] < 0 < gradient[1, 0]  # a step down the gradient raises the first, lowers the second


def test_the_student_is_scored_where_a_label_stands_and_nowhere_else():
    hidden, head, teacher = problem()
    labels = torch.full((N,), -100)
    labels[[3, 40]] = 5
    out = fused(hidden, head, OwnSpeechSignal(teacher, "reverse", 0.5), labels)
    rows = torch.autograd.grad(out.total, hidden)[0].abs().sum(-1).nonzero().flatten().tolist()
    assert rows == [3, 40]

"""The fused logit loss against closed forms and the dense computation."""

import math

import pytest
import torch
import torch.nn.functional as F

from tinywave_core.losses.logits import TeacherTargets, fused_logit_loss


def all_targets(p_NV: torch.Tensor) -> TeacherTargets:
    """The whole distribution as if it were sparse."""
    ids = torch.arange(p_NV.shape[1]).expand_as(p_NV)
    return TeacherTargets(ids, p_NV, -(p_NV * p_NV.log()).sum(-1))


def loss(hidden, weight, labels, targets=None, lm=0.0, kl=0.0, temperature=1.0):
    return fused_logit_loss(hidden, weight, labels, targets, language_model=lm, logits=kl, temperature=temperature)


def test_uniform_logits_cost_log_v_per_token():
    out = loss(torch.zeros(3, 4), torch.randn(7, 4), torch.tensor([0, 3, 6]), lm=1.0)
    assert out.total.item() == pytest.approx(3 * math.log(7), rel=1e-6)


def test_logit_term_is_zero_when_student_equals_teacher():
    hidden, weight = torch.randn(5, 8), torch.randn(11, 8)
    p = torch.softmax(hidden @ weight.T, -1)
    out = loss(hidden, weight, torch.zeros(5, dtype=torch.long), all_targets(p), kl=1.0)
    assert out.logits.item() == pytest.approx(0, abs=1e-5)


def test_logit_term_is_the_kl_worked_out_by_hand():
    """Teacher (3/4, 1/4), student (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2)."""
    targets = TeacherTargets(torch.tensor([[0, 1]]), torch.tensor([[0.75, 0.25]]), torch.tensor([0.5623351446188083]))
    out = loss(torch.zeros(1, 3), torch.randn(2, 3), torch.tensor([0]), targets, kl=1.0)
    assert out.logits.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradients_equal_the_dense_computation(temperature):
    torch.manual_seed(0)
    hidden, weight = torch.randn(600, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    labels = torch.randint(0, 50, (600,))
    labels[::7] = -100
    p = torch.softmax(torch.randn(600, 50), -1)
    loss(hidden, weight, labels, all_targets(p), 0.3, 0.7, temperature).total.backward()
    fused = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    z, keep = hidden @ weight.T, labels != -100
    log_q = F.log_softmax(z[keep] / temperature, -1)
    dense = 0.3 * F.cross_entropy(z, labels, reduction="sum")
    dense = dense + 0.7 * temperature**2 * (p[keep] * (p[keep].log() - log_q)).sum()
    dense.backward()
    torch.testing.assert_close(fused[0], hidden.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fused[1], weight.grad, atol=1e-4, rtol=1e-5)


def test_masked_positions_carry_no_gradient():
    hidden = torch.randn(4, 3, requires_grad=True)
    loss(hidden, torch.randn(5, 3), torch.tensor([1, -100, 2, -100]), lm=1.0).total.backward()
    assert hidden.grad[1].abs().sum() == 0 and hidden.grad[0].abs().sum() > 0

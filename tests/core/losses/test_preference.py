"""DPO by hand, at its start, and its gradient against differences of the plain formula."""

import math

import pytest
import torch

from tinywave_core.losses.preference import preference_loss


def test_the_loss_is_that_worked_out_by_hand():
    # The better gained 1 nat, the worse lost 2: margin 0.5 * 3, and -log(1 / (1 + e^-1.5)).
    found = preference_loss(torch.tensor([[-9.0, -12.0]]), torch.tensor([[-10.0, -10.0]]), beta=0.5)
    assert found.loss_P.tolist() == pytest.approx([math.log(1 + math.exp(-1.5))])
    assert found.reward_P2.tolist() == [[0.5, -1.0]] and found.margin_P.tolist() == [1.5]


def test_the_loss_is_log_2_where_nothing_was_learned():
    logp = torch.tensor([[-310.7, -290.1], [-2.0, -3.0]])
    found = preference_loss(logp, logp, beta=0.1)
    assert found.loss_P.tolist() == pytest.approx([math.log(2)] * 2)
    assert found.right_P.tolist() == [0.5, 0.5]


def test_a_pair_is_right_where_the_better_one_gained_more():
    found = preference_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-3.0, -4.0]]), torch.zeros(3, 2), beta=1.0)
    assert found.right_P.tolist() == [1.0, 0.0, 1.0]


def test_its_gradient_is_that_of_the_plain_formula():
    generator = torch.Generator().manual_seed(0)
    logp, reference = (torch.randn(5, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    beta, step = 0.7, 1e-6

    def plain(at: torch.Tensor) -> float:
        ratio = (at - reference)[:, 0] - (at - reference)[:, 1]
        return -float(torch.log(1 / (1 + torch.exp(-beta * ratio))).sum())

    own = logp.clone().requires_grad_()
    preference_loss(own, reference, beta).loss_P.sum().backward()
    for place in [(row, side) for row in range(5) for side in range(2)]:
        up, down = logp.clone(), logp.clone()
        up[place], down[place] = up[place] + step, down[place] - step
        assert own.grad is not None
        assert float(own.grad[place]) == pytest.approx((plain(up) - plain(down)) / (2 * step), abs=1e-8)

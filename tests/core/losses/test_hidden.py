"""Hidden-state alignment by hand."""

import pytest
import torch

from tinywave_core.losses.hidden import cosine_loss


def test_equal_directions_cost_nothing_whatever_their_length():
    x = torch.randn(2, 3, 8)
    assert cosine_loss(x, 5 * x, torch.ones(2, 3)).item() == pytest.approx(0, abs=1e-5)


def test_orthogonal_costs_one_and_opposite_two():
    student, teacher = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]])
    assert cosine_loss(student, teacher, torch.ones(1, 2)).item() == pytest.approx(3)


def test_padding_is_not_counted():
    student, teacher = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    assert cosine_loss(student, teacher, torch.zeros(1, 4)).item() == 0

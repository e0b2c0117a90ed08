"""Hidden-state alignment by hand."""

import pytest
import torch

from tinywave_core.errors import TrainingError
from tinywave_core.losses.hidden import cosine_loss, mse_loss

pytestmark = pytest.mark.arithmetic


def test_equal_directions_cost_nothing_whatever_their_length():
    x = torch.randn(2, 3, 8)
    assert cosine_loss(x, 5 * x, torch.ones(2, 3)).item() == pytest.approx(0, abs=1e-5)


def test_orthogonal_costs_one_and_opposite_two():
    student, teacher = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]])
    assert cosine_loss(student, teacher, torch.ones(1, 2)).item() == pytest.approx(3)


def test_padding_is_not_counted():
    student, teacher = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    assert cosine_loss(student, teacher, torch.zeros(1, 4)).item() == 0


def test_squared_error_is_relative_to_the_teachers_size_at_each_position():
    """(3, 4) against (0, 0) costs 1, whatever the size; against (3, 0) it costs 16 / 25."""
    teacher = torch.tensor([[[3.0, 4.0], [300.0, 400.0], [3.0, 4.0]]])
    student = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [3.0, 0.0]]])
    assert mse_loss(student, teacher, torch.ones(1, 3)).item() == pytest.approx(1 + 1 + 16 / 25)


@pytest.mark.parametrize("distance", [cosine_loss, mse_loss])
def test_a_batch_costs_what_its_rows_cost_and_masked_positions_nothing(distance):
    student, teacher, valid = torch.randn(2, 4, 8), 9 * torch.randn(2, 4, 8), torch.tensor([[1, 1, 0, 1], [0, 0, 1, 0]])
    whole = distance(student, teacher, valid)
    alone = sum(distance(student[r : r + 1], teacher[r : r + 1], valid[r : r + 1]) for r in (0, 1))
    torch.testing.assert_close(whole, alone)
    teacher[0, 2] += 100
    torch.testing.assert_close(distance(student, teacher, valid), whole)


@pytest.mark.parametrize("distance", [cosine_loss, mse_loss])
def test_gradients_are_those_of_finite_differences(distance):
    student = torch.randn(1, 2, 3, requires_grad=True)
    teacher = torch.randn(1, 2, 3)
    distance(student, teacher, torch.ones(1, 2)).backward()
    step = torch.zeros(1, 2, 3)
    step[0, 1, 2] = 1e-2
    ahead, behind = (distance(student.detach() + sign * step, teacher, torch.ones(1, 2)) for sign in (1, -1))
    assert ((ahead - behind) / 2e-2).item() == pytest.approx(student.grad[0, 1, 2].item(), abs=2e-3)


@pytest.mark.parametrize("distance", [cosine_loss, mse_loss])
def test_different_widths_are_refused(distance):
    with pytest.raises(TrainingError, match=r"\[1, 2, 4\].*\[1, 2, 8\].*teacher's width"):
        distance(torch.zeros(1, 2, 4), torch.zeros(1, 2, 8), torch.ones(1, 2))

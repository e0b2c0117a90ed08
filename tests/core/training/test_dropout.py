"""Dropout: masks that are a function of seed, step, row and place, and of nothing else; none in evaluation."""

import numpy as np
import pytest
import torch

from tests.fixtures.training import CONFIG, DROPPED, RUNTIME, Stop, fresh, run, sequences, stop_at
from tinywave_core.models.forward import forward
from tinywave_core.training.dropout import add_dropout
from tinywave_core.training.trainer import make_dataset

BATCH = make_dataset(sequences(), CONFIG).batch(0)


def masks(share: float = 0.25, step: int = 0, row: int = 0, seed: int = 0) -> torch.Tensor:
    """What dropout leaves of ones: [place, rows, T, D]."""
    model = fresh()
    places = [model.model.embed_tokens, *(part for b in model.model.layers for part in (b.self_attn, b.mlp))]
    for place in places:  # attention gives its maps beside
        place.register_forward_hook(
            lambda m, _, out: (torch.ones_like(out[0]), *out[1:]) if isinstance(out, tuple) else torch.ones_like(out)
        )
    draw = add_dropout(model, share, seed)
    draw.step, draw.first_row = step, row
    seen = []
    for place in places:
        place.register_forward_hook(lambda m, _, out: seen.append((out[0] if isinstance(out, tuple) else out).detach()))
    forward(model.train(), BATCH)
    return torch.stack(seen)


def test_a_share_is_zeroed_and_the_rest_scaled_so_that_the_mean_stays():
    drawn = masks(0.25)
    assert drawn.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    zeros = float((drawn == 0).float().mean())
    assert zeros == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / drawn.numel()))


def test_places_rows_steps_and_seeds_have_masks_of_their_own():
    drawn = masks()
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[:, 0], drawn[:, 1])
    for other in (masks(step=1), masks(seed=1)):
        # As much alike as two draws are by chance: 0.25 squared and 0.75 squared.
        assert float((drawn == other).float().mean()) == pytest.approx(0.625, abs=0.02)


def test_a_row_is_drawn_by_its_place_in_the_whole_batch():
    assert torch.equal(masks(row=1)[:, 0], masks(row=0)[:, 1])


def test_evaluation_drops_nothing():
    model, plain = fresh(), fresh()
    add_dropout(model, 0.5, 0)
    with torch.no_grad():
        assert torch.equal(forward(model.eval(), BATCH).last_BTD, forward(plain.eval(), BATCH).last_BTD)
        assert not torch.equal(forward(model.train(), BATCH).last_BTD, forward(plain, BATCH).last_BTD)


def test_a_model_that_was_trained_with_dropout_is_plain_afterwards(tmp_path):
    model = fresh()
    run(tmp_path, DROPPED, model=model)
    model.train()
    with torch.no_grad():
        assert torch.equal(forward(model, BATCH).last_BTD, forward(model, BATCH).last_BTD)


def test_it_changes_what_is_learned(tmp_path):
    assert run(tmp_path / "a", DROPPED)[0][-1]["loss"] != run(tmp_path / "b")[0][-1]["loss"]


@pytest.mark.parametrize("step", [1, 5])
def test_a_run_with_dropout_that_was_stopped_goes_on_to_bit_equal_weights(tmp_path, step):
    curve, weights = run(tmp_path / "whole", DROPPED)
    with pytest.raises(Stop):
        run(tmp_path / "cut", DROPPED, on_step=stop_at(step))
    again, resumed = run(tmp_path / "cut", DROPPED)
    assert again == curve and all(torch.equal(weights[name], resumed[name]) for name in weights)


@pytest.mark.parametrize("change", [{"micro_batch_rows": 1}, {"activation_checkpointing": 1.0}])
def test_how_a_batch_is_worked_through_changes_rounding_only(tmp_path, change):
    whole, _ = run(tmp_path / "a", DROPPED)
    parts, _ = run(tmp_path / "b", DROPPED, RUNTIME.model_copy(update=change))
    assert [p["loss"] for p in parts] == pytest.approx([w["loss"] for w in whole], rel=1e-4)

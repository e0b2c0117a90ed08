"""Training: exact resume from any step, no damaged checkpoint used, nothing trained on a loss that is not finite."""

import math

import numpy as np
import pytest
import torch

from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.config.base import RuntimeConfig, TrainingConfig
from tinywave_core.errors import TrainingError
from tinywave_core.models.llama import fresh_llama
from tinywave_core.sequences.dataset import TokenSequence
from tinywave_core.stages.base import no_progress
from tinywave_core.training.objective import LanguageModelObjective
from tinywave_core.training.trainer import learning_rate, make_dataset, train

CONFIG = TrainingConfig(steps=9, batch_tokens=128, sequence_length=64, learning_rate=1e-2, warmup_steps=2)
RUNTIME = RuntimeConfig(checkpoint_every=2, device="cpu")


def sequences() -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    draw = lambda n: np.cumsum(rng.integers(1, 3, n)).astype(np.uint16) % 40
    return [TokenSequence(f"{n:032x}", f"u{n}", f"r{n}", None, draw(20 + n), 1.0) for n in range(12)]


def fresh():
    return fresh_llama(FreshTeacherConfig(layers=2, width=32, heads=2, intermediate=64), 40, 64, seed=0)


def run(folder, config=CONFIG, runtime=RUNTIME, on_step=None):
    model = fresh()
    curve = train(
        model,
        make_dataset(sequences(), config),
        LanguageModelObjective(),
        config,
        runtime,
        folder,
        no_progress,
        on_step=on_step,
    )
    return curve, {name: p.detach().clone() for name, p in model.named_parameters()}


class Stop(Exception):
    pass


def stop_at(step):
    def on_step(done):
        if done == step:
            raise Stop

    return on_step


@pytest.mark.parametrize("step", [1, 2, 5, 8])
def test_a_run_that_was_stopped_goes_on_to_bit_equal_losses_and_weights(tmp_path, step):
    curve, weights = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "cut", on_step=stop_at(step))
    resumed_curve, resumed = run(tmp_path / "cut")
    assert resumed_curve == curve
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(tmp_path):
    curve, _ = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "cut", on_step=stop_at(7))
    newest = sorted(tmp_path.glob("cut/step-*"))[-1] / "model.safetensors"
    raw = bytearray(newest.read_bytes())
    raw[-3] ^= 1
    newest.write_bytes(raw)
    assert run(tmp_path / "cut")[0] == curve


def test_at_most_two_checkpoints_are_kept(tmp_path):
    run(tmp_path)
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-00000006", "step-00000008"]


def test_the_loss_falls(tmp_path):
    curve, _ = run(tmp_path)
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]


def test_gradient_accumulation_changes_rounding_only(tmp_path):
    whole, _ = run(tmp_path / "a")
    parts, _ = run(tmp_path / "b", runtime=RUNTIME.model_copy(update={"micro_batch_rows": 1}))
    assert [p["loss"] for p in parts] == pytest.approx([w["loss"] for w in whole], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_lower(tmp_path):
    model = fresh()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = math.inf
    with pytest.raises(TrainingError, match="at step 1 the loss is.*Lower training.learning_rate"):
        train(
            model, make_dataset(sequences(), CONFIG), LanguageModelObjective(), CONFIG, RUNTIME, tmp_path, no_progress
        )


def test_no_training_speech_is_said_with_what_to_do():
    with pytest.raises(TrainingError, match="no training sequence.*split_by recording"):
        make_dataset([], CONFIG)


def test_the_learning_rate_warms_up_and_ends_at_its_final_share():
    config = TrainingConfig(steps=100, learning_rate=1.0, warmup_steps=10, final_learning_rate_ratio=0.1)
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert learning_rate(9, config) == learning_rate(10, config) == 1.0
    assert learning_rate(99, config) == pytest.approx(0.1)

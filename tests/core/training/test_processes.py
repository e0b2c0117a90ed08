"""Two processes train as one: the same gradients, steps and checkpoints (gloo, CPU; tests/stages/test_torchrun.py starts them as a stage does).

Sums are taken in another order, so numbers agree to float32's rounding: 1e-5 of gradients, and 2e-3 of weights after nine
steps, for AdamW divides small gradients by their own size.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.on_policy import UNEVEN, UNEVEN_STEPS, train_on_policy
from tests.fixtures.training import (
    DROPPED,
    FOUR_ROWS,
    RUNTIME,
    BreaksOn,
    distilled,
    gradients,
    run,
    validation,
)
from tinywave_core.errors import TrainingError
from tinywave_core.training import processes

ROW_BY_ROW = RUNTIME.model_copy(update={"micro_batch_rows": 1})  # as two processes cut a batch of two rows


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fixtures.two_processes", str(folder)],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.allclose(found[name], expected[name], rtol=tolerance, atol=tolerance) for name in expected)


@pytest.mark.parametrize("what", ["gradients", "whole", "broken", "checked", "own"])
def test_both_processes_have_bit_equal_gradients_and_weights(two: Path, what: str):
    first, second = (load_file(two / f"{what}-{rank}.safetensors") for rank in (0, 1))
    assert first and all(torch.equal(first[name], second[name]) for name in first)


def test_what_two_processes_say_and_learn_from_it_is_what_one_does(two: Path, tmp_path: Path):
    expected, _ = train_on_policy(tmp_path, UNEVEN, UNEVEN_STEPS, runtime=ROW_BY_ROW)
    found = json.loads((two / "own-0.json").read_text())
    for name in ("loss", "language_model", "on_policy"):
        assert [record[name] for record in found] == pytest.approx([record[name] for record in expected], rel=1e-4)


def test_the_gradient_of_all_terms_is_that_of_one_process_with_the_whole_batch(two: Path):
    assert close(load_file(two / "gradients-0.safetensors"), gradients(ROW_BY_ROW), 1e-5)


def test_gradients_that_are_accumulated_whole_are_those_that_each_micro_batch_sums(two: Path):
    expected = gradients(ROW_BY_ROW, FOUR_ROWS)
    for name in ("sharded", "whole"):
        assert close(load_file(two / f"{name}-gradients-0.safetensors"), expected, 1e-5)


def test_accumulating_whole_gathers_and_sums_once_a_step(two: Path):
    """Two blocks and the rest are sharded; there are two micro-batches, and the blocks are gathered again for the backward pass."""
    sharded, whole = (json.loads((two / f"{name}-gradients-0.json").read_text())[0] for name in ("sharded", "whole"))
    assert sharded == {"_allgather_base_": 2 * (3 + 2), "_reduce_scatter_base_": 2 * 3}
    assert whole == {"_allgather_base_": 3, "_reduce_scatter_base_": 3}


def test_training_that_accumulates_whole_takes_the_steps_of_one_process(two: Path, tmp_path: Path):
    steps = FOUR_ROWS.model_copy(update={"dropout": 0.3})
    curve, weights = run(tmp_path, steps, ROW_BY_ROW, validation=validation())
    for found, expected in zip(json.loads((two / "accumulated-0.json").read_text()), curve, strict=True):
        assert found == pytest.approx(expected, rel=2e-3, abs=1e-5)
    assert close(load_file(two / "accumulated-0.safetensors"), weights, 2e-3)


def test_training_takes_the_steps_of_one_process(two: Path, tmp_path: Path):
    student, objective = distilled()
    curve, weights = run(tmp_path, runtime=ROW_BY_ROW, model=student, objective=objective)
    for found, expected in zip(json.loads((two / "whole-0.json").read_text()), curve, strict=True):
        assert found == pytest.approx(expected, rel=2e-3, abs=1e-5)
    assert close(load_file(two / "whole-0.safetensors"), weights, 2e-3)


def test_one_process_goes_on_from_a_checkpoint_of_two(two: Path, tmp_path: Path):
    assert sorted(path.name for path in (two / "cut").iterdir()) == ["step-00000002", "step-00000004"]
    done: list[int] = []
    curve, weights = run(two / "cut", on_step=done.append)
    whole_curve, whole = run(tmp_path)
    assert done == [5, 6, 7, 8, 9]
    assert [r["loss"] for r in curve] == pytest.approx([r["loss"] for r in whole_curve], rel=2e-3)
    assert close(weights, whole, 2e-3)


def test_a_loss_that_breaks_in_one_process_sends_both_back(two: Path, tmp_path: Path):
    curve, weights = run(tmp_path, objective=BreaksOn(3))
    found = json.loads((two / "broken-0.json").read_text())
    assert [r["batches_left_out"] for r in found] == [r["batches_left_out"] for r in curve] == [0] * 3 + [1] * 6
    assert close(load_file(two / "broken-0.safetensors"), weights, 2e-3)


def test_a_batch_that_cannot_be_shared_equally_is_refused(monkeypatch):
    monkeypatch.setattr(processes, "process_count", lambda: 3)
    with pytest.raises(TrainingError, match="2 rows cannot be shared equally by 3 processes"):
        processes.own_share(2)


def test_dropout_and_validation_are_those_of_one_process(two: Path, tmp_path: Path):
    curve, weights = run(tmp_path, DROPPED, ROW_BY_ROW, validation=validation())
    for found, expected in zip(json.loads((two / "checked-0.json").read_text()), curve, strict=True):
        assert found == pytest.approx(expected, rel=2e-3, abs=1e-5)
    assert close(load_file(two / "checked-0.safetensors"), weights, 2e-3)

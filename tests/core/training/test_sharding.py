"""Shards within machines: two processes of one machine, and two machines of two, compute what one process does (gloo, CPU).

The teacher's weights are gathered as they were, so what is shown does not change by a bit; gradients are summed in another order, which
is 1e-5 of them (tests/core/training/test_processes.py).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.core.training.test_processes import close
from tests.fixtures.training import FOUR_ROWS, distilled, run
from tests.fixtures.two_machines import KINDS, MICRO, numbers, one_step


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machines")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fixtures.two_machines", str(folder)],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def told(folder: Path, kind: str, processes: int, rank: int = 0) -> dict[str, float]:
    return json.loads((folder / f"{kind}-{processes}-{rank}.json").read_text())[0]


TERMS = ("loss", "language_model", "hidden", "attention")


@pytest.mark.parametrize("processes", [2, 4])
def test_a_teacher_in_shards_shows_what_a_whole_one_does_to_the_bit(machines: Path, processes: int):
    whole, shared = (told(machines, kind, processes) for kind in ("whole", "shared"))
    assert [shared[term] for term in TERMS] == [whole[term] for term in TERMS]
    gradients = [load_file(machines / f"{kind}-{processes}-0.safetensors") for kind in ("whole", "shared")]
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_one_process(machines: Path, kind: str, processes: int):
    expected, gradients = one_step(MICRO)
    found = told(machines, kind, processes)
    assert [found[term] for term in TERMS] == pytest.approx([expected[term] for term in TERMS], rel=1e-5)
    assert close(load_file(machines / f"{kind}-{processes}-0.safetensors"), gradients, 1e-5)


@pytest.mark.parametrize("processes", [2, 4])
def test_a_process_holds_its_machines_share_of_the_teachers_blocks_and_the_rest_whole(machines: Path, processes: int):
    teacher = distilled()[1].teacher
    assert teacher
    blocks = numbers(teacher.model.layers)
    for rank in range(processes):
        assert told(machines, "whole", processes, rank)["teacher"] == numbers(teacher)
        assert told(machines, "shared", processes, rank)["teacher"] == numbers(teacher) - blocks // 2


def test_a_trained_model_is_shared_by_all_processes_or_by_those_of_a_machine(machines: Path):
    student = numbers(distilled()[0])
    held = {kind: [told(machines, kind, 4, rank)["student"] for rank in range(4)] for kind in ("whole", "hybrid")}
    assert held == {"whole": [student // 4] * 4, "hybrid": [student // 2] * 4}


def test_one_process_goes_on_from_a_checkpoint_of_two_machines(machines: Path, tmp_path: Path):
    done: list[int] = []
    _, weights = run(machines / "cut", FOUR_ROWS, on_step=done.append)
    assert done[0] == 3
    assert close(weights, run(tmp_path, FOUR_ROWS)[1], 2e-3)

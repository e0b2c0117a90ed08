"""A training checkpoint and every way to lose it: death at each change of the disk, cut and flipped files, a disk that loses writes."""

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from tests.fixtures.faults import Died
from tests.fixtures.training import Stop, run, stop_at
from tinywave_core.errors import StoreError
from tinywave_core.training import checkpoint
from tinywave_core.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint

# Every call by which a checkpoint changes the disk; a write dies with half of it done.
CHANGES = (
    (os, "mkdir"),
    (os, "rename"),
    (os, "unlink"),
    (os, "rmdir"),
    (os, "fsync"),
    (checkpoint, "save_file"),
    (Path, "write_text"),
    (Path, "write_bytes"),
)


@contextmanager
def dying_at(change: int) -> Iterator[list[str]]:
    """Die in change number `change`, counted from 0; the names of the changes until then."""
    seen: list[str] = []

    def counted(name: str, call: Any) -> Any:
        def change_or_die(*arguments: Any, **options: Any) -> Any:
            if len(seen) < change:
                seen.append(name)
                return call(*arguments, **options)
            if len(seen) == change and name.startswith(("save", "write")):
                call(*arguments, **options)
                path = next(Path(a) for a in arguments if isinstance(a, Path))
                os.truncate(path, path.stat().st_size // 2)
            seen.append(name)  # after death nothing is changed any more
            raise Died

        return change_or_die

    with patch.multiple(checkpoint, save_file=counted("save_file", checkpoint.save_file)):
        patches = [patch.object(o, n, counted(n, getattr(o, n))) for o, n in CHANGES if o is not checkpoint]
        for each in patches:
            each.start()
        try:
            yield seen
        finally:
            for each in patches:
                each.stop()


def saved(folder: Path, step: int) -> None:
    weight, optimizer = model(float(step))
    save_checkpoint(folder, TrainingState(step, [{"loss": 1.0 / step}] * step, []), {"weight": weight}, optimizer)


def model(value: float) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    weight = torch.nn.Parameter(torch.full((64,), value))
    optimizer = torch.optim.AdamW([weight], lr=0.0, weight_decay=0.0)
    (weight * value).sum().backward()
    optimizer.step()
    return weight, optimizer


def loaded(folder: Path) -> int:
    """The step that training would go on from, all of whose parts are of that step; 0 from the start."""
    weight, optimizer = model(0.0)
    state = load_checkpoint(folder, {"weight": weight}, optimizer)
    if state is None:
        return 0
    assert torch.equal(weight.detach(), torch.full((64,), float(state.step)))
    assert torch.allclose(
        optimizer.state[weight]["exp_avg"], torch.full((64,), 0.1 * state.step)
    )  # (1 - 0.9) * gradient
    assert state.curves == [{"loss": 1.0 / state.step}] * state.step
    return state.step


def test_death_at_every_change_of_a_checkpoint_leaves_it_or_the_one_before(tmp_path: Path):
    names: list[str] = []
    for change in range(1000):
        folder = tmp_path / str(change)
        for step in (1, 2):
            saved(folder, step)
        try:
            with dying_at(change) as names:
                saved(folder, 3)
        except Died:
            assert loaded(folder) == (3 if "rename" in names[:change] else 2), names
            saved(folder, 3)  # the run after it
            assert loaded(folder) == 3
        else:
            break
    assert len(names) == change
    assert {"mkdir", "save_file", "write_text", "write_bytes", "fsync", "rename", "unlink", "rmdir"} <= set(names)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "curves.json", "state.json"])
def test_a_newest_checkpoint_that_is_cut_or_has_a_flipped_bit_is_passed_over(tmp_path: Path, name: str):
    for step in (1, 2, 3):
        saved(tmp_path, step)
    path, draw = tmp_path / "step-00000003" / name, random.Random(name)
    data = path.read_bytes()
    for length in (0, 1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert loaded(tmp_path) == 2
    for bit in draw.sample(range(8 * len(data)), 30):
        path.write_bytes(data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :])
        assert loaded(tmp_path) == 2
    path.unlink()
    assert loaded(tmp_path) == 2
    path.write_bytes(data)
    assert loaded(tmp_path) == 3


def test_older_checkpoints_stay_when_the_new_one_does_not_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for step in (1, 2):
        saved(tmp_path, step)
    rename = os.rename

    def losing(source: Path, target: Path) -> None:
        """A disk that said that it had written."""
        rename(source, target)
        os.truncate(target / "model.safetensors", 100)

    monkeypatch.setattr(os, "rename", losing)
    for step in (3, 4, 5):
        with pytest.raises(StoreError, match=f"step-0000000{step} does not read back .*older ones are kept"):
            saved(tmp_path, step)
        assert loaded(tmp_path) == 2


class Disk:
    """A disk that waits before it writes the weights of one checkpoint, or fails at them."""

    def __init__(self, at: int, monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
        self.goes_on, self.waited = threading.Event(), False
        save = checkpoint.save_file

        def slow(tensors: dict[str, torch.Tensor], path: Path) -> None:
            if path.parent.name == f".writing-{at:08d}" and path.name == "model.safetensors":
                if error:
                    raise error
                self.waited = self.goes_on.wait(60)
            save(tensors, path)

        monkeypatch.setattr(checkpoint, "save_file", slow)


def test_training_goes_on_while_a_checkpoint_of_that_moment_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    curve, weights = run(tmp_path / "whole")
    disk = Disk(2, monkeypatch)

    def step_3_while_step_2_is_written(done: int) -> None:
        if done == 3:
            assert not (tmp_path / "cut" / "step-00000002").exists()
            disk.goes_on.set()
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path / "cut", on_step=step_3_while_step_2_is_written)
    assert disk.waited and (tmp_path / "cut" / "step-00000002").exists(), "the run ends with its checkpoint whole"
    steps: list[int] = []
    resumed_curve, resumed = run(tmp_path / "cut", on_step=steps.append)
    assert steps[0] == 3 and resumed_curve == curve
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


@pytest.mark.parametrize(("at", "last"), [(0, 1), (4, 5), (8, 9)])
def test_a_checkpoint_that_cannot_be_written_stops_the_run_at_the_next_one_or_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, last: int
):
    curve, _ = run(tmp_path / "whole")
    steps: list[int] = []
    with monkeypatch.context() as patched:
        Disk(at, patched, OSError(28, "No space left on device"))
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path / "cut", on_step=steps.append)
    assert last <= steps[-1] <= at + 2
    assert [path.name for path in sorted((tmp_path / "cut").glob("step-*"))][-1:] == (
        [f"step-{at - 2:08d}"] if at else []
    )
    assert run(tmp_path / "cut")[0] == curve


def test_an_error_of_the_training_is_told_before_that_of_the_checkpoint_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    Disk(2, monkeypatch, OSError(28, "No space left on device"))
    with pytest.raises(Stop) as told:
        run(tmp_path, on_step=stop_at(3))
    assert "written then failed too: [Errno 28] No space left" in told.value.__notes__[0]

"""Curves in MLflow's file store and in offline runs of Weights & Biases while a model trains: each step once, and no harm to a training."""

import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from mlflow.tracking import MlflowClient
from pydantic import ValidationError

from tests.fixtures.summaries import Anything
from tests.fixtures.training import CONFIG, Stop, run, stop_at
from tests.fixtures.wandb_files import records_of, row_of
from tinywave_core import live
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.steps.base import Output, Step, compute
from tinywave_core.storage.shards import write_table
from tinywave_core.storage.store import Artifact, Store
from tinywave_core.tracking.follow import Follower, follow
from tinywave_core.tracking.mlflow_runs import MlflowLive
from tinywave_core.tracking.points import Training, points_of

ID = "distillation/0123456789abcdef0123456789abcdef"
TRAINING = Training(ID, "student", {"distillation.layers": "2"})


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_MODE": "offline", "MLFLOW_ALLOW_FILE_STORE": "true"}.items():
        monkeypatch.setenv(name, value)


def checkpoint(resume: Path, steps: int, **others: float) -> None:
    """What the trainer writes of a curve: all steps so far, in a folder that has its name when it is whole."""
    folder = resume / f"step-{steps:08d}"
    folder.mkdir(parents=True)
    (folder / "curves.json").write_text(json.dumps(curve(steps, **others)))


def curve(steps: int, **others: float) -> list[dict[str, float]]:
    return [{"step": step, "loss": 1 / step, **others} for step in range(1, steps + 1)]


def followed(resume: Path, places: dict[str, str], whole: Path | None = None) -> list[str]:
    """The process's own function, with lines as it gets them; what it could not do."""
    about = {"id": ID, "part": "student", "settings": {"layers": 2}, "resume": str(resume), "places": places}
    lines = [about, *([{"curve": str(whole)}] if whole else [])]
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as end:
        end.write("".join(json.dumps(line) + "\n" for line in lines))
    told: list[str] = []
    with os.fdopen(reading) as start:
        follow(start, told.append)
    return told


def runs_of(place: Path) -> tuple[MlflowClient, list[Any]]:
    client = MlflowClient(place.as_uri())
    return client, client.search_runs([client.get_experiment_by_name("tinywave").experiment_id])


def history(place: Path, name: str = "student/loss") -> list[tuple[int, float]]:
    """Step and value of all points of the one run that is there, in the order in which they came."""
    client, (found,) = runs_of(place)
    return [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, name)]


def losses(rows: list[dict[str, float]]) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in rows]


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[[list[dict[str, float]]], Path]:
    def write(rows: list[dict[str, float]]) -> Path:
        write_table(pa.Table.from_pylist(rows), tmp_path / "curves.parquet")
        return tmp_path / "curves.parquet"

    return write


def test_a_training_that_goes_on_goes_on_in_its_run_of_mlflow_with_each_step_once(tmp_path: Path, parquet: Callable):
    resume, runs = tmp_path / "resume", tmp_path / "runs"
    with pytest.raises(Stop):
        run(resume, on_step=stop_at(5))  # checkpoints after steps 2 and 4
    assert followed(resume, {"mlflow": str(runs)}) == []
    before = history(runs)
    _, (stopped,) = runs_of(runs)
    assert [step for step, _ in before] == [1, 2, 3, 4] and stopped.info.status == "KILLED"
    whole, _ = run(resume)
    assert followed(resume, {"mlflow": str(runs)}, parquet(whole)) == []
    _, (done,) = runs_of(runs)
    assert history(runs) == losses(whole) and before == losses(whole)[:4]
    assert len(history(runs, "student/gradient_norm")) == CONFIG.steps
    assert (done.info.run_id, done.info.status) == (stopped.info.run_id, "FINISHED")
    assert done.data.tags["tinywave.training"] == ID and done.info.run_name == "student 01234567"
    assert done.data.params == {"distillation.layers": "2"}


def test_points_come_with_each_checkpoint_and_none_comes_again(tmp_path: Path):
    resume, runs = tmp_path / "resume", tmp_path / "runs"
    follower = Follower(TRAINING, resume, {"mlflow": str(runs)}, {"mlflow": MlflowLive}, pytest.fail)
    follower.look()  # before the first checkpoint
    checkpoint(resume, 0)
    for steps in (2, 5):
        checkpoint(resume, steps, validation=3.0)
        follower.look()
        follower.look()
        assert history(runs) == losses(curve(steps))
    _, (found,) = runs_of(runs)
    assert found.info.status == "RUNNING" and len(history(runs, "student/validation")) == 5


def test_another_training_has_another_run(tmp_path: Path):
    for fingerprint in ("a" * 32, "b" * 32):
        tracked = MlflowLive(Training(f"distillation/{fingerprint}", "control", {}), str(tmp_path))
        tracked.add(points_of(curve(1)), 0)
    _, found = runs_of(tmp_path)
    assert len(found) == 2


def test_a_tracker_that_breaks_in_between_is_told_once_and_gets_what_it_missed(tmp_path: Path, monkeypatch):
    resume, runs, told = tmp_path / "resume", tmp_path / "runs", []
    follower = Follower(TRAINING, resume, {"mlflow": str(runs)}, {"mlflow": MlflowLive}, told.append)
    whole = MlflowClient.log_batch

    def half(client: MlflowClient, run_id: str, metrics: Any = (), **others: Any) -> None:
        whole(client, run_id, metrics=metrics[: len(metrics) // 2], **others)
        if metrics:
            raise OSError("the disk is full\nand more")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", half)
        for steps in (3, 4):
            checkpoint(resume, steps, gradient_norm=1.0)
            follower.look()
    assert told == ["mlflow did not take it (OSError: the disk is full)"]
    checkpoint(resume, 6, gradient_norm=1.0)
    follower.look()
    assert history(runs) == losses(curve(6)) and len(told) == 1
    assert [step for step, _ in history(runs, "student/gradient_norm")] == [1, 2, 3, 4, 5, 6]


def test_a_training_that_goes_on_goes_on_after_its_last_step_in_wandb(tmp_path: Path, parquet: Callable):
    resume, runs = tmp_path / "resume", tmp_path / "runs"
    before = runs / "wandb" / f"offline-run-20260101_000000-{ID[-32:]}"  # of the same training; it got to step 2
    before.mkdir(parents=True)
    (before / "tinywave-last-step").write_text("2")
    checkpoint(resume, 3)
    assert followed(resume, {"wandb": str(runs)}, parquet(curve(5))) == []
    _, made = sorted(runs.glob("wandb/offline-run-*"))
    assert made.name.endswith(ID[-32:]) and (made / "tinywave-last-step").read_text() == "5"
    records = records_of(next(made.glob("*.wandb")))
    rows = [row_of(record) for record in records if record.WhichOneof("record_type") == "history"]
    assert [(row["student/step"], row["student/loss"]) for row in rows] == losses(curve(5))[2:]
    assert [row["_step"] for row in rows] == [3, 4, 5]  # where both are synced, the second follows the first


# A training with the process beside it ---------------------------------------------------------------------------------


def trained(root: Path, **runtime: Any) -> Artifact:
    """A real training as a step of a store."""

    def work(step: Step, output: Output) -> Anything:
        rows, _ = run(output.resume, runtime=output.runtime)
        write_table(pa.Table.from_pylist(rows), output.folder / "curves.parquet")
        return Anything(steps=len(rows))

    settings = RuntimeConfig(device="cpu", threads=1, checkpoint_every=2, **runtime)
    return compute(Step(Store(str(root)), "distillation", "student", 1, work, CONFIG, runtime=settings))


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "follow" in " ".join(child.cmdline())]


def test_a_training_with_live_curves_is_the_training_without(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    runs = tmp_path / "runs"
    watched = trained(tmp_path / "a", mlflow_to=str(runs), track_live=True)
    alone = trained(tmp_path / "b")
    assert watched.files == alone.files and watched.id == alone.id
    rows, _ = run(tmp_path / "c")
    assert history(runs) == losses(rows)
    _, (found,) = runs_of(runs)
    assert (found.info.status, found.data.params["distillation.steps"]) == ("FINISHED", str(CONFIG.steps))
    assert found.data.tags["tinywave.training"] == watched.id and not caplog.records and not children()


def test_a_tracker_that_cannot_be_used_costs_one_warning_and_no_training(tmp_path: Path, caplog, monkeypatch):
    monkeypatch.setattr(live, "LOOK_S", 0.01)  # at the first checkpoint, and at those that come after it
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        made = trained(tmp_path / "store", wandb_to=str(tmp_path / "file" / "runs"), track_live=True)
    assert made.complete and made.summary["steps"] == CONFIG.steps
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        f"the curve of student ({made.id}) is not whole in a tracker: wandb did not take it (NotADirect"
    )
    assert "The training goes on" in said and not children()


def test_a_server_that_never_answers_does_not_hold_a_training_up(tmp_path: Path, caplog, monkeypatch):
    monkeypatch.setattr(live, "END_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, caplog.at_level(logging.WARNING):
        place = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert trained(tmp_path / "store", mlflow_to=place, track_live=True).complete
    (said,) = [record.getMessage() for record in caplog.records]
    assert "a tracker had not taken all of it when the training ended" in said and not children()


def test_a_training_that_fails_is_told_as_ever(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(live, "STOP_S", 0.05)
    with (
        pytest.raises(Stop),
        live.live_curves(RuntimeConfig(mlflow_to="runs", track_live=True), ID, "student", {}, tmp_path, tmp_path),
    ):
        raise Stop
    assert not [thread for thread in threading.enumerate() if thread.name == "live-curves"] and not children()


def test_nothing_is_started_unless_it_is_asked_for(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(live, "_Beside", pytest.fail)
    assert trained(tmp_path / "store", mlflow_to=str(tmp_path / "runs")).complete and not (tmp_path / "runs").exists()


def test_live_curves_need_a_tracker_and_leave_written_settings_as_they_were():
    with pytest.raises(ValidationError, match="track_live is set, but there is no tracker: set mlflow_to or wandb_to"):
        RuntimeConfig(track_live=True)
    assert "track_live" not in RuntimeConfig(mlflow_to="runs").model_dump()

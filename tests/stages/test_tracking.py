"""A finished run in MLflow's file store and in an offline run of Weights & Biases, by their own clients: settings, curves, files, ids."""

import json
import os
import sys
import warnings
from pathlib import Path

import pytest

from flows.cli import main
from tests.conftest import Finished
from tests.fixtures.tiny import copy_store
from tests.fixtures.wandb_files import records_of, row_of
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import SurroundingError
from tinywave_core.reporting.run import finish_run
from tinywave_core.run.preflight import check_run
from tinywave_core.run.promotion import promote
from tinywave_core.run.record import RunRecord
from tinywave_core.steps.base import compute_all
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Store
from tinywave_core.tracking import mlflow_runs, wandb_runs
from tinywave_core.tracking.base import record_of, tracked_run
from tinywave_core.tracking.handing import hand_over

PARTS = ("teacher", "student", "control")


@pytest.fixture(scope="module")
def kept(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the finished run, with its record."""
    config = copy_store(finished.config, tmp_path_factory.mktemp("tracked") / "store")
    store = Store(config.root)
    promotion = promote(config, store, finished.outputs, compute_all)
    finish_run(store, config, [], finished.outputs, promotion, 1.0)
    return store


@pytest.fixture(scope="module")
def record(kept: Store) -> RunRecord:
    return record_of(kept, None)


@pytest.fixture(scope="module")
def losses(finished: Finished) -> dict[str, list[tuple[int, float]]]:
    """Step and loss of each part, as its artifact has them."""
    tables = {part: read_table(finished.outputs[part].path("curves.parquet")).to_pylist() for part in PARTS}
    return {part: [(row["step"], row["loss"]) for row in rows] for part, rows in tables.items()}


def test_mlflow_has_all_of_a_run_once(finished: Finished, kept: Store, record: RunRecord, losses, tmp_path: Path):
    from mlflow.tracking import MlflowClient

    with warnings.catch_warnings(), tracked_run(kept, record) as run:
        warnings.simplefilter("ignore")  # MLflow's own, about its file store
        said = mlflow_runs.write(run, str(tmp_path / "runs"))
        again = mlflow_runs.write(run, str(tmp_path / "runs"))
        client = MlflowClient((tmp_path / "runs").as_uri())
        (found,) = client.search_runs([client.get_experiment_by_name("tinywave").experiment_id])
        assert found.info.run_id in said and "already" in again and found.info.status == "FINISHED"
        assert found.data.params["distillation.layers"] == str(finished.config.distillation.layers)
        assert found.data.params["adaptation.training.steps"] == str(finished.config.adaptation.training.steps)
        for part in PARTS:
            history = client.get_metric_history(found.info.run_id, f"{part}/loss")
            assert sorted((point.step, point.value) for point in history) == losses[part]
        tags = {part: found.data.tags[f"tinywave.artifact.{part}"] for part in finished.outputs}
        assert tags == {part: artifact.id for part, artifact in finished.outputs.items()}
        folder = Path(client.download_artifacts(found.info.run_id, "", str(tmp_path)))
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    card = finished.outputs["model"].path("model") / "README.md"
    assert (folder / "MODEL_CARD.md").read_bytes() == card.read_bytes()


def test_a_half_written_run_of_mlflow_is_replaced(
    finished: Finished, kept: Store, record: RunRecord, tmp_path: Path, monkeypatch
):
    from mlflow.tracking import MlflowClient

    place = str(tmp_path / "runs")
    with warnings.catch_warnings(), tracked_run(kept, record) as run:
        warnings.simplefilter("ignore")
        with monkeypatch.context() as broken:
            broken.setattr(MlflowClient, "log_artifact", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
            with pytest.raises(OSError, match="full"):
                mlflow_runs.write(run, place)
        assert "already" not in mlflow_runs.write(run, place)
        client = MlflowClient((tmp_path / "runs").as_uri())
        runs = client.search_runs([client.get_experiment_by_name("tinywave").experiment_id])
    assert [each.info.status for each in runs] == ["FINISHED"]


def test_an_offline_run_of_wandb_has_all_of_a_run_and_nothing_of_the_machine(
    finished: Finished, kept: Store, record: RunRecord, losses, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with tracked_run(kept, record) as run:
        said = wandb_runs.write(run, str(tmp_path))
        again = wandb_runs.write(run, str(tmp_path))
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert str(folder) in said and "(offline)" in said and "already" in again
    records = records_of(next(folder.glob("*.wandb")))
    config = {
        u.key: json.loads(u.value_json) for r in records for u in (*r.run.config.update, *r.config.update) if u.key
    }
    assert config["distillation.layers"] == str(finished.config.distillation.layers)
    assert config["lineage"] == {part: artifact.id for part, artifact in finished.outputs.items()}
    rows = [row_of(record) for record in records if record.WhichOneof("record_type") == "history"]
    for part in PARTS:
        curve = [(row[f"{part}/step"], row[f"{part}/loss"]) for row in rows if f"{part}/loss" in row]
        assert [step for step, _ in curve] == [step for step, _ in losses[part]]
        assert [loss for _, loss in curve] == pytest.approx([loss for _, loss in losses[part]], rel=1e-6)
    (artifact,) = [r.request.log_artifact.artifact for r in records if r.request.log_artifact.artifact.name] or [
        r.artifact for r in records if r.WhichOneof("record_type") == "artifact"
    ]
    assert {entry.path for entry in artifact.manifest.contents} == {"report.html", "MODEL_CARD.md"}
    summary = {u.key: u.value_json for r in records for u in r.summary.update}
    assert "student.nll" in summary
    assert not [r for r in records if r.WhichOneof("record_type") in ("stats", "output", "output_raw")]


def test_a_tracker_that_fails_is_said_with_the_way_back_and_ends_nothing(
    finished: Finished, kept: Store, record: RunRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("no folder")
    place = str(tmp_path / "file" / "runs")
    (said,) = hand_over(kept, record, RuntimeConfig(wandb_to=place))
    assert said.startswith("wandb has nothing of run 1 (NotADirectoryError")
    assert said.endswith(f"`tinywave track --root {kept.url} --wandb {place}` hands it over")
    assert main(["track", "--root", kept.root, "--wandb", str(tmp_path / "runs"), "--run", "2"]) == 2
    assert "has no run 2; its runs are 1 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "/runs"])
@pytest.mark.parametrize("extra", ["mlflow", "wandb"])
def test_a_file_in_place_of_a_trackers_folder_is_refused_before_anything_is_written(
    extra: str, below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("no folder")
    assert main(["track", "--root", str(tmp_path), f"--{extra}", f"{tmp_path}/file{below}"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/file is a file; expected a folder" in said and said.count("\n") == 1


def test_a_server_that_is_not_there_ends_in_one_line(kept: Store, monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # ours are two, a few seconds
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert main(["track", "--root", kept.root, "--mlflow", "http://127.0.0.1:9"]) == 1
    said = capsys.readouterr().out
    assert "mlflow has nothing of run 1 (SurroundingError: no server answers at http://127.0.0.1:9)" in said
    assert said.count("\n") == 1 and os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 60


def test_a_tracker_that_is_not_installed_is_said_before_anything_starts(finished: Finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    runtime = finished.config.runtime.model_copy(update={"mlflow_to": "runs"})
    with pytest.raises(
        SurroundingError, match=r"runtime.mlflow_to needs the extra mlflow .* pip install 'tinywave\[mlflow\]'"
    ):
        check_run(finished.config.model_copy(update={"runtime": runtime}))

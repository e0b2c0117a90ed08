"""A run -> MLflow: a folder of files on this machine, a database, or a server, by MLflow's own client (the extra `mlflow`)."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinywave_core.errors import SurroundingError
from tinywave_core.tracking.points import PROJECT, Point, Training

if TYPE_CHECKING:
    from tinywave_core.tracking.base import TrackedRun

ID = "tinywave.run"
"""The tag by which a run is found again."""
TRAINING = "tinywave.training"
"""The same of a training that goes on: the id of what it makes."""
# MLflow's own limits for one request.
PARAMETERS, METRICS, LONGEST = 100, 1000, 500
DEADLINES = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""What a server may keep a request waiting for, in seconds, and how often one is sent again; MLflow's own are minutes."""


def write(run: "TrackedRun", place: str) -> str:
    """Hand a run over; a sentence that says where it is. One that is there whole is left as it is."""
    client, experiment, place = _open(place)
    for other in client.search_runs([experiment], f"tags.`{ID}` = '{run.id}'"):
        if other.info.status == "FINISHED":
            return f"MLflow has {run.name} already: {other.info.run_id} at {place}"
        client.delete_run(other.info.run_id)  # it was being handed over when something broke
    tags = {ID: run.id, **{f"tinywave.artifact.{part}": artifact for part, artifact in run.lineage.items()}}
    made = client.create_run(experiment, run.finished_ms, tags, run_name=run.name).info.run_id
    _fill(client, made, run)
    client.set_terminated(made, end_time=run.finished_ms)
    return f"MLflow has {run.name}: {made} at {place}"


class MlflowLive:
    """The run of a training that goes on; see `LiveRun`. It is found by its tag, and each metric knows its last step."""

    def __init__(self, training: Training, place: str) -> None:
        self._client, experiment, _ = _open(place)
        self._part = training.part
        found = self._client.search_runs([experiment], f"tags.`{TRAINING}` = '{training.id}'")
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            self._run = self._client.create_run(
                experiment, tags={TRAINING: training.id}, run_name=training.name
            ).info.run_id
            _log_parameters(self._client, self._run, training.parameters)
        self._last = {name: self._last_step(name) for name in (found[0].data.metrics if found else {})}

    def add(self, points: list[Point], at_ms: int) -> None:
        from mlflow.entities import Metric

        new = [
            Metric(name, value, at_ms, point.step)
            for point in points
            for name, value in _named(self._part, point)
            if point.step > self._last.get(name, -1)
        ]
        for some in _parts(new, METRICS):
            self._client.log_batch(self._run, metrics=some)
            self._last |= {metric.key: metric.step for metric in some}

    def end(self, *, is_done: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if is_done else "KILLED")

    def _last_step(self, name: str) -> int:
        return max(metric.step for metric in self._client.get_metric_history(self._run, name))


def _open(place: str) -> tuple[Any, str, str]:
    """The client, the experiment and the address of a place."""
    if "://" not in place:
        place = Path(place).expanduser().resolve().as_uri()
    if place.startswith("file:"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # from 3.7 on MLflow asks whether it is meant
    for name, value in {"MLFLOW_DISABLE_TELEMETRY": "true", **DEADLINES}.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(place)
    with _answering(place):
        found = client.get_experiment_by_name(PROJECT)
    return client, client.create_experiment(PROJECT) if found is None else found.experiment_id, place


@contextmanager
def _answering(place: str) -> Iterator[None]:
    """The first request tells whether a server is there at all: SurroundingError in one line where none answers."""
    import requests

    try:
        yield
    except Exception as error:
        cause = error.__cause__ or error.__context__  # MLflow's own says all that it tried
        if isinstance(cause, requests.ConnectionError | requests.Timeout):
            raise SurroundingError(f"no server answers at {_without_password(place)}") from error
        raise


def _without_password(place: str) -> str:
    return re.sub(r"://[^/]*@", "://", place)


def _fill(client: Any, made: str, run: "TrackedRun") -> None:
    from mlflow.entities import Metric

    _log_parameters(client, made, run.parameters)
    metrics = [Metric(name, value, run.finished_ms, 0) for name, value in run.figures.items()]
    for part, points in run.curves.items():
        metrics += [
            Metric(n, value, run.finished_ms, point.step) for point in points for n, value in _named(part, point)
        ]
    for some in _parts(metrics, METRICS):
        client.log_batch(made, metrics=some)
    for path in run.files:
        client.log_artifact(made, str(path))


def _log_parameters(client: Any, made: str, settings: dict[str, str]) -> None:
    from mlflow.entities import Param

    for some in _parts([Param(name, value[:LONGEST]) for name, value in settings.items()], PARAMETERS):
        client.log_batch(made, params=some)


def _named(part: str, point: Point) -> Iterator[tuple[str, float]]:
    """Metrics of a point by their names in a tracker."""
    return ((f"{part}/{name}", value) for name, value in point.values.items())


def _parts(entries: list[Any], size: int) -> Iterator[list[Any]]:
    return (entries[i : i + size] for i in range(0, len(entries), size))

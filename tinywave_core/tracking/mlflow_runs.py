"""A run -> MLflow: a folder of files on this machine, a database, or a server, by MLflow's own client (the extra `mlflow`)."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinywave_core.errors import SurroundingError
from tinywave_core.tracking.base import PROJECT, TrackedRun

ID = "tinywave.run"
"""The tag by which a run is found again."""
# MLflow's own limits for one request.
PARAMETERS, METRICS, LONGEST = 100, 1000, 500
DEADLINES = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""What a server may keep a request waiting for, in seconds, and how often one is sent again; MLflow's own are minutes."""


def write(run: TrackedRun, place: str) -> str:
    """Hand a run over; a sentence that says where it is. One that is there whole is left as it is."""
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
    experiment = client.create_experiment(PROJECT) if found is None else found.experiment_id
    for other in client.search_runs([experiment], f"tags.`{ID}` = '{run.id}'"):
        if other.info.status == "FINISHED":
            return f"MLflow has {run.name} already: {other.info.run_id} at {place}"
        client.delete_run(other.info.run_id)  # it was being handed over when something broke
    tags = {ID: run.id, **{f"tinywave.artifact.{part}": artifact for part, artifact in run.lineage.items()}}
    made = client.create_run(experiment, run.finished_ms, tags, run_name=run.name).info.run_id
    _fill(client, made, run)
    client.set_terminated(made, end_time=run.finished_ms)
    return f"MLflow has {run.name}: {made} at {place}"


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


def _fill(client: Any, made: str, run: TrackedRun) -> None:
    from mlflow.entities import Metric, Param

    parameters = [Param(name, value[:LONGEST]) for name, value in run.parameters.items()]
    metrics = [Metric(name, value, run.finished_ms, 0) for name, value in run.figures.items()]
    for part, points in run.curves.items():
        for point in points:
            metrics += [Metric(f"{part}/{n}", value, run.finished_ms, point.step) for n, value in point.values.items()]
    for some in _parts(parameters, PARAMETERS):
        client.log_batch(made, params=some)
    for some in _parts(metrics, METRICS):
        client.log_batch(made, metrics=some)
    for path in run.files:
        client.log_artifact(made, str(path))


def _parts(entries: list[Any], size: int) -> Iterator[list[Any]]:
    return (entries[i : i + size] for i in range(0, len(entries), size))

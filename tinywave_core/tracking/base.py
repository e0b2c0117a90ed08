"""A finished run of a store -> what trackers of experiments show: settings, figures, curves, files, and the ids of its artifacts.

Curves are those that the artifacts hold, so that a run can be handed over long after it was made, and again; a training that goes on
is a run of its own (follow.py). See infra/decisions/0056-a-small-install.md.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tinywave_core.errors import MissingInputError
from tinywave_core.run.record import RunRecord
from tinywave_core.stages.evaluation.summary import ScoresSummary
from tinywave_core.steps.runs import RUNS
from tinywave_core.storage.schemas import CURVES_FILE
from tinywave_core.storage.store import Store
from tinywave_core.tracking.points import Point, curve_of, flat


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker gets."""

    id: str
    """16 hex digits, the same whenever the run is handed over."""
    name: str
    finished_ms: int
    """Since 1970, in milliseconds."""
    parameters: dict[str, str]
    """All settings, by dotted key."""
    figures: dict[str, float]
    """Of evaluation, such as `student.nll`, and seconds by stage."""
    curves: dict[str, list[Point]]
    """By part: teacher, student, control, vocoder."""
    lineage: dict[str, str]
    """Artifact id by part."""
    files: list[Path]
    """The report and the model card; there while the run is handed over."""


def record_of(store: Store, number: int | None) -> RunRecord:
    """A run by its number, by default the last one."""
    records = store.log(RUNS).records()
    if not records:
        raise MissingInputError(f"{store.url} has no finished run: `tinywave run` makes one")
    if number is not None and not 1 <= number <= len(records):
        raise MissingInputError(f"{store.url} has no run {number}; its runs are 1 to {len(records)}")
    at = len(records) if number is None else number
    return RunRecord.model_validate(records[at - 1] | {"number": at})


@contextmanager
def tracked_run(store: Store, record: RunRecord) -> Iterator[TrackedRun]:
    """The run, with its files on this machine."""
    found = {part: store.find(artifact, part) for part, artifact in record.outputs.items()}
    figures = {f"seconds.{row.stage}": row.seconds for row in record.rows}
    if "scores" in found:
        for model, scores in ScoresSummary.of(found["scores"]).models.items():
            figures[f"{model}.nll"] = scores.nll
            figures[f"{model}.parameters"] = scores.parameters
    with tempfile.TemporaryDirectory(prefix="tinywave-track-") as folder:
        report = Path(folder) / "report.html"
        report.write_bytes(store.read(f"reports/{record.report.rpartition('/')[2]}"))
        card = Path(folder) / "MODEL_CARD.md"
        card.write_bytes((found["model"].path("model") / "README.md").read_bytes())
        yield TrackedRun(
            hashlib.sha256(f"{record.finished_at} {record.report_sha256}".encode()).hexdigest()[:16],
            f"run {record.number}",
            round(datetime.fromisoformat(record.finished_at).timestamp() * 1000),
            dict(flat(record.config)),
            figures,
            {
                part: curve_of(artifact.path(CURVES_FILE))
                for part, artifact in found.items()
                if CURVES_FILE in artifact.files
            },
            record.outputs,
            [report, card],
        )

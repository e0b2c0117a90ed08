"""What one stage did in a run, in a line a person can read: what came in, what came out, seconds, cached or why not."""

from typing import Any

from pydantic import BaseModel

from tinywave_core.run.promotion import Promotion
from tinywave_core.run.stages import STAGE
from tinywave_core.steps.base import Outputs, Step
from tinywave_core.steps.reasons import Reason
from tinywave_core.storage.store import Artifact


class StepRow(BaseModel):
    """One step of a stage in this run."""

    part: str
    """What it makes: `corpus`, `tokens`, `student` …"""
    artifact: str
    """Id of what it made."""
    cached: bool
    """Whether that was in the store already."""
    why: str
    """Why it ran, or why not."""
    seconds: float
    """Of work in this run; 0 where it was cached."""
    bytes: int
    """Of its files."""


class StageRow(BaseModel):
    """One stage of a run."""

    stage: str
    """Its name."""
    came_in: str
    """What it worked on, in words."""
    came_out: str
    """What it made, in words."""
    seconds: float
    """Wall time of the stage in this run, orchestration included."""
    steps: list[StepRow]
    """Its steps in their order."""
    notes: list[str] = []
    """What was said of its input: of ingestion, what is left out of the source."""

    @property
    def computed(self) -> int:
        """How many of its steps ran."""
        return sum(not step.cached for step in self.steps)

    @property
    def status(self) -> str:
        """`cached`, `run`, or how many of its steps ran."""
        if not self.computed:
            return "cached"
        return "run" if self.computed == len(self.steps) else f"{self.computed} of {len(self.steps)} run"

    @property
    def why(self) -> str:
        """The reason that counts: of the first step that ran, else of pinning, else of caching."""
        ran = [step.why for step in self.steps if not step.cached]
        pinned = [step.why for step in self.steps if step.why.startswith("pinned")]
        return (ran or pinned or [step.why for step in self.steps] or ["nothing to do"])[0]

    def line(self) -> str:
        """For a terminal."""
        return f"  {self.stage:<14} {self.status:<12} {self.seconds:6.1f} s  {self.came_in} → {self.came_out}  ({self.why})"


def stage_row(stage: str, outputs: Outputs, runs: list[tuple[Step, Reason, Artifact]], seconds: float) -> StageRow:
    """The row of a stage from its steps and all outputs so far."""
    came_in, came_out = STAGE[stage].describe(outputs)
    steps = [
        StepRow(
            part=step.part,
            artifact=artifact.id,
            cached=reason.cached,
            why=reason.why,
            seconds=artifact.manifest.seconds if artifact.manifest and not reason.cached else 0.0,
            bytes=artifact.manifest.total_bytes if artifact.manifest else 0,
        )
        for step, reason, artifact in runs
    ]
    return StageRow(stage=stage, came_in=came_in, came_out=came_out, seconds=seconds, steps=steps)


class RunRecord(BaseModel):
    """One run of the pipeline; kept as runs/NNNNNN.json."""

    number: int = 0
    """Of the run in its store, from 1."""
    finished_at: str
    """UTC, ISO 8601."""
    seconds: float
    """Wall time."""
    config: dict[str, Any]
    """All settings, by group."""
    rows: list[StageRow]
    """What each stage did."""
    outputs: dict[str, str]
    """Artifact id by part."""
    artifacts: dict[str, list[str]]
    """All artifact ids used, by "stage/part"."""
    used_by: dict[str, list[str]] = {}
    """By "stage/part", which of them were made from it."""
    student: str
    """Where the exported student lies."""
    samples: list[str]
    """Where the generated wav files lie."""
    promotion: Promotion
    """Whether its student is published, and why."""
    report: str = ""
    """Where the HTML report lies."""
    report_sha256: str = ""
    """Of the report's bytes."""
    tracked: list[str] = []
    """What became of it at the trackers of the settings, in sentences; empty in the kept record."""

"""A step: one output of a stage as plain data, and how it is made once and kept.

A stage's modules have `VERSION`, `run_…(step, output) -> Summary` functions that do the work, and one
`build(config, …, execute) -> Artifact` that says which steps the stage consists of. `execute` is passed in: here it
computes (`compute`), in `tasks` it goes through Prefect, in `run/pipeline` it may only look. So the DAG is written once.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import NoMemoryError, SchemaVersionError, is_lack_of_memory
from tinywave_core.live import live_curves
from tinywave_core.progress import Progress, no_progress
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.store import (
    STORE_VERSION,
    Artifact,
    Manifest,
    Store,
    describe_files,
    utc_now,
)
from tinywave_core.storage.uploads import UploadedCheckpoints


class Summary(BaseModel):
    """Numbers that a step reports, for its manifest, later stages and pages: a frozen model per part, beside its stage.

    Fields that are not set are not written, so that an optional figure is absent, not null.
    """

    # A field too many tells as much as one too few: another version of TinyWave made the artifact.
    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        """The summary of an artifact; NotYetComputedError while it is only planned, SchemaVersionError where it is another one."""
        try:
            return cls.model_validate(artifact.summary)
        except ValidationError as error:
            wrong = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors()[:3])
            raise SchemaVersionError(
                f"{artifact.id} ({artifact.part}) does not report what this TinyWave expects ({error.error_count()} fields, such as {wrong}): "
                "another version of TinyWave made it; use that one, or another --root"
            ) from error


C = TypeVar("C", bound=BaseModel)
S = TypeVar("S", bound=Summary)
Inputs = dict[str, list[Artifact]]


@dataclass(frozen=True)
class Output:
    """Where a step writes. `folder` becomes the artifact; `resume` survives a crash and is deleted at the end."""

    folder: Path
    resume: Path
    runtime: RuntimeConfig
    progress: Progress = no_progress
    uploads: UploadedCheckpoints | None = None
    """Where checkpoints of training go beside `resume`; None where the store is local."""


@dataclass(frozen=True)
class Step(Generic[C, S]):
    """One output of a stage. `config`, `params` and `inputs` identify it; `context`, `runtime` and `hours` never do."""

    store: Store = field(repr=False)
    stage: str
    part: str
    version: int
    run: Callable[["Step[C, S]", Output], S] = field(repr=False)
    config: C = field(repr=False)
    inputs: Inputs = field(default_factory=dict, repr=False)
    params: dict[str, Any] = field(default_factory=dict, repr=False)
    context: dict[str, Any] = field(default_factory=dict, repr=False)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig, repr=False)
    hours: float = field(default=0.0, repr=False)
    """Hours of speech that the step works through, for progress over many shards; 0 where that says nothing."""

    @cached_property
    def fingerprint(self) -> str:
        # `runtime` is not in it: threads and workers change how long a step takes, never its bytes. The source code is not either, or
        # a comment would cost a training run: `version` is raised by hand.
        return fingerprint(
            {
                "stage": self.stage,
                "part": self.part,
                "version": self.version,
                "config": self.config,
                "params": self.params,
                # Ids are enough: each is the fingerprint of all that the input was made from.
                "inputs": {name: [a.id for a in artifacts] for name, artifacts in self.inputs.items()},
            }
        )

    @property
    def id(self) -> str:
        return f"{self.stage}/{self.fingerprint}"

    def find(self) -> Artifact:
        """The artifact of this step, with its manifest if it is in the store."""
        return self.store.find(self.id, self.part)

    def input(self, name: str) -> Artifact:
        """The only artifact under an input's name."""
        (artifact,) = self.inputs[name]
        return artifact


Execute = Callable[[Sequence[Step]], list[Artifact]]


def find_steps(steps: Sequence[Step]) -> list[Artifact]:
    """The artifacts of steps, looked up in one go; all steps are of one store."""
    # One question each would be a round trip each on an object store, for thousands of shards.
    artifacts = steps[0].store.find_all([step.id for step in steps]) if steps else []
    return [a if a.complete else replace(a, part=step.part) for step, a in zip(steps, artifacts, strict=True)]


def compute(step: Step, progress: Progress = no_progress) -> Artifact:
    """The step's artifact: from the store if it is whole there, else computed and committed.

    The work folder of a killed run is used again; `run` must check what it finds there.
    """
    stored = step.find()
    if stored.complete:
        return stored
    work = step.store.work_folder(step.id)
    at = ""

    def noted(done: int, total: int, note: str = "") -> None:
        nonlocal at
        at = f" at {done} of {total} {note}".rstrip()
        progress(done, total, note)

    # Named by the lease: a run that was taken for dead cannot write into what its successor is about to commit.
    uploads = UploadedCheckpoints.of(step.store, step.id)
    output = Output(work / f"output-{step.store.lease_number or 0}", work / "resume", step.runtime, noted, uploads)
    started = time.monotonic()
    try:
        # Asked before anything is deleted: a run that was taken over would else remove what its successor is writing.
        step.store.check_lease()
        # Half-written output of a killed run is never adopted; a step that can resume keeps its state in `resume`.
        for old in work.glob("output*"):
            shutil.rmtree(old, ignore_errors=True)
        output.folder.mkdir(parents=True)
        output.resume.mkdir(exist_ok=True)
        settings = step.config.model_dump(mode="json")
        with live_curves(step.runtime, step.id, step.part, settings, output.resume, output.folder):
            summary = step.run(step, output)
        artifact = step.store.commit(_manifest(step, summary, output.folder, time.monotonic() - started), output.folder)
    except Exception as error:
        # Where another run took over, that is the reason to tell: what failed here may only be what it cleared away.
        step.store.check_lease()
        step.store.explain(
            error, f"{step.id} ({step.part}) takes more than the {_written(work):,} bytes that it had written"
        )
        if is_lack_of_memory(error):
            raise NoMemoryError(
                f"{step.stage} {step.part} {step.fingerprint[:8]} ran out of memory{at}: lower --runtime.workers or "
                "--runtime.micro_batch_rows, or give it more memory, and run again; finished work is kept"
            ) from error
        raise
    # Only after the commit: until then, `resume` is what a killed run goes on from.
    has_trained = any(output.resume.glob("step-*"))  # other steps upload nothing, and need not ask
    shutil.rmtree(work, ignore_errors=True)
    if uploads and has_trained:
        uploads.remove()
    return artifact


def _written(work: Path) -> int:
    return sum(path.stat().st_size for path in work.rglob("*") if path.is_file())


def compute_all(steps: Sequence[Step]) -> list[Artifact]:
    """Compute steps one after the other in this process, without Prefect."""
    return [compute(step) for step in steps]


def _manifest(step: Step, summary: Summary, folder: Path, seconds: float) -> Manifest:
    return Manifest(
        store_version=STORE_VERSION,
        stage=step.stage,
        part=step.part,
        version=step.version,
        fingerprint=step.fingerprint,
        config=step.config.model_dump(mode="json"),
        params=step.params,
        inputs={name: [a.id for a in artifacts] for name, artifacts in step.inputs.items()},
        # Without what is not set, so that manifests are what they were before summaries had a model.
        summary=summary.model_dump(mode="json", exclude_unset=True),
        # With digests: by sizes alone, one flipped bit went unnoticed in all 30 trials.
        files=describe_files(folder),
        seconds=round(seconds, 3),
        created_at=utc_now(),
        code_version=version("tinywave"),
    )


Outputs = dict[str, Artifact]
"""Artifacts by part: corpus, tokens, teacher, logits, student, control, scores, probes, probe_scores, gap, model, samples; and
`labels`, `continuations`, `generated`, `vocoder` and `judges` where they are wanted; after preference tuning `distilled` (the student
before it), `pairs`, `preference` and `against`."""

"""The pipeline in this process, without Prefect: settings in, the record of the run out; and the plan of one."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinywave_core.config.load import fields, load_config
from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.extras import require
from tinywave_core.reporting.run import finish_run
from tinywave_core.run.pipeline import build_stage
from tinywave_core.run.plan import Plan, make_plan
from tinywave_core.run.preflight import check_run
from tinywave_core.run.promotion import promote
from tinywave_core.run.record import RunRecord, StageRow, stage_row
from tinywave_core.run.stages import STAGE
from tinywave_core.stages.ingestion.corpus import check_source
from tinywave_core.steps.base import Outputs, Step, compute, find_steps
from tinywave_core.steps.reasons import Reason, explain
from tinywave_core.storage.store import Artifact, Store


def run(
    source: str | Path | None = None, root: str | Path = "store", preset: str = "demo", **settings: Any
) -> RunRecord:
    """Turn a folder of speech into a small speech language model, and return the record of the run.

    `source` is a folder or s3:// prefix with audio (None: the store goes on with what it has taken in), `root` the store, `preset` a name
    (`demo`, `interleaved-2b` …) or a .toml file. Settings are those of the command line, in groups or with dots:
    `distillation={"layers": 2}` or `**{"distillation.layers": 2}`.

    What is in the store is not computed again, what was stopped goes on from where it was, and the result is that of `tinywave run`, since
    it is the same pipeline over the same store. Shards are worked on one after another in this process: `runtime.workers`,
    `runner` and `retries` are Prefect's, and have no say here. Ctrl-C leaves the store whole.

    ConfigError for a setting that does not exist or does not fit, SourceError for a source without audio, StoreBusyError where another run
    holds the store, TrainingError where the teacher has nothing to teach, SurroundingError without the extra `pipeline` of the
    installation. All are TinyWaveErrors.
    """
    require("pipeline", "tinywave.run")
    started = time.monotonic()
    config = config_of(source, root, preset, settings)
    # What cannot be is said before there is a store.
    check_source(config, Store(config.root, create=False))
    check_run(config)
    store = Store(config.root)
    outputs: Outputs = {}
    rows: list[StageRow] = []
    with store.lock("tinywave.run"):
        for stage in STAGES:
            rows.append(_run_stage(stage, config, store, outputs))
        promotion = promote(config, store, outputs, _Here())
        return finish_run(store, config, rows, outputs, promotion, time.monotonic() - started)


def plan(source: str | Path | None = None, root: str | Path = "store", preset: str = "demo", **settings: Any) -> Plan:
    """What `run` would do with the same arguments: per stage what is cached, what runs and why, seconds and bytes.

    Reads names and headers of audio, and what the store has; computes nothing and makes no store. Times are estimates for a machine of
    two cores, or for the GPU that is there. ConfigError and SourceError as in `run`.
    """
    require("pipeline", "tinywave.plan")
    return make_plan(config_of(source, root, preset, settings))


def config_of(source: str | Path | None, root: str | Path, preset: str, settings: Mapping[str, Any]) -> PipelineConfig:
    """Arguments as the pipeline's settings."""
    values = dict(_with_dots(settings, {key for key, _ in fields()}))
    return load_config(preset, {**values, "source": _place(source), "root": _place(root)})


def _place(place: str | Path | None) -> str | None:
    if place is None:
        return None
    return str(place) if "://" in str(place) else str(Path(place).expanduser())


def _with_dots(settings: Mapping[str, Any], keys: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Groups as dotted keys."""
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in keys:
            yield from _with_dots(value, keys, f"{key}.")
        else:
            yield key, value


@dataclass
class _Here:
    """An `execute` that computes what is missing in this process, and notes what became of each step."""

    runs: list[tuple[Step, Reason, Artifact]] = field(default_factory=list)

    def __call__(self, steps: Sequence[Step]) -> list[Artifact]:
        found = find_steps(steps)
        reasons = [explain(step, artifact) for step, artifact in zip(steps, found, strict=True)]
        made = [artifact if artifact.complete else compute(step) for step, artifact in zip(steps, found, strict=True)]
        self.runs += zip(steps, reasons, made, strict=True)
        return made


def _run_stage(stage: str, config: PipelineConfig, store: Store, outputs: Outputs) -> StageRow:
    """Run one stage, and add what it made to `outputs`."""
    started = time.monotonic()
    notes, execute = STAGE[stage].look(config, store), _Here()
    outputs |= build_stage(stage, config, store, outputs, execute)
    row = stage_row(stage, outputs, execute.runs, time.monotonic() - started)
    return row.model_copy(update={"notes": notes})

"""What all stage flows do: look up the inputs, send the steps through the stage's task, publish artifacts, print a line."""

import time
from contextlib import nullcontext
from typing import Any

from prefect.logging import get_run_logger

from flows.schedules import store_slot
from tasks import terminal
from tasks.artifacts import publish_stage
from tasks.base import PrefectExecute
from tasks.runners import Workers
from tasks.stages import TASKS
from tasks.stopping import on_sigterm
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.run.pipeline import build_stage, outputs_before
from tinywave_core.run.record import StageRow, stage_row
from tinywave_core.run.start import choose_start
from tinywave_core.stages.export.voices import sentence, voices_of
from tinywave_core.stages.generation.lengths import require_prompt
from tinywave_core.steps.base import Outputs
from tinywave_core.steps.stage import Stage
from tinywave_core.storage.store import Store

RETURNED = dict[str, Any]


def run_stage(stage: Stage, config: PipelineConfig, inputs: dict[str, str] | None) -> RETURNED:
    """Run one stage inside its flow; returns {"outputs": {part: artifact id}, "row": StageRow as JSON}."""
    started = time.monotonic()
    store = Store(config.root)
    notes = stage.look(config, store)
    for note in notes:
        _tell(f"  {note}")
    # Inside the pipeline the slot is the pipeline's.
    with store_slot(config) if inputs is None else nullcontext(), store.lock(f"tinywave {stage.name}"):
        done = outputs_before(stage.name, config, store) if inputs is None else find_outputs(store, inputs)
        # Before hours are spent: a voice that cannot be made is refused, and whose it will be is said.
        if stage.name == "tokenization" and (voices := voices_of(config, done["corpus"])):
            _tell(f"  voice: {sentence(config.generation.vocoder.kind, voices)}")
        if stage.name == "tokenization" and inputs is not None:  # in the pipeline, whose last stage needs it
            require_prompt(config, done["corpus"])
        with Workers(config.runtime) as workers, on_sigterm():
            execute = PrefectExecute(TASKS[stage.name], workers)
            added = build_stage(stage.name, config, store, done, execute)
    if stage.name == "tokenization" and config.adaptation.teacher == "auto":
        terminal.say(f"the teacher {choose_start(config, store, done['corpus']).sentence}", flush=True)
    row = stage_row(
        stage.name, done | added, [(r.step, r.reason, r.artifact) for r in execute.runs], time.monotonic() - started
    ).model_copy(update={"notes": notes})
    publish_stage(row, done | added)
    say(row)
    return {"outputs": {part: artifact.id for part, artifact in added.items()}, "row": row.model_dump()}


def find_outputs(store: Store, ids: dict[str, str]) -> Outputs:
    """Artifacts by part from their ids."""
    return {part: store.find(artifact_id, part) for part, artifact_id in ids.items()}


def say(row: StageRow) -> None:
    """One line per stage, in the terminal and in the flow run's log."""
    _tell(row.line())


def _tell(line: str) -> None:
    terminal.say(line, flush=True)
    get_run_logger().info(line)

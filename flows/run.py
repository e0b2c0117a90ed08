"""`tinywave run`: one flow in this process, with one line per stage and a table at the end."""

import time

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows import environment
from flows.console import console
from flows.pipeline import pipeline, with_workers
from flows.stages import STAGE_FLOWS
from tasks import terminal
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.run.preflight import check_run
from tinywave_core.run.record import RunRecord, StageRow
from tinywave_core.stages.ingestion.corpus import check_source
from tinywave_core.storage.store import Store


def run_flow(what: str, config: PipelineConfig) -> int:
    """Run the pipeline or one stage's flow; errors come out as they are, for the CLI to print."""
    started = time.monotonic()
    # What cannot be is said before Prefect's server starts, and before there is a store: a source, settings, a root.
    seen = Store(config.root, create=False)
    if what in ("pipeline", "ingestion"):
        check_source(config, seen)
    if what == "pipeline":
        check_run(config)
    store = Store(config.root)
    terminal.say(f"TinyWave {what}: {config.source or 'no new source'} → {store.url}", flush=True)
    environment.protect_embedded_server()
    if what == "pipeline":
        record = RunRecord.model_validate(pipeline(config))
        show_record(record, time.monotonic() - started)
        return 0
    (stage_flow,) = [candidate for candidate in STAGE_FLOWS if candidate.name == what]
    returned = with_workers(stage_flow, config)(config)
    console().print(_table([StageRow.model_validate(returned["row"])]))
    for artifact in returned["outputs"].values():
        terminal.say(artifact)
    return 0


def show_record(record: RunRecord, wall: float) -> None:
    """The table of a finished run and where its results lie."""
    console().print(_table(record.rows))
    inside = sum(row.seconds for row in record.rows)
    steps = sum(step.seconds for row in record.rows for step in row.steps)
    terminal.say(
        f"run {record.number}: {wall:.1f} s in all, {inside:.1f} s in the stages, {steps:.1f} s of it computing"
    )
    for sentence in record.promotion.sentences:
        terminal.say(sentence)
    terminal.say(f"student  {record.student}")
    terminal.say(f"report   {record.report}")
    for sample in record.samples:
        terminal.say(f"sample   {sample}")
    for sentence in record.tracked:
        terminal.say(sentence)


def _table(rows: list[StageRow]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("stage", "in", "out"):
        table.add_column(name, overflow="fold")
    table.add_column("seconds", justify="right")
    table.add_column("cached or run", overflow="fold")
    for row in rows:
        table.add_row(row.stage, row.came_in, row.came_out, f"{row.seconds:.1f}", f"{row.status}: {row.why}")
    return table

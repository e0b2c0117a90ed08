"""`tinywave quality`: how good the utterances of a store are, and what thresholds would leave out. Nothing is trained or left out by it."""

import json
from collections.abc import Mapping
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.console import console
from tasks import terminal
from tinywave_core.config.load import load_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import MissingInputError
from tinywave_core.storage.store import Artifact, Store


def show_quality(preset: str, settings: Mapping[str, str], json_to: str | None, page_to: str | None) -> int:
    """Measure, print quantiles and what each threshold leaves out, and write JSON and a page where they are wanted."""
    from tinywave_core.reporting.quality import render_quality
    from tinywave_core.stages.ingestion.quality_words import left_out_text, quality_rows
    from tinywave_core.stages.ingestion.summary import QualitySummary

    config = load_config(preset, {"ingestion.measures.always": "true", **settings})
    store = Store(config.root)
    with store.lock("tinywave quality"):
        quality = measure(config, store)
    found = QualitySummary.of(quality)
    rows = quality_rows(found)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console(width=140).print(table)
    terminal.say(
        f"left out: {left_out_text(found)}"
        if found.left_out
        else "no threshold of ingestion.keep is set: all utterances are used"
    )
    terminal.say(f"every utterance is a row of {quality.url}/quality.parquet")
    if json_to is not None:
        Path(json_to).write_text(json.dumps(found.model_dump(mode="json"), indent=1), encoding="utf-8")
        terminal.say(json_to)
    if page_to is not None:
        Path(page_to).write_text(render_quality(quality), encoding="utf-8")
        terminal.say(page_to)
    return 0


def measure(config: PipelineConfig, store: Store) -> Artifact:
    """The part `quality`: of the source's corpus where there is a source, else of the one that was made last."""
    from tinywave_core.run.pipeline import run_pipeline
    from tinywave_core.stages.ingestion.quality import build
    from tinywave_core.steps.base import compute_all

    if config.source is not None:
        return run_pipeline(config, store, compute_all, until="ingestion")["quality"]
    return build(config, newest_corpus(store), compute_all)["quality"]


def newest_corpus(store: Store) -> Artifact:
    """The corpus that was made last."""
    corpus = store.newest("ingestion", "corpus")
    if corpus is None:
        raise MissingInputError(f"{store.url} has no corpus: pass --source FOLDER to make one, or the --root of a run")
    return corpus

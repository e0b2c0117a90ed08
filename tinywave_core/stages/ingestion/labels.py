"""What a run saw of the labels in the source: the part `labels`, which nothing is computed from. See `audio.sidecars`.

It is an artifact, and named by what it says, so that a run that finds everything else cached still tells the labels of its own day.
"""

from dataclasses import asdict

import pyarrow as pa

from tinywave_core.audio.labels.report import LabelReport
from tinywave_core.config.ingestion import CorpusConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.ingestion.summary import LabelsSummary
from tinywave_core.steps.base import Execute, Output, Outputs, Step
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.schemas import LABELS
from tinywave_core.storage.shards import write_table
from tinywave_core.storage.store import Store

VERSION = 1
LABELS_FILE = "labels.parquet"


def build(config: PipelineConfig, store: Store, report: LabelReport, execute: Execute) -> Outputs:
    """The part, where the source has labels at all."""
    if report.is_empty:
        return {}
    seen = summary_of(report).model_dump(mode="json")
    step = Step(
        store,
        "ingestion",
        "labels",
        VERSION,
        run_labels,
        config.ingestion.of_corpus,
        params={"labels": seen, "details": fingerprint(report.details)},
        context={"details": report.details},
        runtime=config.runtime,
    )
    return {"labels": execute([step])[0]}


def summary_of(report: LabelReport) -> LabelsSummary:
    """A report as it is kept."""
    return LabelsSummary.model_validate({field: value for field, value in asdict(report).items() if field != "details"})


def run_labels(step: Step[CorpusConfig, LabelsSummary], output: Output) -> LabelsSummary:
    """Keep what was seen, with every label row that found no recording and everything that is wrong."""
    rows = [{"kind": kind, "place": place} for kind, place in step.context["details"]]
    write_table(pa.Table.from_pylist(rows, schema=LABELS), output.folder / LABELS_FILE)
    return LabelsSummary.model_validate(step.params["labels"])

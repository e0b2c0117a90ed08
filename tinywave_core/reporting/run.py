"""The record of a pipeline run: what every stage did, which artifacts were used, where report, student and samples lie."""

import hashlib

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.reporting.lineage import users_of
from tinywave_core.reporting.page import render_report
from tinywave_core.run.promotion import Promotion
from tinywave_core.run.record import RunRecord, StageRow
from tinywave_core.steps.base import Outputs
from tinywave_core.steps.runs import record_run
from tinywave_core.storage.store import Store, utc_now
from tinywave_core.tracking.handing import hand_over


def finish_run(
    store: Store,
    config: PipelineConfig,
    rows: list[StageRow],
    outputs: Outputs,
    promotion: Promotion,
    seconds: float,
) -> RunRecord:
    """Write the report and append the record to the log of runs."""
    artifacts: dict[str, list[str]] = {}
    for row in rows:
        for step in row.steps:
            artifacts.setdefault(f"{row.stage}/{step.part}", []).append(step.artifact)
    samples = outputs["samples"]
    record = RunRecord(
        finished_at=utc_now(),
        seconds=round(seconds, 1),
        config=config.model_dump(mode="json"),
        rows=rows,
        outputs={part: artifact.id for part, artifact in outputs.items()},
        artifacts=artifacts,
        used_by=users_of(store, artifacts),
        student=f"{outputs['model'].url}/model",
        promotion=promotion,
        samples=[f"{samples.url}/{name}" for name in samples.files if name.endswith("-continuation.wav")],
    )
    html = render_report(record, outputs).encode()
    name = f"reports/{record.finished_at.replace(':', '')}.html"
    store.replace(name, html)
    record = record.model_copy(update={"report": store.url_of(name), "report_sha256": hashlib.sha256(html).hexdigest()})
    number = record_run(store, record.model_dump(mode="json"))
    record = record.model_copy(update={"number": number})
    return record.model_copy(update={"tracked": hand_over(store, record, config.runtime)})

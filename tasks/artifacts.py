"""What a person sees in the Prefect UI: a page, a table and a small picture per stage, and a page for the whole run.

They are made from the manifests in the flow, not in the cached tasks, so a fully cached run shows every stage too. At
most three artifacts per stage (each is a call to the server), each far below 100 kB (the server's database keeps all).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.logging import get_run_logger

from tinywave_core import plots
from tinywave_core.counts import count
from tinywave_core.escaping import Markdown, code, markdown, table
from tinywave_core.reporting.clips import data_uri
from tinywave_core.reporting.lineage import lineage, made_from
from tinywave_core.reporting.page import stage_edges
from tinywave_core.run.record import RunRecord, StageRow
from tinywave_core.run.stages import STAGE
from tinywave_core.stages.evaluation.summary import ScoresSummary
from tinywave_core.stages.evaluation.words import comparison_rows, probes_of, verdict
from tinywave_core.steps.base import Outputs
from tinywave_core.steps.stage import Extra, Link, Picture, Table
from tinywave_core.storage.store import Artifact, Store
from tinywave_core.wording import size

Row = dict[str, Any]
# Rows of a table that a page lists; the rest is a number.
_MOST_STEPS, _MOST_FILES = 20, 40
_STATUS = {"run": "computed"}


def publish_stage(row: StageRow, outputs: Outputs) -> None:
    """Publish a stage's artifacts; call it in the stage's flow run. A failure is a warning in the run's log."""
    key = row.stage.replace("_", "-")
    _attempt(f"the page of {row.stage}", partial(_page, key, row, outputs))
    for what, extra in STAGE[row.stage].extras.items():
        _attempt(f"{what} of {row.stage}", partial(_extra, f"{key}-{what}", extra, outputs))


def publish_run(run: RunRecord) -> None:
    """Publish the page of a whole run and the link to its report; call it in the pipeline's flow run."""
    _attempt("the page of the run", partial(_run_page, run))
    if run.report:
        _attempt("the link to the report", partial(_report_link, run))


def _attempt(what: str, publish: Callable[[], Any]) -> None:
    try:
        publish()
    except Exception as error:  # noqa: BLE001  (a full disk of the server or a lost page must not lose hours of work)
        get_run_logger().warning("could not publish %s: %s: %s", what, type(error).__name__, error, exc_info=True)


# Stages: the page ------------------------------------------------------------------------------------------------


def _page(key: str, row: StageRow, outputs: Outputs) -> None:
    latest = next(iter(outputs.values())).store.log("runs").latest()
    page = stage_markdown(row, outputs, latest or {})
    create_markdown_artifact(page, key=key, description=markdown(f"{_status(row)}: {row.came_out}"))


def stage_markdown(row: StageRow, outputs: Outputs, latest: dict[str, Any]) -> str:
    """Input, output, whether it was cached and why, rejects, lineage, and where it lies.

    `latest` is the record of the latest run that ended: it knows what was made from an artifact that was there before.
    """
    facts = [
        ("input", row.came_in),
        ("output", row.came_out),
        ("computed", f"{row.computed} of {count(len(row.steps), 'step')} in {row.seconds:.1f} s"),
        ("why", row.why),
        *(("note", note) for note in row.notes),
        *STAGE[row.stage].facts(outputs),
    ]
    own = [artifact for artifact in outputs.values() if artifact.stage == row.stage]
    parts = [
        f"# {_words(row.stage).capitalize()}: {_status(row)}",
        table([{"what": k, "answer": v} for k, v in facts]),
        *_sections(row.stage, outputs),
        *("## Lineage", table([_lineage(artifact, latest) for artifact in own])),
        *("## Files", _files(own)),
        *("## Steps", _steps(row)),
    ]
    return "\n\n".join(parts) + "\n"


def _sections(stage: str, outputs: Outputs) -> list[str]:
    return [
        part
        for section in STAGE[stage].sections(outputs)
        for part in (f"## {section.title}", markdown(section.text), *([table(section.rows)] if section.rows else []))
    ]


def _status(row: StageRow) -> str:
    return _STATUS.get(row.status, row.status.replace("run", "computed"))


def _lineage(artifact: Artifact, latest: dict[str, Any]) -> Row:
    """Inputs of an artifact, and its users if the latest run knew it."""
    label = f"{artifact.stage}/{artifact.part}"
    is_listed = artifact.id in latest.get("artifacts", {}).get(label, [])
    used = latest.get("used_by", {}).get(label, []) if is_listed else []
    if not used:
        used = ["nothing yet"] if is_listed else ["the page `run` tells when the run has ended"]
    return {
        "part": artifact.part,
        "made from": ", ".join(made_from(artifact)) or "the source",
        "used by": ", ".join(used),
    }


def _files(artifacts: Sequence[Artifact]) -> str:
    """Where each artifact lies and every file in it; whole paths in a table would push it out of the page."""
    return "\n\n".join(_place_of(artifact) for artifact in artifacts)


def _place_of(artifact: Artifact) -> str:
    files = artifact.manifest.files if artifact.manifest else []
    rows = [{"file": code(entry.name), "size": size(entry.bytes)} for entry in files[:_MOST_FILES]]
    listing = table(rows) + _more(len(files) - len(rows)) if rows else "Its figures alone, in manifest.json."
    return f"{artifact.part}: {code(artifact.url)}\n\n{listing}"


def _more(number: int) -> str:
    return f"\n\n… and {number} more." if number > 0 else ""


def _words(name: str) -> str:
    """A stage's name in words."""
    return name.replace("_", " ")


def _steps(row: StageRow) -> str:
    steps = sorted(row.steps, key=lambda step: step.cached)  # what ran comes first
    rows = [
        {
            "part": step.part,
            "artifact": code(step.artifact),
            "status": "cached" if step.cached else f"computed in {step.seconds:.1f} s",
            "why": step.why,
            "size": size(step.bytes),
        }
        for step in steps[:_MOST_STEPS]
    ]
    return (table(rows) if rows else "none") + _more(len(steps) - len(rows))


# Stages: tables, pictures, links -----------------------------------------------------------------------------------


def _extra(key: str, make: Callable[[Outputs], Extra | None], outputs: Outputs) -> None:
    """Publish a table, picture or link of a stage, if it has one."""
    match make(outputs):
        case Table(rows, about):
            create_table_artifact([dict(row) for row in rows], key=key, description=about)
        case Picture(png, about):
            _image(key, png, about)
        case Link(url, text):
            _publish_link(key, url, text)


def _publish_link(key: str, url: str, text: str) -> None:
    """A link, with its path as text: browsers follow no link from an http:// page to a local file."""
    how = "Copy it into the address bar" if url.startswith("/") else "Fetch it from there"
    page = f"[{markdown(text)}]({link_of(url)})\n\n{code(url)}\n\n{how}: browsers open no such link from this page.\n"
    create_markdown_artifact(page, key=key, description=markdown(f"{text}: {url}"))


def _image(key: str, png: bytes, description: str) -> None:
    assert len(png) <= plots.PNG_LIMIT_BYTES, f"the picture {key} has {len(png)} bytes"
    create_image_artifact(data_uri(png, "image/png"), key=key, description=description)


# The run ---------------------------------------------------------------------------------------------------------


def run_markdown(run: RunRecord, outputs: Outputs, edges: Sequence[tuple[str, str]]) -> str:
    """The DAG as a diagram, the stages as a table, the three models, lineage both ways, and where things lie."""
    scores = ScoresSummary.of(outputs["scores"])
    stages = [
        {
            "stage": row.stage.replace("_", " "),
            "input": row.came_in,
            "output": row.came_out,
            "seconds": f"{row.seconds:.1f}",
            "computed or cached": _status(row),
            "why": row.why,
        }
        for row in run.rows
    ]
    places = [("report", run.report), ("student", run.student), *(("sample", wav) for wav in run.samples[:8])]
    origins = [
        {
            "part": f"{_words(row.stage)}, {row.part}",
            "artifact": Markdown(code(row.ids[0]) + (f" and {len(row.ids) - 1} more" if len(row.ids) > 1 else "")),
            "made from": ", ".join(row.made_from) or "the source",
            "used by": ", ".join(row.used_by) or "nothing in this run",
        }
        for row in lineage(run.rows, outputs, run.used_by)
    ]
    parts = [
        f"# {_title_of_run(run)}",
        _mermaid(run, edges),
        table(stages),
        "## Teacher, student, undistilled control",
        table(comparison_rows(scores)),
        "\n".join(
            f"- {markdown(sentence)}" for sentence in [*verdict(scores, probes_of(outputs)), *run.promotion.sentences]
        ),
        "## Lineage",
        table(origins),
        "## Where it lies",
        "\n".join(f"- {name}: {code(path)}" for name, path in places if path),
    ]
    return "\n\n".join(parts) + "\n"


def _run_page(run: RunRecord) -> None:
    store = Store(str(run.config["root"]), create=False)
    outputs = {part: store.find(artifact, part) for part, artifact in run.outputs.items()}
    page = run_markdown(run, outputs, stage_edges(store, run.rows))
    create_markdown_artifact(page, key="run", description=_title_of_run(run))


def _report_link(run: RunRecord) -> None:
    _publish_link("report", run.report, "Report: scores, players, curves")


def _title_of_run(run: RunRecord) -> str:
    computed, steps = sum(row.computed for row in run.rows), sum(len(row.steps) for row in run.rows)
    return f"Run {run.number}: {computed} of {count(steps, 'step')} computed in {run.seconds:.1f} s"


def _mermaid(run: RunRecord, edges: Sequence[tuple[str, str]]) -> str:
    """The DAG; stages that computed something stand out."""
    nodes = [
        f'  {row.stage}["{row.stage.replace("_", " ")}<br/>{row.seconds:.1f} s, {_status(row)}"]'
        + (":::fresh" if row.computed else "")
        for row in run.rows
    ]
    arrows = [f"  {start} --> {end}" for start, end in edges]
    style = "  classDef fresh stroke:#e07b39,stroke-width:3px"
    return "\n".join(["```mermaid", "flowchart TD", *nodes, *arrows, style, "```"])


def link_of(url: str) -> str:
    """A link for Markdown: a file:// URL for a local path, any other URL as it is."""
    return f"file://{quote(url)}" if url.startswith("/") else quote(url, safe="/:?#@!$&'*+,;=%")

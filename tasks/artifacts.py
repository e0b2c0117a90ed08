"""What a person sees in the Prefect UI: per stage a page in words, a table and a small picture; per run the whole.

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

from tinywave_core.escaping import Markdown, code, markdown, table, visible
from tinywave_core.reporting import gap, plots, verdict
from tinywave_core.reporting.lineage import lineage, made_from
from tinywave_core.reporting.page import (
    curves_of,
    data_uri,
    duration_bins,
    loss_lines,
    nll_by_kind,
    rejects,
    stage_edges,
    teacher_lines,
)
from tinywave_core.reporting.run import RunRecord
from tinywave_core.reporting.stages import Outputs, StageRow, duration, rounding_losses
from tinywave_core.storage.store import Artifact, Store

Row = dict[str, Any]
# Rows of a table that a page lists; the rest is a number.
_MOST_STEPS, _MOST_FILES, _MOST_REJECTS = 20, 40, 100
_LONGEST_CELL = 240
_STATUS = {"run": "computed"}


def publish_stage(row: StageRow, outputs: Outputs) -> None:
    """Publish a stage's artifacts; call it in the stage's flow run. A failure is a warning in the run's log."""
    key = row.stage.replace("_", "-")
    _attempt(f"the page of {row.stage}", partial(_page, key, row, outputs))
    for what, publish in _EXTRAS[row.stage].items():
        _attempt(f"{what} of {row.stage}", partial(publish, f"{key}-{what.replace(' ', '-')}", outputs))


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
    """What came in, what went out, cached or computed and why, what was rejected, from what and for what, where it lies.

    `latest` is the record of the latest run that ended: it knows what was made from an artifact that was there before.
    """
    facts = [
        ("came in", row.came_in),
        ("went out", row.came_out),
        ("computed", f"{row.computed} of {len(row.steps)} steps in {row.seconds:.1f} s"),
        ("why", row.why),
        *_facts(row.stage, outputs),
    ]
    own = [artifact for artifact in outputs.values() if artifact.stage == row.stage]
    parts = [
        f"# {_words(row.stage).capitalize()}: {_status(row)}",
        table([{"what": k, "answer": v} for k, v in facts]),
        *(_evaluation_tables(outputs) if row.stage == "evaluation" else ()),
        *("## Lineage", table([_lineage(artifact, latest) for artifact in own])),
        *("## Files", _files(own)),
        *("## Steps", _steps(row)),
    ]
    return "\n\n".join(parts) + "\n"


def _evaluation_tables(outputs: Outputs) -> list[str]:
    """Likelihood by stream and after a prompt, probes, the gap, and continuations as text, as far as there are any."""
    scores = outputs["scores"].summary
    tables = {"By stream, and after a prompt": (verdict.continuation_text(scores), verdict.likelihood_rows(scores))}
    if "probe_scores" in outputs:
        probes = outputs["probe_scores"].summary
        tables["Probes"] = (verdict.probes_text(outputs["probes"].summary, probes), verdict.probe_rows(probes))
    if "gap" in outputs:
        summary = outputs["gap"].summary
        tables["The gap to the teacher"] = (gap.gap_text(summary), gap.stream_rows(summary))
        tables["Block by block"] = ("Hidden states and attention.", gap.block_rows(summary))
    if "generated" in outputs:
        generated = outputs["generated"].summary
        tables["Continuations as text"] = (verdict.generated_text(generated), verdict.generated_rows(generated))
    return [
        part
        for title, (text, rows) in tables.items()
        for part in (f"## {title}", markdown(text), *([table(rows)] if rows else []))
    ]


def _status(row: StageRow) -> str:
    return _STATUS.get(row.status, row.status.replace("run", "computed"))


def _lineage(artifact: Artifact, latest: dict[str, Any]) -> Row:
    """From what, and for what: the latter is known of artifacts that the latest run had."""
    label = f"{artifact.stage}/{artifact.part}"
    known = artifact.id in latest.get("artifacts", {}).get(label, [])
    used = latest.get("used_by", {}).get(label, []) if known else []
    if not used:
        used = ["nothing yet"] if known else ["the page `run` tells when the run has ended"]
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
    rows = [{"file": code(entry.name), "size": verdict.size(entry.bytes)} for entry in files[:_MOST_FILES]]
    shown = table(rows) + _more(len(files) - len(rows)) if rows else "Its figures alone, in manifest.json."
    return f"{artifact.part}: {code(artifact.url)}\n\n{shown}"


def _more(number: int) -> str:
    return f"\n\n… and {number} more." if number > 0 else ""


def _facts(stage: str, outputs: Outputs) -> list[tuple[str, str]]:
    """What else a person asks of this stage first."""
    match stage:
        case "ingestion":
            s = outputs["corpus"].summary
            files, reasons = s["files"], ", ".join(f"{n} {reason}" for reason, n in s["reasons"].items())
            found = (f"{files[k]} {k}" for k in ("found", "accepted", "rejected", "skipped"))
            split = (
                f"{duration(s['hours_train'])} to train on ({s['utterances_train']} utterances), "
                f"{duration(s['hours_held_out'])} held out ({s['utterances_held_out']})"
            )
            return [
                ("files", ", ".join(found)),
                ("not used because", reasons or "nothing was rejected"),
                ("split", split),
            ]
        case "tokenization":
            s = outputs["tokens"].summary
            kinds = ", ".join(f"{n:,} {kind}" for kind, n in s["streams"].items() if n)
            words = verdict.alignment_text(s)
            return [("tokens", kinds), ("drift", verdict.drift_text(s)), *([("words", words)] if words else [])]
        case "adaptation":
            s = outputs["teacher"].summary
            before, after = s["held_out_nll_before"], s["held_out_nll_after"]
            scored = (
                "no held-out speech"
                if before is None or after is None
                else f"{before:.3f} → {after:.3f} nats per token"
            )
            trained = f"{s['method']}, {s['steps']} steps on {duration(s['train_hours'])} of speech"
            return [
                ("started from", s["started_from"]),
                ("trained", trained),
                ("held-out NLL, before → after", scored),
                ("training loss of the last step", f"{s['train_loss']:.3f}"),
            ]
        case "logit_caching":
            return _target_facts(outputs["logits"])
        case "distillation":
            return _student_facts(outputs["student"])
        case "evaluation":
            return [("verdict", sentence) for sentence in verdict.verdict(outputs["scores"].summary)]
        case "export":
            lost = rounding_losses(outputs["model"].summary).removeprefix("; perplexity of GGUF ")
            spoken = verdict.vocoder_rows(outputs["vocoder"].summary) if "vocoder" in outputs else []
            return [
                ("load it with", f"AutoModelForCausalLM.from_pretrained({outputs['model'].url + '/model'!r})"),
                *([("perplexity that GGUF files lose", lost)] if lost else []),
                *((row["speech"], f"log-mel correlation {row['log-mel correlation']}") for row in spoken),
            ]
        case "generation":
            report = "players and spectrograms are in the report of the run, below reports/ in the store"
            return [("vocoder", outputs["samples"].summary["vocoder"]), ("listen", report)]
    return []


def _target_facts(logits: Artifact) -> list[tuple[str, str]]:
    """How much of the teacher's probability a plain top-K would have lost, over all kinds of token."""
    s = logits.summary
    config = logits.manifest.config if logits.manifest else {}
    # Switches are counted among the other kinds already.
    kinds = [figures for kind, figures in s["kinds"].items() if kind != "switch"]
    tokens = sum(figures["tokens"] for figures in kinds)
    beyond = sum(figures["mass_beyond_k"] * figures["tokens"] for figures in kinds) / max(tokens, 1)
    return [
        ("targets", f"K = {config['entries']} per token, at temperature {config['temperature']:g}"),
        ("mass beyond K", f"{beyond:.1%} of the teacher's probability, kept by sampled entries"),
        ("size", f"{verdict.size(s['bytes'])} in all"),
    ]


def _student_facts(student: Artifact) -> list[tuple[str, str]]:
    """From where, with the teacher how often beside it, and where it ended."""
    s = student.summary
    config = student.manifest.config if student.manifest else {}
    blocks = ", ".join(map(str, s["layers_copied"]))
    if s["started_from"] == "teacher":
        began = f"blocks {blocks} of the teacher"
    else:
        replay = f"{s['new_sequences']} new sequences and {s['replayed_sequences']} heard before"
        began = f"{s['started_from']}, continued on {replay} (time {s['continuations']})"
    start = ", ".join(f"{model} {nll:.3f}" for model, nll in s["nll_at_start"].items())
    return [
        ("started from", began),
        ("NLL before training", f"{start} nats per token, on training speech" if start else "not measured"),
        ("regime", f"{config['regime']}: the teacher ran beside it in {s['live_steps']} of {s['steps']} steps"),
        ("weights", ", ".join(f"{_words(k)} {v:g}" for k, v in s["weights"].items())),
        ("last step", ", ".join(f"{_words(k)} {v:.3f}" for k, v in s["final"].items())),
    ]


def _words(name: str) -> str:
    """A loss term's name in words."""
    return name.replace("_", " ")


def _steps(row: StageRow) -> str:
    steps = sorted(row.steps, key=lambda step: step.cached)  # what ran comes first
    rows = [
        {
            "part": step.part,
            "artifact": code(step.artifact),
            "status": "cached" if step.cached else f"computed in {step.seconds:.1f} s",
            "why": step.why,
            "size": verdict.size(step.bytes),
        }
        for step in steps[:_MOST_STEPS]
    ]
    return (table(rows) if rows else "none") + _more(len(steps) - len(rows))


# Stages: tables, pictures, links -----------------------------------------------------------------------------------


def _rejects(key: str, outputs: Outputs) -> None:
    found = rejects(outputs["corpus"])
    rows = [{name: _short(row[name] or "") for name in ("path", "status", "reason", "detail")} for row in found]
    if rows:
        about = f"{len(rows)} files without speech, and why" + (
            f"; the first {_MOST_REJECTS}, the others are in files.parquet" if len(rows) > _MOST_REJECTS else ""
        )
        create_table_artifact(rows[:_MOST_REJECTS], key=key, description=about)


def _short(text: str) -> str:
    return visible(text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…")


def _durations(key: str, outputs: Outputs) -> None:
    labels, counts = duration_bins(outputs["corpus"].summary)
    if counts:
        _image(
            key,
            plots.histogram_png(counts, x_label="seconds", y_label="utterances", labels=labels),
            "length of utterances",
        )


def _units(key: str, outputs: Outputs) -> None:
    counts = sorted(outputs["tokens"].summary.get("unit_histogram") or [], reverse=True)
    if counts:
        _image(
            key, plots.histogram_png(counts, x_label="unit, by rank", y_label="frames"), "how often every unit occurs"
        )


def _teacher_loss(key: str, outputs: Outputs) -> None:
    _losses(key, teacher_lines(outputs), "training loss of the teacher")


def _student_losses(key: str, outputs: Outputs) -> None:
    _losses(key, loss_lines(outputs), "cross-entropy of student and control on the true tokens")


def _losses(key: str, lines: Sequence[plots.Line], about: str) -> None:
    if lines:
        _image(key, plots.lines_png(lines, x_label="optimiser step", y_label="nats per token"), about)


def _targets(key: str, outputs: Outputs) -> None:
    rows = verdict.target_rows(outputs["logits"].summary)
    if rows:
        create_table_artifact(rows, key=key, description="the teacher's targets by kind of token")


def _terms(key: str, outputs: Outputs) -> None:
    rows = [
        {"model": part, "term": _words(name), "first": f"{values[0]:.4g}", "last": f"{values[-1]:.4g}"}
        for part in ("student", "control")
        for name, column in curves_of(outputs[part]).items()
        if name not in ("step", "learning_rate") and (values := [v for v in column if v is not None])
    ]
    if rows:
        create_table_artifact(rows, key=key, description="loss terms at the first and the last step")


def _comparison(key: str, outputs: Outputs) -> None:
    rows = verdict.comparison_rows(outputs["scores"].summary)
    create_table_artifact(rows, key=key, description="teacher, student and undistilled control")


def _directions(key: str, outputs: Outputs) -> None:
    rows = verdict.direction_rows(outputs["scores"].summary)
    if rows:
        create_table_artifact(rows, key=key, description="cloze from speech or text to speech or text")


def _by_kind(key: str, outputs: Outputs) -> None:
    kinds, series = nll_by_kind(outputs["scores"].summary)
    if kinds:
        _image(key, plots.bars_png(kinds, series, y_label="nats per token"), "held-out NLL by kind of token")


def _gap_map(key: str, outputs: Outputs) -> None:
    if "gap" in outputs:
        cosines = outputs["gap"].summary["cosines"]["student"]
        png = plots.heatmap_png(cosines, x_label="teacher block", y_label="student block")
        _image(key, png, "mean cosine of the hidden states of student and teacher blocks")


def _link(part: str, file: str, text: str) -> Callable[[str, Outputs], None]:
    def publish(key: str, outputs: Outputs) -> None:
        _place(key, f"{outputs[part].url}{file}", text)

    return publish


def _place(key: str, url: str, text: str) -> None:
    """A link, with the place in words too: browsers follow no link from an http:// page to a local file."""
    how = "Copy it into the address bar" if url.startswith("/") else "Fetch it from there"
    page = f"[{markdown(text)}]({link_of(url)})\n\n{code(url)}\n\n{how}: browsers open no such link from this page.\n"
    create_markdown_artifact(page, key=key, description=markdown(f"{text}: {url}"))


def _image(key: str, png: bytes, about: str) -> None:
    assert len(png) <= plots.PNG_LIMIT_BYTES, f"the picture {key} has {len(png)} bytes"
    create_image_artifact(data_uri(png, "image/png"), key=key, description=about)


_EXTRAS: dict[str, dict[str, Callable[[str, Outputs], None]]] = {
    "ingestion": {"rejects": _rejects, "durations": _durations},
    "tokenization": {"units": _units},
    "adaptation": {"loss": _teacher_loss},
    "logit_caching": {"targets": _targets},
    "distillation": {"terms": _terms, "losses": _student_losses},
    "evaluation": {
        "comparison": _comparison,
        "kinds": _by_kind,
        "directions": _directions,
        "gap-map": _gap_map,
    },
    "export": {"model": _link("model", "/model", "The student, as transformers loads it")},
    "generation": {"samples": _link("samples", "", "Folder of the generated audio")},
}


# The run ---------------------------------------------------------------------------------------------------------


def run_markdown(run: RunRecord, outputs: Outputs, edges: Sequence[tuple[str, str]]) -> str:
    """The DAG as a diagram, the stages as a table, the three models, lineage both ways, and where things lie."""
    scores = outputs["scores"].summary
    stages = [
        {
            "stage": row.stage.replace("_", " "),
            "came in": row.came_in,
            "went out": row.came_out,
            "s": f"{row.seconds:.1f}",
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
        f"# {_about(run)}",
        _mermaid(run, edges),
        table(stages),
        "## Teacher, student, undistilled control",
        table(verdict.comparison_rows(scores)),
        "\n".join(f"- {markdown(sentence)}" for sentence in [*verdict.verdict(scores), run.promotion.sentence]),
        "## Lineage",
        table(origins),
        "## Where it lies",
        "\n".join(f"- {name}: {code(place)}" for name, place in places if place),
    ]
    return "\n\n".join(parts) + "\n"


def _run_page(run: RunRecord) -> None:
    store = Store(str(run.config["root"]), create=False)
    outputs = {part: store.find(artifact, part) for part, artifact in run.outputs.items()}
    page = run_markdown(run, outputs, stage_edges(store, run.rows))
    create_markdown_artifact(page, key="run", description=_about(run))


def _report_link(run: RunRecord) -> None:
    _place("report", run.report, "Report: scores, players, curves")


def _about(run: RunRecord) -> str:
    computed, steps = sum(row.computed for row in run.rows), sum(len(row.steps) for row in run.rows)
    return f"Run {run.number}: {computed} of {steps} steps computed in {run.seconds:.1f} s"


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
    """What a browser opens, as it may stand in Markdown: a file:// URL for a local path, any other URL as it is."""
    return f"file://{quote(url)}" if url.startswith("/") else quote(url, safe="/:?#@!$&'*+,;=%")

"""Ingestion: a folder of audio becomes a corpus of checked, cut utterances."""

from collections.abc import Mapping

from tinywave_core import plots
from tinywave_core.audio.quality import WARNINGS
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import FLAC_BYTES_PER_S, Estimate
from tinywave_core.escaping import visible
from tinywave_core.evals.classifiers import given_models
from tinywave_core.stages.ingestion import corpus, labels, quality
from tinywave_core.stages.ingestion.look import look
from tinywave_core.stages.ingestion.quality_words import left_out_in_short, left_out_rows, left_out_text, quality_rows
from tinywave_core.stages.ingestion.summary import CorpusSummary, LabelsSummary, QualitySummary
from tinywave_core.stages.ingestion.words import (
    duration_bins,
    has_labels,
    label_facts,
    label_rows,
    labels_in_short,
    number_of_rejects,
    rejects,
    relabelled_text,
    warned,
)
from tinywave_core.steps.base import Execute, Outputs
from tinywave_core.steps.stage import Picture, Section, Stage, Table
from tinywave_core.storage.store import Store
from tinywave_core.wording import duration

INGESTION_S_PER_H = 30.0  # of one core per hour of speech (measured on examples/speech, 2.8 GHz)
MEASURES_S_PER_H, DNSMOS_S_PER_H = 9.5, 650.0  # likewise; DNSMOS of utterances of 10 s
_MOST_REJECTS = 100  # rows of the table in Prefect's UI, whose database keeps it
_MOST_WARNED = 20
_LONGEST_CELL = 240


def build(config: PipelineConfig, store: Store, done: Outputs, execute: Execute) -> Outputs:
    """The corpus, the labels that the source has, and how good its utterances are where somebody asks."""
    given_models(config)  # before hours of decoding
    today = corpus.scan(config, store)
    taken = corpus.take(config, store, today, execute)
    seen = labels.build(config, store, today.labels, execute)
    return {"corpus": taken, **seen, **quality.build(config, taken, execute)}


def describe(outputs: Outputs) -> tuple[str, str]:
    """Files in; utterances, hours, speakers and labels out."""
    s = CorpusSummary.of(outputs["corpus"])
    rejected = f", {s.files.rejected} rejected" if s.files.rejected else ""
    skipped = f", {s.files.skipped} skipped" if s.files.skipped else ""
    warned = f", warnings: {_counted(s.warnings)}" if s.warnings else ""
    out = f"{s.utterances} utterances, {duration(s.hours)}, {s.speakers} speakers"
    later = f"; {relabelled_text(s.relabelled)}" if s.relabelled else ""
    seen = seen_labels(outputs)
    told = f"; {labels_in_short(seen)}" if seen and has_labels(seen) else ""
    measured = measured_quality(outputs)
    left = f"; {left_out_in_short(measured)}" if measured and measured.left_out else ""
    return f"{s.files.found} files", out + rejected + skipped + warned + later + told + left


def facts(outputs: Outputs) -> list[tuple[str, str]]:
    """What became of the files, the split, and the labels."""
    s = CorpusSummary.of(outputs["corpus"])
    reasons = _counted(s.reasons)
    split = (
        f"{duration(s.hours_train)} to train on ({s.utterances_train} utterances), "
        f"{duration(s.hours_held_out)} held out ({s.utterances_held_out})"
    )
    seen, measured = seen_labels(outputs), measured_quality(outputs)
    return [
        ("files", ", ".join(f"{number} {outcome}" for outcome, number in s.files)),
        ("not used because", reasons or "nothing was rejected"),
        *([("taken, but odd", _counted(s.warnings))] if s.warnings else []),
        ("split", split),
        *([("labels that came later", relabelled_text(s.relabelled))] if s.relabelled else []),
        *(label_facts(seen) if seen else []),
        *([("left out", left_out_text(measured))] if measured and measured.left_out else []),
    ]


def measured_quality(outputs: Outputs) -> QualitySummary | None:
    """How good the utterances are, None where nobody asked."""
    return QualitySummary.of(outputs["quality"]) if "quality" in outputs else None


def seen_labels(outputs: Outputs) -> LabelsSummary | None:
    """What the run saw of the source's labels, None where it has none."""
    return LabelsSummary.of(outputs["labels"]) if "labels" in outputs else None


def sections(outputs: Outputs) -> list[Section]:
    """Odd recordings, labels that found no audio or are wrong, and the measures, as tables; nothing where all is well."""
    return odd_files(outputs) + label_faults(outputs) + measures(outputs)


def measures(outputs: Outputs) -> list[Section]:
    """Quantiles of every measure, where somebody asked, and the first utterances that are left out."""
    measured = measured_quality(outputs)
    if measured is None:
        return []
    about = "All of them are in quality.parquet, column reason."
    rows = [
        {name: _short(text) for name, text in row.items()} for row in left_out_rows(outputs["quality"], _MOST_WARNED)
    ]
    return [
        Section("Measures of the utterances", "Quantiles over utterances.", quality_rows(measured)),
        *([Section("Left out", f"{left_out_text(measured)} {about}", rows)] if rows else []),
    ]


def label_faults(outputs: Outputs) -> list[Section]:
    """Label rows that found no audio, and what is wrong with labels."""
    seen = seen_labels(outputs)
    rows = label_rows(seen) if seen else []
    return [Section("Labels", "All of them are in labels.parquet of the part labels.", rows)] if rows else []


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items())


def odd_files(outputs: Outputs) -> list[Section]:
    """What each warning means, and the first files that have one."""
    warnings = CorpusSummary.of(outputs["corpus"]).warnings
    if not warnings:
        return []
    rows = [{name: _short(text) for name, text in row.items()} for row in warned(outputs["corpus"], _MOST_WARNED)]
    text = "; ".join(f"{code}: {WARNINGS[code]}" for code in warnings)
    return [Section("Taken, but odd", f"{text}. All of them are in files.parquet, column warnings.", rows)]


def cost(config: PipelineConfig, hours: float, device: str) -> Estimate:
    """Decoding, cutting and, where somebody asks, measuring on the CPU; FLAC in the store."""
    cores, asked = max(1, config.runtime.workers), config.ingestion
    measured = MEASURES_S_PER_H + DNSMOS_S_PER_H * asked.measures.dnsmos if asked.measures_wanted else 0.0
    return Estimate(hours * (INGESTION_S_PER_H + measured) / cores, hours * 3600 * FLAC_BYTES_PER_S)


def rejects_table(outputs: Outputs) -> Table | None:
    """Files without speech, and why."""
    columns = ("path", "status", "reason", "detail")
    rows = [{name: _short(row[name] or "") for name in columns} for row in rejects(outputs["corpus"], _MOST_REJECTS)]
    if not rows:
        return None
    number = number_of_rejects(CorpusSummary.of(outputs["corpus"]))
    title = f"{number} files without speech, and why" + (
        f"; the first {_MOST_REJECTS}, the others are in files.parquet" if number > _MOST_REJECTS else ""
    )
    return Table(rows, title)


def _short(text: str) -> str:
    return visible(text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…")


def durations(outputs: Outputs) -> Picture:
    """Histogram of the utterances' lengths."""
    bins, counts = duration_bins(CorpusSummary.of(outputs["corpus"]))
    png = plots.histogram_png(counts, x_label="seconds", y_label="utterances", labels=bins)
    return Picture(png, "length of utterances")


STAGE = Stage(
    "ingestion",
    "Take new audio files from the source into the corpus.",
    build,
    describe,
    facts,
    cost,
    {"rejects": rejects_table, "durations": durations},
    sections,
    look=look,
)

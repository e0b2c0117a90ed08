"""The corpus in words and tables."""

from typing import Any

from tinywave_core.audio.labels.claims import PROBLEMS
from tinywave_core.audio.utterances import FILES_FILE
from tinywave_core.stages.ingestion.summary import CorpusSummary, LabelOrigin, LabelsSummary, Relabelled, Some
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact


def rejects(corpus: Artifact) -> list[dict[str, Any]]:
    """Path, status, reason and detail of every file that gave no speech; rejected ones first."""
    if FILES_FILE not in corpus.files:
        return []
    rows = read_table(corpus.path(FILES_FILE), ["path", "status", "reason", "detail"]).to_pylist()
    return sorted((row for row in rows if row["status"] != "accepted"), key=lambda row: (row["status"], row["path"]))


def warned(corpus: Artifact) -> list[dict[str, str]]:
    """Path and warnings of every file that was taken although something is odd about it, by path."""
    rows = read_table(corpus.path(FILES_FILE), ["path", "warnings"]).to_pylist()
    found = [{"path": row["path"], "warnings": ", ".join(row["warnings"])} for row in rows if row["warnings"]]
    return sorted(found, key=lambda row: row["path"])


def duration_bins(corpus: CorpusSummary) -> tuple[list[str], list[int]]:
    """Labels and counts of the duration histogram, without the empty bins at its end."""
    edges = corpus.duration_histogram.edges_s
    labels = [f"{low}–{high}" for low, high in zip([0, *edges], edges, strict=False)] + [f"> {edges[-1]}"]
    counts = list(corpus.duration_histogram.utterances)
    while counts and not counts[-1]:
        counts.pop()
    return labels[: len(counts)], counts


def labels_in_short(seen: LabelsSummary) -> str:
    """The labels in half a line, without a name of a file; nothing where there are none."""
    if not has_labels(seen):
        return ""
    parts = [f"{seen.transcripts} of {seen.recordings} files with transcript, {seen.speakers} with speaker"]
    parts += [f"{seen.unmatched.number} label rows without audio"] if seen.unmatched.number else []
    kinds = ", ".join(f"{some.number} {some.kind}" for some in seen.problems)
    return ", ".join([*parts, *([f"label problems: {kinds}"] if kinds else [])])


def label_facts(seen: LabelsSummary) -> list[tuple[str, str]]:
    """How many recordings have labels and from where, and whatever went wrong: one line where all is well."""
    facts = []
    if has_labels(seen):
        where = "; ".join(map(_origin, seen.origins)) or "no label found its recording"
        counts = f"{seen.transcripts} of {seen.recordings} files have a transcript, {seen.speakers} a speaker"
        facts.append(("labels", f"{counts}. {where}"))
    facts += [(row["what"], f"{row['number']}: {row['first']}. {row['what to do']}") for row in label_rows(seen)]
    return facts


def label_rows(seen: LabelsSummary) -> list[dict[str, Any]]:
    """Label rows that found no audio, and what is wrong, as a table."""
    kinds = [
        ("label rows without audio", seen.unmatched, "Compare the names with those of the audio files"),
        *((f"labels, {some.kind}", some, PROBLEMS[some.kind]) for some in seen.problems),
        (
            "not read as labels",
            seen.unread,
            "No column of such a table is known to name recordings and say something of them",
        ),
    ]
    return [
        {"what": what, "number": some.number, "first": _first(some), "what to do": advice}
        for what, some, advice in kinds
        if some.number
    ]


def relabelled_text(changed: Relabelled) -> str:
    """How many recordings have later labels, and what that does to the split."""
    parts = [(changed.transcripts, "have another transcript"), (changed.speakers, "have another speaker")]
    labels = " and ".join(f"{number} {what}" for number, what in parts if number)
    text = f"{labels} than when they were taken" if labels else "all have the labels that they were taken with"
    if changed.to_held_out:
        text += f"; {changed.to_held_out} that were trained on are held out by their speaker now: teacher and student are trained anew"
    return text + (f"; {changed.to_train} that were held out are trained on now" if changed.to_train else "")


def has_labels(seen: LabelsSummary) -> bool:
    """Whether there are labels, good or bad."""
    return bool(seen.origins or seen.unmatched.number or seen.problems)


def _origin(origin: LabelOrigin) -> str:
    more = f" and {origin.files - 1} more" if origin.files > 1 else ""
    where = f"{origin.first}{more}" if origin.files else "the paths of the recordings"
    counts = [(origin.transcripts, "with transcript"), (origin.speakers, "with speaker")]
    return f"{origin.layout} ({where}): " + ", ".join(f"{number} {what}" for number, what in counts if number)


def _first(some: Some) -> str:
    more = f" and {some.number - len(some.first)} more" if some.number > len(some.first) else ""
    return ", ".join(some.first) + more

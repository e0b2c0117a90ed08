"""The corpus in words and tables."""

from typing import Any

from tinywave_core.audio.labels.claims import PROBLEMS
from tinywave_core.audio.utterances import FILES_FILE
from tinywave_core.stages.ingestion.summary import CorpusSummary, LabelOrigin, LabelsSummary, Some
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact


def rejects(corpus: Artifact) -> list[dict[str, Any]]:
    """Path, status, reason and detail of every file that gave no speech; rejected ones first."""
    if FILES_FILE not in corpus.files:
        return []
    rows = read_table(corpus.path(FILES_FILE), ["path", "status", "reason", "detail"]).to_pylist()
    return sorted((row for row in rows if row["status"] != "accepted"), key=lambda row: (row["status"], row["path"]))


def duration_bins(corpus: CorpusSummary) -> tuple[list[str], list[int]]:
    """Labels and counts of the duration histogram, without the empty bins at its end."""
    edges = corpus.duration_histogram.edges_s
    labels = [f"{low}–{high}" for low, high in zip([0, *edges], edges, strict=False)] + [f"> {edges[-1]}"]
    counts = list(corpus.duration_histogram.utterances)
    while counts and not counts[-1]:
        counts.pop()
    return labels[: len(counts)], counts


def labels_in_short(seen: LabelsSummary) -> str:
    """The labels in half a line."""
    parts = [f"{seen.transcripts} of {seen.recordings} files with transcript, {seen.speakers} with speaker"]
    if seen.unmatched.number:
        parts.append(f"{seen.unmatched.number} label rows without audio")
    parts += [f"{some.number} label problems: {some.kind}" for some in seen.problems]
    return ", ".join(parts)


def label_facts(seen: LabelsSummary) -> list[tuple[str, str]]:
    """How many recordings have labels and from where, and whatever went wrong: one line where all is well."""
    facts = []
    if seen.origins or seen.unmatched.number or seen.problems:
        where = "; ".join(map(_origin, seen.origins)) or "no label found its recording"
        counts = f"{seen.transcripts} of {seen.recordings} files have a transcript, {seen.speakers} a speaker"
        facts.append(("labels", f"{counts} ({where})"))
    if seen.unmatched.number:
        facts.append(("label rows without audio", _some(seen.unmatched)))
    facts += [("label problem", f"{_some(some)} ({PROBLEMS[some.kind]})") for some in seen.problems]
    if seen.unread.number:
        facts.append(("not read as labels", _some(seen.unread)))
    return facts


def label_rows(seen: LabelsSummary) -> list[dict[str, Any]]:
    """The same as a table: what, how many, and the first of them."""
    rows = [
        {"what": f"{origin.layout}: transcripts and speakers", "number": f"{origin.transcripts}, {origin.speakers}"}
        | {"first": origin.first or "the paths of the recordings"}
        for origin in seen.origins
    ]
    others = [("rows without audio", seen.unmatched), *((some.kind, some) for some in seen.problems)]
    others.append(("not read as labels", seen.unread))
    for what, some in others:
        rows += [{"what": what, "number": str(some.number), "first": ", ".join(some.first)}] if some.number else []
    return rows


def _origin(origin: LabelOrigin) -> str:
    more = f" and {origin.files - 1} more" if origin.files > 1 else ""
    files = f" in {origin.first}{more}" if origin.files else " by the paths of the recordings"
    return f"{origin.layout}{files}"


def _some(some: Some) -> str:
    more = f" and {some.number - len(some.first)} more" if some.number > len(some.first) else ""
    return f"{some.number}: {', '.join(some.first)}{more}"

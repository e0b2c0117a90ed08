"""The corpus in words and tables."""

from collections.abc import Iterable
from heapq import nsmallest
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tinywave_core.audio.labels.claims import PROBLEMS
from tinywave_core.audio.utterances import FILES_FILE
from tinywave_core.counts import count
from tinywave_core.stages.ingestion.summary import CorpusSummary, LabelOrigin, LabelsSummary, Relabelled, Some
from tinywave_core.storage.shards import rows_of
from tinywave_core.storage.store import Artifact


def rejects(corpus: Artifact, most: int | None = None) -> list[dict[str, Any]]:
    """Path, status, reason and detail of the files that gave no speech, rejected ones first: all, or as many as are shown."""
    if FILES_FILE not in corpus.files:
        return []
    columns = ["path", "status", "reason", "detail"]
    rows = rows_of(corpus.path(FILES_FILE), columns, lambda table: pc.not_equal(table["status"], "accepted"))
    return _in_order(rows, most, "status", "path")


def number_of_rejects(corpus: CorpusSummary) -> int:
    """How many `rejects` has."""
    return corpus.files.rejected + corpus.files.skipped


def warned(corpus: Artifact, most: int | None = None) -> list[dict[str, Any]]:
    """Path and warnings of the files that were taken although something is odd about them, by path: all, or as many as are shown."""
    rows = rows_of(
        corpus.path(FILES_FILE), ["path", "warnings"], lambda table: pc.greater(_number(table["warnings"]), 0)
    )
    return [row | {"warnings": ", ".join(row["warnings"])} for row in _in_order(rows, most, "path")]


def _number(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.list_value_length(lists), 0)


def _in_order(rows: Iterable[dict[str, Any]], most: int | None, *by: str) -> list[dict[str, Any]]:
    key = itemgetter(*by)
    return sorted(rows, key=key) if most is None else nsmallest(most, rows, key)


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
    parts = [f"{seen.transcripts} of {count(seen.recordings, 'file')} with transcript, {seen.speakers} with speaker"]
    parts += [f"{seen.unmatched.number} label rows without audio"] if seen.unmatched.number else []
    kinds = ", ".join(f"{some.number} {some.kind}" for some in seen.problems)
    return ", ".join([*parts, *([f"label problems: {kinds}"] if kinds else [])])


def label_facts(seen: LabelsSummary) -> list[tuple[str, str]]:
    """How many recordings have labels and from where, and whatever went wrong: one line where all is well."""
    facts = []
    if has_labels(seen):
        where = "; ".join(map(_origin, seen.origins)) or "no label found its recording"
        have = "has" if seen.recordings == 1 else "have"
        counts = (
            f"{seen.transcripts} of {count(seen.recordings, 'file')} {have} a transcript, {seen.speakers} a speaker"
        )
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

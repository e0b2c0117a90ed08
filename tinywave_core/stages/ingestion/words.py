"""The corpus in words and tables."""

from typing import Any

from tinywave_core.audio.utterances import FILES_FILE
from tinywave_core.stages.ingestion.summary import CorpusSummary
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

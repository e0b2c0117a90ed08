"""Rows of files and utterances -> the numbers of a shard and of a corpus. Nothing is read or written here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tinywave_core.stages.ingestion.summary import CorpusSummary, DurationHistogram, FileCounts
from tinywave_core.storage.schemas import SAMPLE_RATE

DURATION_EDGES_S = (1, 2, 5, 10, 15, 20, 30, 60)

Row = dict[str, Any]


def count_files(rows: Sequence[Row]) -> FileCounts:
    """Files by what became of them."""
    status = Counter(row["status"] for row in rows)
    return FileCounts(
        found=len(rows), accepted=status["accepted"], rejected=status["rejected"], skipped=status["skipped"]
    )


def count_reasons(rows: Sequence[Row]) -> dict[str, int]:
    """Files that were not used, by reason."""
    return dict(sorted(Counter(row["reason"] for row in rows if row["reason"]).items()))


def count_warnings(rows: Sequence[Row]) -> dict[str, int]:
    """Files that were taken though something is odd about them, by warning."""
    return dict(sorted(Counter(warning for row in rows for warning in row.get("warnings") or ()).items()))


def without_duplicates(files: list[Row], fresh: Sequence[Row]) -> list[Row]:
    """A shard's file rows with only what no earlier shard has (`fresh` utterances); a file of which nothing is left is skipped."""
    samples: Counter[str] = Counter()
    number: Counter[str] = Counter()
    for row in fresh:
        samples[row["recording_id"]] += row["num_samples"]
        number[row["recording_id"]] += 1
    for row in files:
        if row["status"] == "accepted":
            row["utterances"], row["speech_samples"] = number[row["recording_id"]], samples[row["recording_id"]]
            if not row["utterances"]:
                row.update(
                    status="skipped",
                    reason="duplicate",
                    detail="the same samples as a file of an earlier shard",
                    warnings=None,
                )
    return files


def mark_replaced(files: Sequence[Row], replaced: Mapping[str, str]) -> set[str]:
    """Mark the rows of files whose content was `replaced` (digest to digest) as skipped; returns the recordings that fall away.

    A recording stays while the new content gives no speech of its own, and while another file has the same samples.
    """
    usable = {row["sha256"] for row in files if row["recording_id"] and row["status"] != "rejected"}
    gone = {old for old, new in replaced.items() if new in usable}
    stay = {row["recording_id"] for row in files if row["sha256"] not in gone}
    fall = {row["recording_id"] for row in files if row["sha256"] in gone} - stay - {None}
    for row in files:
        if row["sha256"] in gone and row["recording_id"] not in stay - {None}:
            detail = "other content lies under its name in the source: that is taken instead"
            row.update(
                status="skipped", reason="replaced", detail=detail, utterances=0, speech_samples=0, warnings=None
            )
    return fall


def summarise_corpus(
    shards: list[str], duplicates: dict[str, list[str]], files: Sequence[Row], utterances: Sequence[Row]
) -> CorpusSummary:
    """The corpus in numbers."""
    samples: Counter[str] = Counter()
    for row in utterances:
        samples[row["split"]] += row["num_samples"]
    number = Counter(row["split"] for row in utterances)
    train, held_out = (samples[split] / SAMPLE_RATE / 3600 for split in ("train", "held_out"))
    labelled = [row for row in utterances if row["speaker"]]
    return CorpusSummary(
        shards=shards,
        duplicates=duplicates,
        files=count_files(files),
        reasons=count_reasons(files),
        hours=train + held_out,
        hours_train=train,
        hours_held_out=held_out,
        utterances=len(utterances),
        utterances_train=number["train"],
        utterances_held_out=number["held_out"],
        speakers=len({row["speaker"] for row in labelled}),
        speakers_held_out=len({row["speaker"] for row in labelled if row["split"] == "held_out"}),
        recordings=len({row["recording_id"] for row in utterances}),
        unlabelled_recordings=len({row["recording_id"] for row in utterances if not row["speaker"]}),
        transcribed_utterances=sum(row["transcript"] is not None for row in utterances),
        duration_histogram=_duration_histogram(utterances),
        warnings=count_warnings(files),
    )


def _duration_histogram(utterances: Sequence[Row]) -> DurationHistogram:
    # An utterance lies in the bin of the number of edges that it is longer than.
    bins = Counter(sum(row["num_samples"] > edge * SAMPLE_RATE for edge in DURATION_EDGES_S) for row in utterances)
    return DurationHistogram(
        edges_s=list(DURATION_EDGES_S), utterances=[bins[number] for number in range(len(DURATION_EDGES_S) + 1)]
    )

"""Rows of files and utterances -> the numbers of a shard and of a corpus. Nothing is read or written here."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinywave_core.stages.ingestion.summary import CorpusSummary, DurationHistogram, FileCounts
from tinywave_core.storage.schemas import SAMPLE_RATE

DURATION_EDGES_S = (1, 2, 5, 10, 15, 20, 30, 60)
_DURATION_EDGES = [edge * SAMPLE_RATE for edge in DURATION_EDGES_S]
_ID_DIGITS = 32

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


@dataclass(frozen=True)
class Replacement:
    """What falls away because other content lies under its name."""

    files: frozenset[str] = frozenset()
    """Digests of the content that was replaced by content that gives speech, or may give it."""
    recordings: frozenset[str] = frozenset()
    """Recordings that fall away."""

    def mark(self, files: Sequence[Row]) -> None:
        """Mark the rows of these files as skipped, unless another file has the same samples."""
        for row in files:
            recording = row["recording_id"]
            if row["sha256"] in self.files and (recording is None or recording in self.recordings):
                detail = "other content lies under its name in the source: that is taken instead"
                row.update(
                    status="skipped", reason="replaced", detail=detail, utterances=0, speech_samples=0, warnings=None
                )


def replacement(look: Callable[[], Iterable[Row]], replaced: Mapping[str, str]) -> Replacement:
    """What falls away of the files that each `look` goes through (sha256, recording_id, status), where digests were `replaced` by others.

    A recording stays while the new content gives no speech of its own, and while another file has the same samples.
    """
    if not replaced:
        return Replacement()
    wanted = set(replaced.values())
    usable = {r["sha256"] for r in look() if r["sha256"] in wanted and r["recording_id"] and r["status"] != "rejected"}
    gone = frozenset(old for old, new in replaced.items() if new in usable)
    of_gone = {row["recording_id"] for row in look() if row["sha256"] in gone} - {None}
    stay = {row["recording_id"] for row in look() if row["recording_id"] in of_gone and row["sha256"] not in gone}
    return Replacement(gone, frozenset(of_gone - stay))


def summarise_corpus(
    shards: list[str], duplicates: dict[str, list[str]], files: Sequence[Row], utterances: Sequence[Row]
) -> CorpusSummary:
    """The corpus in numbers, of all its rows at once."""
    counts = CorpusCounts()
    counts.add(files, utterances)
    return counts.summary(shards, duplicates)


class CorpusCounts:
    """The numbers of a corpus, shard by shard. Of the rows only the ids of recordings and the names of speakers are kept."""

    def __init__(self) -> None:
        self.found = 0
        self.reasons = Counter[str]()
        self.example: Row | None = None
        """The first file with a detail."""
        self._status = Counter[str]()
        self._warnings = Counter[str]()
        self._samples = Counter[str]()
        self._number = Counter[str]()
        self._bins = Counter[int]()
        self._transcribed = 0
        self._speakers = set[str]()
        self._speakers_held_out = set[str]()
        self._recordings = set[bytes]()
        self._unlabelled = set[bytes]()

    def add(self, files: Sequence[Row], utterances: Sequence[Row]) -> None:
        """Count these rows as well."""
        self.found += len(files)
        self._status.update(row["status"] for row in files)
        self.reasons.update(count_reasons(files))
        self._warnings.update(count_warnings(files))
        self.example = self.example or next((row for row in files if row["detail"]), None)
        for row in utterances:
            self._samples[row["split"]] += row["num_samples"]
            self._number[row["split"]] += 1
            # An utterance lies in the bin of the number of edges that it is longer than.
            self._bins[bisect_left(_DURATION_EDGES, row["num_samples"])] += 1
            self._transcribed += row["transcript"] is not None
            recording, speaker = compact_id(row["recording_id"]), row["speaker"]
            self._recordings.add(recording)
            if not speaker:
                self._unlabelled.add(recording)
                continue
            self._speakers.add(speaker)
            if row["split"] == "held_out":
                self._speakers_held_out.add(speaker)

    @property
    def utterances(self) -> int:
        return self._number.total()

    def summary(self, shards: list[str], duplicates: dict[str, list[str]]) -> CorpusSummary:
        """The corpus in numbers."""
        train, held_out = (self._samples[split] / SAMPLE_RATE / 3600 for split in ("train", "held_out"))
        return CorpusSummary(
            shards=shards,
            duplicates=duplicates,
            files=FileCounts(
                found=self.found,
                accepted=self._status["accepted"],
                rejected=self._status["rejected"],
                skipped=self._status["skipped"],
            ),
            reasons=dict(sorted(self.reasons.items())),
            hours=train + held_out,
            hours_train=train,
            hours_held_out=held_out,
            utterances=self.utterances,
            utterances_train=self._number["train"],
            utterances_held_out=self._number["held_out"],
            speakers=len(self._speakers),
            speakers_held_out=len(self._speakers_held_out),
            recordings=len(self._recordings),
            unlabelled_recordings=len(self._unlabelled),
            transcribed_utterances=self._transcribed,
            duration_histogram=DurationHistogram(
                edges_s=list(DURATION_EDGES_S),
                utterances=[self._bins[number] for number in range(len(DURATION_EDGES_S) + 1)],
            ),
            warnings=dict(sorted(self._warnings.items())),
        )


def compact_id(name: str) -> bytes:
    """An id of 32 hex digits in the 16 bytes that it stands for, to hold many of them; other names as they are."""
    try:
        return bytes.fromhex(name) if len(name) == _ID_DIGITS else name.encode()
    except ValueError:
        return name.encode()

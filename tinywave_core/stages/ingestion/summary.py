"""What ingestion reports of a shard and of the whole corpus."""

from pydantic import Field

from tinywave_core.steps.base import Summary
from tinywave_core.storage.store import Artifact

RELABELLED = "relabelled"
"""Part of an audio shard with later labels than those that it was cut with."""


class FileCounts(Summary):
    """Files of the source, copies included: found = accepted + rejected + skipped."""

    found: int
    accepted: int
    rejected: int
    skipped: int
    """Copies and other duplicates of what was taken, and what was replaced."""


class DurationHistogram(Summary):
    """How many utterances are how long."""

    edges_s: list[int]
    """Upper edges of the bins in seconds; the last bin is everything above."""
    utterances: list[int]
    """By bin: one more than edges."""


class AudioShardSummary(Summary):
    """One shard of utterances."""

    files: FileCounts
    reasons: dict[str, int]
    """How many files were not used, by reason."""
    utterances: int
    hours: float


class RelabelledSummary(AudioShardSummary):
    """A shard with later labels than those that it was cut with."""

    other_speakers: int
    """Recordings with another speaker than then, or with one at last."""
    other_transcripts: int
    to_train: int
    """Recordings that were held out then."""
    to_held_out: list[str]
    """Recordings that are held out, and were trained on then or in between."""


def hours_of(shard: Artifact) -> float:
    """Of speech in an audio shard, relabelled or not."""
    return (RelabelledSummary if shard.part == RELABELLED else AudioShardSummary).of(shard).hours


def original_of(shard: Artifact) -> Artifact:
    """An audio shard as it was cut."""
    if shard.part != RELABELLED:
        return shard
    (original,) = shard.manifest.inputs["shard"]  # type: ignore[union-attr]
    return shard.store.find(original, "shard")


class Relabelled(Summary):
    """Labels that came later than the recordings, of the whole corpus."""

    speakers: int
    """Recordings with another speaker than when they were taken, or with one at last."""
    transcripts: int
    to_train: int
    """Recordings that were held out before."""
    to_held_out: int
    """Recordings that were trained on before."""
    heard: str
    """Names the latter: what was trained on them is not gone on with. Empty for none."""


class CorpusSummary(Summary):
    """All shards together."""

    shards: list[str]
    """Artifact ids, in the order in which they were made."""
    duplicates: dict[str, list[str]]
    """By shard, utterances that an earlier shard has already, or whose recording was replaced."""
    files: FileCounts
    reasons: dict[str, int]
    hours: float
    hours_train: float
    hours_held_out: float
    utterances: int
    utterances_train: int
    utterances_held_out: int
    speakers: int
    """That are named by labels; recordings without one are counted below."""
    speakers_held_out: int
    recordings: int
    unlabelled_recordings: int
    transcribed_utterances: int
    duration_histogram: DurationHistogram
    warnings: dict[str, int] = Field(default_factory=dict)
    """Files that were taken though something is odd about them, by warning: see `audio.quality`."""
    relabelled: Relabelled | None = None
    """Unset where every recording has the labels that it was taken with."""


class Some(Summary):
    """Label rows or files of a kind: their number, and the first of them."""

    kind: str
    number: int
    first: list[str]


class LabelOrigin(Summary):
    """Where labels came from, and of how many recordings they are."""

    layout: str
    files: int
    """None where the recordings' own paths say it."""
    first: str
    """One of the files."""
    transcripts: int
    speakers: int


class LabelsSummary(Summary):
    """The labels of a source as one run saw them."""

    recordings: int
    """Audio files of the source, good and bad."""
    transcripts: int
    speakers: int
    origins: list[LabelOrigin]
    unmatched: Some
    """Label rows and texts that found no recording."""
    problems: list[Some]
    """By a key of `audio.labels.claims.PROBLEMS`."""
    unread: Some
    """Tables and JSON that are no labels."""


class MeasuresSummary(Summary):
    """Measures of one audio shard."""

    utterances: int
    dnsmos: int
    """Utterances that DNSMOS rated."""


class ClassesSummary(Summary):
    """Labels of one audio shard by one given model."""

    utterances: int
    likeliest: dict[str, int]
    """Of how many utterances each label is the most probable one; of a model with many labels, only those that are so of any."""


class LeftOut(Summary):
    """Utterances that are left out for one reason."""

    reason: str
    """Code of `audio.keeping.LIMITS`, or the name of a given model."""
    setting: str
    bound: float
    utterances: int
    """Whose first reason it is."""
    hours: float
    alone: int
    """Utterances that this threshold alone would leave out, whether others do too or not."""


class MeasureFigures(Summary):
    """One measure over the corpus."""

    measure: str
    """Column of quality.parquet."""
    known: int
    """Utterances of which it is known; the others are never left out by it."""
    quantiles: dict[str, float]
    """By percent: 0, 1, 5, 25, 50, 75, 95, 99, 100; empty where nothing is known."""
    edges: list[float]
    """Of the histogram's bins, one more than bins; the outermost hold what lies beyond."""
    counts: list[int]


class QualitySummary(Summary):
    """How good the utterances of a corpus are, and which are left out."""

    utterances: int
    hours: float
    kept_train: int
    """Utterances that are used, by side of the split."""
    kept_held_out: int
    hours_left_out: float
    left_out: list[LeftOut]
    """Of every threshold that is set, also where it leaves out nothing."""
    measured: list[MeasureFigures]

    @property
    def number_left_out(self) -> int:
        return self.utterances - self.kept_train - self.kept_held_out

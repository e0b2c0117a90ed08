"""What ingestion reports of a shard and of the whole corpus."""

from pydantic import Field

from tinywave_core.steps.base import Summary


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

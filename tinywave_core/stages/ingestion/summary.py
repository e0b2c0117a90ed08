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

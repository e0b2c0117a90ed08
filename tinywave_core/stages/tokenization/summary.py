"""What the parts of tokenization report: the tokenizer, word times, token shards of three kinds, and their sum.

Other stages read tokens by `TokensSummary`, and a token shard of any part (`shard`, `interleaved` or `text`) by `ShardSummary.of`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, PlainSerializer, PlainValidator

from tinywave_core.steps.base import Summary
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import column_bytes
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.embedded import EMBEDDED
from tinywave_core.tokenizers.streams import STREAMS, StreamName
from tinywave_core.tokenizers.vocabulary import KINDS, Vocabulary


def _vocabulary(value: Any) -> Vocabulary:
    return value if isinstance(value, Vocabulary) else Vocabulary.from_json(value)


# Written by `to_json`, as in every vocabulary.json: one form of it, whatever file it stands in.
WrittenVocabulary = Annotated[Vocabulary, PlainValidator(_vocabulary), PlainSerializer(Vocabulary.to_json)]


class CodebooksSummary(Summary):
    """A tokenizer that was fitted on training speech."""

    vocabulary: WrittenVocabulary
    """Of the codebooks, with bytes as text."""
    utterances: int
    """That were fitted on."""
    hours: float
    """Of these."""
    unit_counts: list[int]
    """How often each unit occurs in them."""
    unused_units: int


class GivenSummary(Summary):
    """A tokenizer whose models were given."""

    vocabulary: WrittenVocabulary
    """Its sizes, with bytes as text."""
    digests: dict[str, str]
    """SHA-256 of every model that has a say in the tokens, by name."""
    sizes: dict[str, int]
    """Different codes, by kind of token."""


def tokenizer_vocabulary(tokenizer: Artifact) -> Vocabulary:
    """The vocabulary of a speech tokenizer, fitted or given."""
    kind = CodebooksSummary if tokenizer.part == EMBEDDED.name else GivenSummary
    return kind.of(tokenizer).vocabulary


class AlignmentSummary(Summary):
    """Word times of an audio shard."""

    utterances: int
    aligned: int
    """Utterances whose words have times."""
    words: int
    aligned_hours: float
    refused: dict[str, int]
    """Utterances without, by the code of the reason."""


class HeardSummary(Summary):
    """Utterances of one split that the base has heard."""

    utterances: int
    """Of the split."""
    by_recording: int
    """Whose recording the base's list has."""
    by_sound: int
    """Of the others, those whose units the base has."""
    recordings: list[str]
    """Names of recordings that the base has heard, the first twenty."""

    @property
    def heard(self) -> int:
        """In either way."""
        return self.by_recording + self.by_sound


class LeaksSummary(Summary):
    """What the base has heard of the corpus."""

    held_out: HeardSummary
    train: HeardSummary


class UnitRunsSummary(Summary):
    """Runs of units of a token shard."""

    utterances: int
    runs: int
    """Different ones of each utterance, as its tokens are."""


class NearDuplicatesSummary(Summary):
    """Speech of a corpus that is there more than once."""

    utterances: int
    too_short: int
    """Of these, those with too few runs of units to tell."""
    copies: int
    """Pairs, of which each has the runs of the other."""
    excerpts: int
    """Pairs, of which one has the runs of the other."""
    repeated: int
    """Utterances most of whose runs very many have."""
    held_out_utterances: int
    held_out_heard: int
    """Held-out utterances that training speech has."""
    recordings: list[str]
    """Names of their recordings, the first twenty."""
    left_out: bool
    """Whether those that would go are left out of training."""
    would_go: int
    """Training utterances that would go if one of each group was kept."""
    would_go_seconds: float


class SuiteRunsSummary(Summary):
    """Runs of units of a benchmark's recordings."""

    recordings: int
    unreadable: list[str]
    """Names of recordings that could not be read, each with the reason."""


class SuiteHeardSummary(Summary):
    """What training speech has of one benchmark."""

    name: str
    recordings: int
    """That were read."""
    unreadable: int
    too_short: int
    """Of the recordings, those with too few runs of units to tell by sound, and not found otherwise."""
    by_recording: int
    """That lie among the training recordings, by their bytes or samples."""
    by_sound: int
    """Of the others, those whose units training speech has."""
    examples: list[str]
    """Names of recordings that training speech has, the first twenty."""

    @property
    def heard(self) -> int:
        """In either way."""
        return self.by_recording + self.by_sound


class BenchmarksSummary(Summary):
    """What training speech has of the benchmarks that are asked for."""

    suites: list[SuiteHeardSummary]
    left_out: bool
    """Whether what they have is left out of training."""
    would_go: int
    """Training utterances that a benchmark has."""
    would_go_seconds: float


class _AnyShard(Summary):
    vocabulary: WrittenVocabulary
    unvoiced_chunks: int
    """Stretches of up to 100 s without a voiced frame."""
    ids_bytes: int
    """That ids take in the file, of one drawing."""
    train_utterances: int
    train_tokens: int
    train_seconds: float
    held_out_utterances: int
    held_out_tokens: int
    held_out_seconds: float
    kinds: dict[str, int]
    """Tokens by kind."""
    units_counts: list[int]
    """How often each unit occurs; likewise for the other streams."""
    pitch_counts: list[int]
    style_counts: list[int]

    def counts(self, stream: StreamName) -> list[int]:
        """How often each code of a stream occurs."""
        return {"units": self.units_counts, "pitch": self.pitch_counts, "style": self.style_counts}[stream]

    @classmethod
    def of_rows(cls, rows: list[dict[str, Any]], vocabulary: Vocabulary, path: Path, **others: Any) -> Self:
        """Figures of the rows of the shard at `path`; of several drawings of an utterance, one counts: those of an epoch."""
        first = [row for row in rows if row.get("variant", 0) <= 0]
        splits: dict[str, Any] = {}
        for split in ("train", "held_out"):
            inside = [row for row in first if row["split"] == split]
            splits[f"{split}_utterances"] = len(inside)
            splits[f"{split}_tokens"] = sum(len(row["ids"]) for row in inside)
            splits[f"{split}_seconds"] = sum(row["num_samples"] for row in inside) / SAMPLE_RATE
        kinds = np.bincount(vocabulary.kinds(_joined(first, "ids")), minlength=len(KINDS))
        counts = {
            f"{stream.name}_counts": np.bincount(
                _joined(first, stream.name), minlength=vocabulary.sizes[stream.kind]
            ).tolist()
            for stream in STREAMS
        }
        return cls(
            vocabulary=vocabulary,
            unvoiced_chunks=sum(row["unvoiced_chunks"] for row in first),
            ids_bytes=column_bytes(path, "ids") * len(first) // max(len(rows), 1),
            **splits,
            kinds={kind: int(count) for kind, count in zip(KINDS, kinds, strict=True)},
            **counts,
            **others,
        )


class SpokenSummary(_AnyShard):
    """A token shard of part `shard`: speech."""

    trains_as: str | None = None
    """Of a shard that is relabelled or lacks what is left out, the one that it was made from, where the two are the same to what trains
    on them."""


class InterleavedSummary(_AnyShard):
    """A token shard of part `interleaved`: speech with some of its words as text."""

    drawings: int
    """Of the spans of each utterance."""
    patterns: dict[str, int]
    """Sequences by their spans of speech (S) and text (T)."""
    modalities: list[int]
    """Special, speech and text tokens of all drawings."""
    switches: int
    """Tokens that stand at a change of modality."""


class TextSummary(_AnyShard):
    """A token shard of part `text`: documents."""

    documents: int
    documents_read: int
    """Of which those were chosen."""
    rows_refused: int
    refused_examples: list[str]
    """The first of them, with reasons."""
    patterns: dict[str, int]


ShardSummary = SpokenSummary | InterleavedSummary | TextSummary


def shard_summary(shard: Artifact) -> ShardSummary:
    """The summary of a token shard, whichever part it is."""
    kinds: dict[str, type[ShardSummary]] = {
        "shard": SpokenSummary,
        "interleaved": InterleavedSummary,
        "text": TextSummary,
    }
    return kinds[shard.part].of(shard)


class ListedShard(Summary):
    """A token shard as the sum of all names it."""

    id: str
    part: str
    """`shard`, `interleaved` or `text`."""
    train_utterances: int
    train_tokens: int
    train_seconds: float
    held_out_utterances: int
    held_out_tokens: int
    held_out_seconds: float
    trains_as: str | None = None
    """The shard that stands for it where models are trained: that of `SpokenSummary`."""


class Aligned(Summary):
    """Word times of all shards."""

    utterances: int
    aligned: int
    words: int
    # A sum over no shard is the whole number 0, and manifests of such runs have it so.
    aligned_hours: int | float


class TokensSummary(Summary):
    """All token shards of a corpus, and the tokenizer behind them."""

    shards: list[ListedShard]
    aligned: Aligned | None = None
    """Of the utterances that were to be interleaved; this and the next four are unset where there is no text."""
    refused: dict[str, int] = Field(default={})
    patterns: dict[str, int] = Field(default={})
    switches: int = 0
    documents: int = 0
    leaks: LeaksSummary | None = None
    """What the base has heard of this speech; unset where the teacher is another."""
    heard: str = ""
    """Names the recordings that later labels took out of training (`Relabelled.heard`); unset for none."""
    tokenizer: str
    """Id of the speech tokenizer's artifact."""
    tokenizer_kind: str
    """Its kind, which is its part in the store."""
    vocabulary: WrittenVocabulary
    """Of the ids: the teacher's, if it came with its own."""
    unvoiced_chunks: int
    train_utterances: int
    train_tokens: int
    train_seconds: float
    held_out_utterances: int
    held_out_tokens: int
    held_out_seconds: float
    tokens: int
    tokens_per_s: float
    bytes_per_token: float
    streams: dict[str, int]
    """Tokens by kind."""
    unit_histogram: list[int]
    """How often each unit occurs, by its number; likewise for the other streams."""
    pitch_histogram: list[int]
    style_histogram: list[int]
    drift: dict[str, float]
    """By shard: bits between its units and those of the codebooks' fit; empty for given models."""

    def tokenizer_artifact(self, tokens: Artifact) -> Artifact:
        """The speech tokenizer, from the store of the `tokens` artifact."""
        return tokens.store.find(self.tokenizer, self.tokenizer_kind)


def _joined(rows: Sequence[dict[str, Any]], column: str) -> Any:
    return np.concatenate([np.zeros(0, np.int64), *(np.asarray(row[column], np.int64) for row in rows)])

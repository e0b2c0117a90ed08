"""One utterance and all that a store knows of it: sound, labels, neighbours, codes of each stream, words, measures.

In: the id of an utterance, and of an artifact that has it or was made from it. Out: `Found`, read by ranges of rows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from tinywave_core.audio.utterances import AUDIO_FILE, UTTERANCES, UTTERANCES_FILE
from tinywave_core.browsing import axis
from tinywave_core.browsing.holdings import Holdings, Reader
from tinywave_core.browsing.tables import opened, row_number, row_of, rows_at, rows_where
from tinywave_core.errors import MissingInputError
from tinywave_core.storage.schemas import SAMPLE_RATE, TOKENS_FILE, WORDS

WORDS_FILE, MEASURES_FILE = "words.parquet", "measures.parquet"
CODES = ("units", "pitch", "style")


@dataclass(frozen=True)
class Place:
    """Where an utterance lies."""

    shard: str
    """Id of the audio shard."""
    row: int


@dataclass(frozen=True)
class Codes:
    """The codes of an utterance in one artifact of tokens."""

    artifact: str
    streams: Mapping[str, Sequence[int]]
    rates_hz: Mapping[str, float]

    def lanes(self, seconds: float) -> dict[str, list[axis.Span]]:
        """Runs of codes by stream, for sound of this length; streams that the tokenizer does not have are left out."""
        streams = {name: codes for name, codes in self.streams.items() if codes and name in self.rates_hz}
        return {name: axis.spans(codes, self.rates_hz[name], seconds) for name, codes in streams.items()}


@dataclass(frozen=True)
class Word:
    """A word with its time in seconds."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Found:
    """What is known of it."""

    id: str
    place: Place
    row: Mapping[str, Any]
    """Its row in the shard."""
    previous: str | None
    next: str | None
    """Ids of its neighbours in the shard."""
    codes: Codes | None
    other_codes: Sequence[str]
    """Further artifacts with tokens of this shard."""
    words: Sequence[Word]
    measures: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        return float(self.row["num_samples"]) / SAMPLE_RATE


def place_of(reader: Reader, holdings: Holdings, near: str, utterance_id: str) -> Place:
    """Where an utterance lies, among the audio shards that `near` is or was made from; MissingInputError where it is in none."""
    shards = [i for i in (near, *holdings.before(near)) if _is_audio(holdings, i)]
    for shard in shards:
        with opened(reader.artifact(shard), UTTERANCES_FILE) as file:
            row = row_number(file, "utterance_id", utterance_id)
        if row is not None:
            return Place(shard, row)
    raise MissingInputError(f"no audio that {near} was made from has the utterance {utterance_id!r}")


def _is_audio(holdings: Holdings, artifact_id: str) -> bool:
    entry = holdings.entries.get(artifact_id)
    return entry is not None and entry.label == "ingestion/shard"


def found(reader: Reader, holdings: Holdings, near: str, utterance_id: str, tokens: str = "") -> Found:
    """All of it; the codes are those of `tokens`, of `near`, or the newest."""
    place = place_of(reader, holdings, near, utterance_id)
    with opened(reader.artifact(place.shard), UTTERANCES_FILE) as file:
        around = rows_at(file, max(0, place.row - 1), 3 if place.row else 2, UTTERANCES.names)
    ids = [row["utterance_id"] for row in around]
    at = ids.index(utterance_id)
    having = [i for i in holdings.after(place.shard) if i in _token_shards(holdings, place.shard)]
    having.sort(key=lambda i: (i == tokens, i == near, holdings.entries[i].created_at), reverse=True)
    return Found(
        utterance_id,
        place,
        around[at],
        ids[at - 1] if at else None,
        ids[at + 1] if at + 1 < len(ids) else None,
        _codes(reader, having[0], utterance_id) if having else None,
        having[1:],
        _words(reader, holdings, place.shard, utterance_id),
        _measures(reader, holdings, place.shard, utterance_id),
    )


def flac(reader: Reader, shard: str, utterance_id: str) -> bytes:
    """Its sound, as it lies in the shard."""
    artifact = reader.artifact(shard)
    if AUDIO_FILE not in artifact.files:
        raise MissingInputError(f"{shard} has no sound")
    with opened(artifact, AUDIO_FILE) as file:
        row = row_of(file, "utterance_id", utterance_id, ["flac"])
    if row is None:
        raise MissingInputError(f"{shard} has no utterance {utterance_id!r}")
    return bytes(row["flac"])


def _token_shards(holdings: Holdings, shard: str) -> set[str]:
    users = holdings.users.get(shard, ())
    return {i for i in users if holdings.entries[i].label == "tokenization/shard"}


def _codes(reader: Reader, artifact_id: str, utterance_id: str) -> Codes | None:
    artifact = reader.artifact(artifact_id)
    if TOKENS_FILE not in artifact.files:
        return None
    with opened(artifact, TOKENS_FILE) as file:
        rates = json.loads((file.schema_arrow.metadata or {}).get(b"rates_hz", b"{}"))
        row = row_of(file, "utterance_id", utterance_id, CODES)
    return None if row is None else Codes(artifact_id, row, rates)


def _words(reader: Reader, holdings: Holdings, shard: str, utterance_id: str) -> list[Word]:
    """From the newest alignment that has some."""
    alignments = [i for i in holdings.users.get(shard, ()) if holdings.entries[i].label == "tokenization/alignment"]
    for artifact_id in sorted(alignments, key=lambda i: holdings.entries[i].created_at, reverse=True):
        with opened(reader.artifact(artifact_id), WORDS_FILE) as file:
            rows = rows_where(file, WORDS.names, lambda batch: pc.equal(batch["utterance_id"], utterance_id))
            words = [
                Word(row["word"], row["start_samples"] / SAMPLE_RATE, row["end_samples"] / SAMPLE_RATE) for row in rows
            ]
        if words:
            return words
    return []


def _measures(reader: Reader, holdings: Holdings, shard: str, utterance_id: str) -> dict[str, Any]:
    """From the newest measures of the shard."""
    measured = [i for i in holdings.users.get(shard, ()) if holdings.entries[i].label == "ingestion/measures"]
    if not measured:
        return {}
    newest = max(measured, key=lambda i: holdings.entries[i].created_at)
    with opened(reader.artifact(newest), MEASURES_FILE) as file:
        row = row_of(file, "utterance_id", utterance_id, file.schema_arrow.names)
    return {name: value for name, value in (row or {}).items() if name != "utterance_id" and value is not None}

"""Speech that a vocoder is made of, by utterance: which, and its sound."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.store import Artifact

if TYPE_CHECKING:
    from tinywave_core.tokenizers.speech import Streams

Samples = npt.NDArray[np.float32]
Rows = dict[str, dict[str, Any]]
"""Token rows by utterance."""


def spoken(rows: Iterable[dict[str, Any]]) -> Rows:
    """Rows of recordings by utterance; rows of text have neither samples nor units."""
    return {row["utterance_id"]: row for row in rows if row["num_samples"] and row["units"]}


def shuffled(ids: Iterable[str], what: str, seed: int) -> list[str]:
    """Ids in an order that a hash of each alone decides."""
    return sorted(ids, key=lambda i: hashlib.sha256(f"{what}/{seed}/{i}".encode()).digest())


def first(rows: Rows, order: list[str], minutes: float) -> Iterator[str]:
    """Ids in this order until there are so many minutes of speech."""
    room = minutes * 60 * SAMPLE_RATE
    for i in order:
        if room <= 0:
            return
        yield i
        room -= rows[i]["num_samples"]


def read_recordings(audio: Iterable[Artifact], wanted: set[str]) -> Iterator[tuple[str, Samples]]:
    """Each wanted utterance once, from the audio shards that have them."""
    from tinywave_core.audio.utterances import read_utterances

    seen: set[str] = set()
    for shard in audio:
        for utterance in read_utterances(shard, wanted):
            if utterance.utterance_id not in seen:
                seen.add(utterance.utterance_id)
                yield utterance.utterance_id, utterance.samples


def streams_of(row: dict[str, Any]) -> "Streams":
    """The raw streams of a token row."""
    from tinywave_core.tokenizers.speech import Streams

    return Streams.of_row(row)

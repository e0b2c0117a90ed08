"""Speech that a vocoder is made of, by utterance: which, and its sound."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinywave_core.drawing import draw
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.store import Artifact

if TYPE_CHECKING:
    from tinywave_core.tokenizers.speech import Streams

Samples = npt.NDArray[np.float32]
Rows = dict[str, dict[str, Any]]
"""Token rows by utterance."""


def spoken(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of recordings; rows of text have neither samples nor units."""
    return (row for row in rows if row["num_samples"] and row["units"])


def _by_id(rows: Iterable[dict[str, Any]]) -> Rows:
    """Rows by utterance."""
    return {row["utterance_id"]: row for row in rows}


def draw_minutes(rows: Iterable[dict[str, Any]], what: str, seed: int, minutes: float) -> Rows:
    """The first rows in an order that a hash of each id decides, until there are so many minutes of speech."""
    return _by_id(draw(rows, _shuffle(what, seed), minutes * 60 * SAMPLE_RATE, lambda row: row["num_samples"]))


def draw_clips(rows: Iterable[dict[str, Any]], what: str, seed: int, number: int) -> Rows:
    """So many of the first rows in such an order."""
    return _by_id(draw(rows, _shuffle(what, seed), number))


def _shuffle(what: str, seed: int) -> Callable[[dict[str, Any]], bytes]:
    return lambda row: hashlib.sha256(f"{what}/{seed}/{row['utterance_id']}".encode()).digest()


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

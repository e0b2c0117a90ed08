"""Continuation cloze across modalities: speech or text goes on as speech or text, in its own words or in another recording's.

Four directions, from held-out transcribed speech: S→S, S→T, T→S, T→T. The first half of an utterance's words is the prompt in
one modality; its second half, and that of another recording (of another speaker where speakers are known), are the
continuations in the other or the same. The right one has the higher mean log-probability per token. Chance is 0.5.
After SpiritLM's cross-modal story cloze (arXiv 2402.05755, section 4), on the user's own recordings.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tinywave_core.alignment.words import Word
from tinywave_core.config.evaluation import EvaluationConfig
from tinywave_core.evals.continuation_cloze import ClozeItem
from tinywave_core.sequences.interleaving import EncodeText, Span, interleaved_ids
from tinywave_core.tokenizers.prompts import Modality
from tinywave_core.tokenizers.speech import Streams
from tinywave_core.tokenizers.vocabulary import Vocabulary

DIRECTIONS: dict[str, tuple[Modality, Modality]] = {
    "S→S": ("speech", "speech"),
    "S→T": ("speech", "text"),
    "T→S": ("text", "speech"),
    "T→T": ("text", "text"),
}


@dataclass(frozen=True)
class Timed:
    """A held-out utterance whose words have times."""

    utterance_id: str
    recording_id: str
    speaker: str | None
    num_samples: int
    streams: Streams
    words: tuple[Word, ...]

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "utterance_id",
        "recording_id",
        "speaker",
        "num_samples",
        "units",
        "pitch",
        "style",
        "words",
        "word_starts",
        "word_ends",
    )
    """Of a token shard, that it is made from."""

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Timed":
        """From a row of an interleaved shard (schema INTERLEAVED, drawing 0)."""
        times = zip(row["words"], row["word_starts"], row["word_ends"], strict=True)
        return cls(
            row["utterance_id"],
            row["recording_id"],
            row["speaker"],
            row["num_samples"],
            Streams.of_row(row),
            tuple(Word(*word) for word in times),
        )


def cross_modal_items(
    utterances: Sequence[Timed],
    vocabulary: Vocabulary,
    encode_text: EncodeText,
    config: EvaluationConfig,
    max_length: int,
) -> dict[str, list[ClozeItem]]:
    """Items by direction, the same utterances and wrong continuations in each; both continuations are equally long."""
    usable = sorted(
        (u for u in utterances if len(u.words) >= 2 * config.cloze_min_words),
        key=lambda u: _key(config.seed, u.utterance_id),
    )
    pairs: list[tuple[Timed, Timed]] = []
    for own in usable:
        others = [o for o in usable if _foreign(own, o)]
        if others and len(pairs) < config.cloze_items:
            pairs.append((own, min(others, key=lambda o: _key(config.seed, own.utterance_id + o.utterance_id))))
    items: dict[str, list[ClozeItem]] = {}
    for name, (first, second) in DIRECTIONS.items():
        in_direction = [_item(own, other, first, second, vocabulary, encode_text) for own, other in pairs]
        items[name] = [i for i in in_direction if i is not None and max(len(i.right), len(i.wrong)) <= max_length]
    return {name: in_direction for name, in_direction in items.items() if in_direction}


def _foreign(own: Timed, other: Timed) -> bool:
    return other.recording_id != own.recording_id and (own.speaker is None or other.speaker != own.speaker)


def _item(
    own: Timed, other: Timed, first: Modality, second: Modality, vocabulary: Vocabulary, encode_text: EncodeText
) -> ClozeItem | None:
    prompt = _part(own, first, vocabulary, encode_text, last=False)
    opening = vocabulary.prompt_ids(vocabulary.text_marker if first == "text" else vocabulary.speech_marker)
    marker = vocabulary.text_marker if second == "text" else vocabulary.speech_marker
    after = " " if first == second == "text" else ""  # between two words of one text
    right = _part(own, second, vocabulary, encode_text, last=True, after=after)
    wrong = _part(other, second, vocabulary, encode_text, last=True, after=after)
    if prompt is None or right is None or wrong is None:
        return None
    head = np.concatenate([opening, prompt, [] if first == second else [marker]]).astype(np.uint16)
    length = min(len(right), len(wrong))
    return ClozeItem(
        own.utterance_id,
        other.utterance_id,
        len(head),
        np.concatenate([head, right[:length]]),
        np.concatenate([head, wrong[:length]]),
    )


def _part(
    utterance: Timed,
    modality: Modality,
    vocabulary: Vocabulary,
    encode_text: EncodeText,
    *,
    last: bool,
    after: str = "",
) -> npt.NDArray[np.uint16] | None:
    """Tokens of one half of the words in one modality, without markers; None for a half too short for a unit of speech."""
    words, half = utterance.words, len(utterance.words) // 2
    if modality == "text":
        text = " ".join(word.text for word in (words[half:] if last else words[:half]))
        return np.asarray(encode_text(after + text), np.uint16)
    cut = (words[half - 1].end_samples + words[half].start_samples) // 2
    modalities: tuple[Modality, Modality] = ("text", "speech") if last else ("speech", "text")
    spans = [
        Span(modalities[0], 0, half, 0, cut),
        Span(modalities[1], half, len(words), cut, utterance.num_samples),
    ]
    parts = interleaved_ids(utterance.streams, words, spans, vocabulary, encode_text)
    if len(parts.ranges) < len(spans):
        return None
    start, end = parts.ranges[int(last)]
    return parts.ids[start:end].astype(np.uint16)


def _key(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"cross-modal/{seed}/{name}".encode()).digest()

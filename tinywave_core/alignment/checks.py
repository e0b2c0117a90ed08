"""Words with times -> accepted, or refused with a reason: impossible times, or times unlike those of a right transcript.

The limits were measured with pocketsphinx on 330 recordings (LibriSpeech test-other and train-clean, LJ Speech, one more
voice), each with its own transcript and with one of another recording. Its confidence tells the two apart; where words
have none, only gross mismatches are noticed.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from tinywave_core.alignment.base import Refusal
from tinywave_core.alignment.normalize import written_words
from tinywave_core.alignment.words import Word
from tinywave_core.storage.schemas import SAMPLE_RATE

# A frame of an aligner: alignments may end so much after the audio, because they count whole frames.
TOLERANCE_SAMPLES = 320
WORDS_PER_SECOND = (0.7, 6.5)
"""Words in the length of the clip. Right: 1.2 to 4.7."""
SHORT_SAMPLES, MAX_SHORT_SHARE = SAMPLE_RATE // 20, 0.34
"""Words under 50 ms are where an aligner had no room. Right: up to 0.2 of the words."""
LONG_SAMPLES, MAX_LONG_SHARE = SAMPLE_RATE, 0.25
"""Words over 1 s are where it had nothing to put. Right: up to 0.25 of the words."""
MIN_ALIGNED_SHARE = 0.4
"""Time in words, of the clip. Right: from 0.47."""
FEW_WORDS = 4
"""Shares of fewer words say nothing."""


def check(
    words: Sequence[Word],
    num_samples: int,
    *,
    transcript: str | None = None,
    min_confidence: float | None = None,
) -> Refusal | None:
    """None if the words may be used, else the first reason against them.

    `transcript` is what was aligned, for the count of its words. Three quarters of the words that have a confidence must reach
    `min_confidence`: at the same loss of right transcripts (1 in 100) the lower quartile lets through 119 of 330 transcripts
    that lack a third, and the median 201; none of another recording either way.
    """
    faults = (_count(words, transcript), _order(words, num_samples), _confidence(words, min_confidence))
    return next((fault for fault in faults if fault), None) or next(_mismatches(words, num_samples), None)


def _count(words: Sequence[Word], transcript: str | None) -> Refusal | None:
    expected = len(words) if transcript is None else len(written_words(transcript))
    if not words or len(words) != expected:
        return Refusal("word_count", f"{len(words)} words have times, expected {expected or 'at least 1'}")
    return None


def _order(words: Sequence[Word], num_samples: int) -> Refusal | None:
    for word in words:
        if word.end_samples <= word.start_samples:
            return Refusal("backwards", f"{_describe(word)} ends at or before its start")
        if word.start_samples < 0:
            return Refusal("before_start", f"{_describe(word)} begins before the audio")
        if word.end_samples > num_samples + TOLERANCE_SAMPLES:
            return Refusal(
                "past_end", f"{_describe(word)} passes the end of the audio at {num_samples / SAMPLE_RATE:.2f} s"
            )
    for word, following in pairwise(words):
        if following.start_samples < word.start_samples:
            return Refusal("backwards", f"{_describe(following)} begins before {_describe(word)}, which it follows")
        if following.start_samples < word.end_samples:
            return Refusal("overlap", f"{_describe(word)} and {_describe(following)} overlap")
    return None


def _confidence(words: Sequence[Word], minimum: float | None) -> Refusal | None:
    confidences = [word.confidence for word in words if word.confidence is not None]
    if minimum is None or not confidences or (quartile := float(np.quantile(confidences, 0.25))) >= minimum:
        return None
    return Refusal(
        "low_confidence", f"a quarter of the words have a confidence up to {quartile:.3f}, expected {minimum:g}"
    )


def _mismatches(words: Sequence[Word], num_samples: int) -> Iterator[Refusal]:
    """The transcript may be of another recording."""
    lengths, num_samples = [word.end_samples - word.start_samples for word in words], max(num_samples, 1)
    low, high = WORDS_PER_SECOND
    if not low <= (rate := len(words) * SAMPLE_RATE / num_samples) <= high:
        yield Refusal("mismatch", f"{rate:.1f} words per second, expected {low} to {high}")
    if (share := sum(lengths) / num_samples) < MIN_ALIGNED_SHARE:
        yield Refusal("mismatch", f"words cover {share:.0%} of the audio, expected at least {MIN_ALIGNED_SHARE:.0%}")
    if len(words) >= FEW_WORDS:
        if (share := sum(length < SHORT_SAMPLES for length in lengths) / len(words)) > MAX_SHORT_SHARE:
            yield Refusal("mismatch", f"{share:.0%} of the words are under 50 ms, expected up to {MAX_SHORT_SHARE:.0%}")
        if (share := sum(length > LONG_SAMPLES for length in lengths) / len(words)) > MAX_LONG_SHARE:
            yield Refusal("mismatch", f"{share:.0%} of the words are over 1 s, expected up to {MAX_LONG_SHARE:.0%}")


def _describe(word: Word) -> str:
    return f"{word.text!r} ({word.start_samples / SAMPLE_RATE:.2f}-{word.end_samples / SAMPLE_RATE:.2f} s)"

"""Sound and an English transcript -> words with times, with pocketsphinx (BSD licence; its model and dictionary come with it).

Forced alignment of the whole utterance in frames of 10 ms, at about 60 times the speed of speech on one core. English only:
the dictionary of 135,000 words is CMU's. What it lacks gets a rough pronunciation by its spelling. Where 120 words that it
has were treated so, the edges of nine in ten moved by no more than 30 ms; leaving them out and interpolating cost 210 to
410 ms. The confidence of a word is the geometric mean, over its frames, of how likely the sound is beside the most likely
state of the search: right words have about 0.3, words of another transcript 0.02.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinywave_core.alignment.base import Refusal
from tinywave_core.alignment.normalize import Written, written_words
from tinywave_core.alignment.untimed import interpolate
from tinywave_core.alignment.words import Word
from tinywave_core.errors import ConfigError

FRAME_SAMPLES = 160
VARIANT = re.compile(r"\(\d+\)$")  # "and(2)" is the second pronunciation of "and"
# Spellings, longest first, and what they mostly stand for in the phones of CMU's dictionary.
SPELLINGS = (
    ("tion", "SH AH N"), ("igh", "AY"), ("ch", "CH"), ("sh", "SH"), ("th", "TH"), ("ph", "F"), ("ck", "K"), ("qu", "K W"),
    ("ng", "NG"), ("ee", "IY"), ("ea", "IY"), ("oo", "UW"), ("ou", "AW"), ("ow", "OW"), ("ai", "EY"), ("ay", "EY"),
    ("ei", "EY"), ("oi", "OY"), ("oy", "OY"), ("au", "AO"), ("aw", "AO"), ("er", "ER"), ("ir", "ER"), ("ur", "ER"),
    ("wh", "W"), ("kn", "N"), ("wr", "R"), ("dg", "JH"), ("a", "AE"), ("b", "B"), ("c", "K"), ("d", "D"), ("e", "EH"),
    ("f", "F"), ("g", "G"), ("h", "HH"), ("i", "IH"), ("j", "JH"), ("k", "K"), ("l", "L"), ("m", "M"), ("n", "N"),
    ("o", "AA"), ("p", "P"), ("q", "K"), ("r", "R"), ("s", "S"), ("t", "T"), ("u", "AH"), ("v", "V"), ("w", "W"),
    ("x", "K S"), ("y", "IY"), ("z", "Z"),
)  # fmt: skip
DOUBLED = re.compile(r"([^aeiou])\1")


class SphinxAligner:
    """One decoder, which takes a third of a second to make and must not be shared by threads."""

    name = "pocketsphinx"
    min_confidence = 0.055
    """For the lower quartile of an utterance: right transcripts have 0.2 (median of 330), 3 of them less than this."""

    def __init__(self, max_out_of_dictionary: float = 0.3) -> None:
        """`max_out_of_dictionary`: share of a transcript's words that may be missing in the dictionary, 0 to 1."""
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise ConfigError(
                "alignment with pocketsphinx needs the package pocketsphinx, which is not installed: "
                "pip install 'tinywave[alignment]', or give ready word times"
            ) from error
        self._decoder: Any = Decoder(lm=None, loglevel="FATAL")
        self._rough: set[str] = set()
        self._max_out_of_dictionary = max_out_of_dictionary

    def align(self, samples_N: npt.NDArray[np.float32], transcript: str) -> list[Word] | Refusal:
        """Times of the transcript's words; out-of-dictionary words have a lower confidence than others."""
        written = written_words(transcript)
        pronunciations = [tuple(self._pronounceable(part) for part in word.spoken) for word in written]
        flat = [part for parts in pronunciations for part in parts]
        if not flat:
            return Refusal("no_transcript", f"the transcript {transcript[:60]!r} has no English words")
        unknown = [
            word.text
            for word, parts in zip(written, pronunciations, strict=True)
            if not parts or not self._rough.isdisjoint(parts)
        ]
        if len(unknown) / len(written) > self._max_out_of_dictionary:
            return Refusal(
                "out_of_dictionary_share",
                f"{len(unknown)} of {len(written)} words are not in the English dictionary, such as {unknown[0][:40]!r}; "
                f"expected up to {self._max_out_of_dictionary:.0%}",
            )
        segments = self._segments(samples_N, flat)
        return segments if isinstance(segments, Refusal) else _words(written, pronunciations, segments, len(samples_N))

    def align_phones(
        self, samples_N: npt.NDArray[np.float32], transcript: str
    ) -> tuple[list[Word], list[Word]] | Refusal:
        """Times of the words and of their phones (CMU's, without stress), from a second pass over the sound."""
        words = self.align(samples_N, transcript)
        if isinstance(words, Refusal):
            return words
        try:
            self._decoder.set_alignment()
            self._decoder.start_utt()
            try:
                self._decoder.process_raw(_pcm(samples_N), full_utt=True)
            finally:
                self._decoder.end_utt()
            phones = [
                Word(phone.name, phone.start * FRAME_SAMPLES, (phone.start + phone.duration) * FRAME_SAMPLES)
                # Nested: a word's phones can be asked for only until the next word is.
                for part in self._decoder.get_alignment() or ()
                if part.name[0] not in "<[("
                for phone in part
            ]
        except (RuntimeError, ValueError) as error:
            return Refusal("failed", f"pocketsphinx found no phones in the audio ({error})")
        return words, [phone for phone in phones if phone.text != "SIL"]

    def _segments(self, samples_N: npt.NDArray[np.float32], parts: list[str]) -> list[tuple[int, int, float]] | Refusal:
        """First frame, frame after the last, and log-likelihood of each part."""
        if not len(samples_N) or not np.isfinite(samples_N).all():
            return Refusal("failed", f"the {len(samples_N)} samples are none, or not all of them numbers")
        # What the front end has learned of the noise in earlier utterances must not change this one.
        self._decoder.reinit_feat()
        try:
            self._decoder.set_align_text(" ".join(parts))
            self._decoder.start_utt()
            try:
                self._decoder.process_raw(_pcm(samples_N), full_utt=True)
            finally:
                self._decoder.end_utt()
            segments = list(self._decoder.seg() or ())
        except (RuntimeError, ValueError) as error:
            return Refusal(
                "failed",
                f"pocketsphinx found no path through the audio ({error}): the transcript may be of another recording",
            )
        segments = [segment for segment in segments if segment.word[0] not in "<[("]
        names = [VARIANT.sub("", segment.word) for segment in segments]
        if not names:
            return Refusal(
                "failed", "pocketsphinx found no path through the audio: the transcript may be of another recording"
            )
        if names != parts:  # the last word may be lost without an error
            return Refusal(
                "word_count", f"pocketsphinx timed {len(names)} of {len(parts)} words, the last is {names[-1]!r}"
            )
        return [(s.start_frame, s.end_frame + 1, math.log(max(s.ascore, 1e-300))) for s in segments]

    def _pronounceable(self, part: str) -> str:
        """The part itself, which has a pronunciation afterwards."""
        if self._decoder.lookup_word(part) is None:
            stem = part.removesuffix("s").removesuffix("'")  # "Leo's" and "churchyards" of "Leo" and "churchyard"
            phones = self._decoder.lookup_word(stem) if stem not in (part, "") else None
            if phones is None:
                self._rough.add(part)
                phones = self._by_letters(part)
            else:
                phones = f"{phones} Z"
            self._decoder.add_word(part, phones, True)
        return part

    def _by_letters(self, part: str) -> str:
        letters = part.replace("'", "")
        if not re.search("[aeiouy]", letters):
            return " ".join(self._decoder.lookup_word(letter) for letter in letters)
        return rough_pronunciation(letters)


def _pcm(samples_N: npt.NDArray[np.float32]) -> bytes:
    return (np.clip(samples_N, -1, 1) * 32767).astype("<i2").tobytes()


def rough_pronunciation(letters: str) -> str:
    """Phones of CMU's dictionary for a word of the letters a-z, one spelling after the other."""
    rest, phones = DOUBLED.sub(r"\1", letters), list[str]()
    if len(rest) > 3 and rest.endswith("e"):
        rest = rest[:-1]
    while rest:
        spelling, sound = next(pair for pair in SPELLINGS if rest.startswith(pair[0]))
        phones.append(sound)
        rest = rest[len(spelling) :]
    return " ".join(phones)


def _words(
    written: Sequence[Written],
    pronunciations: Sequence[tuple[str, ...]],
    segments: Sequence[tuple[int, int, float]],
    num_samples: int,
) -> list[Word]:
    rest, words = iter(segments), list[Word | None]()
    for word, parts in zip(written, pronunciations, strict=True):
        own = [next(rest) for _ in parts]
        if not own:
            words.append(None)
            continue
        start, end = own[0][0] * FRAME_SAMPLES, min(own[-1][1] * FRAME_SAMPLES, num_samples)
        likelihood = sum(log for _, _, log in own) / sum(last - first for first, last, _ in own)
        words.append(Word(word.text, start, end, min(1.0, math.exp(likelihood))))
    return interpolate([word.text for word in written], words, num_samples)

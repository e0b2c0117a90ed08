"""What an aligner takes and gives: the sound of one utterance and its transcript -> words with times, or why there are none."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tinywave_core.alignment.words import Word


@dataclass(frozen=True)
class Refusal:
    """Why an utterance has no word times."""

    reason: str
    """Code: no_transcript, failed, word_count, out_of_dictionary_share, before_start, backwards, overlap, past_end,
    low_confidence or mismatch."""
    detail: str
    """What was found and expected, for people."""


class Aligner(Protocol):
    """Finds the words of a transcript in the sound of an utterance. Bad input is a `Refusal`, never an exception."""

    @property
    def name(self) -> str:
        """As in the column `source` of the schema WORDS."""
        ...

    @property
    def min_confidence(self) -> float:
        """Confidence that a right transcript reaches, for `checks.check`; confidences of different aligners cannot be compared."""
        ...

    def align(self, samples_N: npt.NDArray[np.float32], transcript: str) -> list[Word] | Refusal:
        """One `Word` for each word of the transcript, as it writes it. Samples are mono, 16 kHz, -1..1."""
        ...

"""Words with their times: the one form that every aligner gives and interleaving takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """One word of an utterance, as the transcript writes it."""

    text: str
    start_samples: int
    """In the utterance, at 16 kHz."""
    end_samples: int
    confidence: float | None = None
    """0 to 1; None where the source has none."""

"""Where a speaker begins and stops, while the audio comes: 16 kHz samples in pieces of any length -> turns, by the same voice activity model.

A whole recording is normalised by its peak; here the peak is the loudest window so far, which fades with a half-life of ten
seconds, and never less than `FLOOR`, so that the hiss of a silent room is not made loud. How the audio is cut into pieces changes nothing.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinywave_core.audio.vad import HYSTERESIS, PAD_SAMPLES, WINDOW, State
from tinywave_core.storage.schemas import SAMPLE_RATE

FLOOR = 0.02
"""Of full scale."""
FADE = 0.5 ** (WINDOW / (10 * SAMPLE_RATE))
"""Per window."""
ONSET = 4
"""Windows of speech in a row (128 ms) that begin a turn: a click is none."""

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Began:
    """A turn began at this sample."""

    at: int


@dataclass(frozen=True)
class Ended:
    """It ended at this one."""

    at: int


Turn = Began | Ended


class TurnDetector:
    """The turns of one speaker; samples are counted from the first one that came."""

    def __init__(self, threshold: float, silence_s: float) -> None:
        self.threshold, self._silence = threshold, max(1, round(silence_s * SAMPLE_RATE / WINDOW))
        self._quiet = max(threshold - HYSTERESIS, threshold / 2)
        self.is_speaking = False
        self._state, self._peak = State(), FLOOR
        self._held = np.zeros(0, np.float32)
        self._windows = 0  # looked at
        self._run = 0  # windows in a row that speak against the present state
        self._mean = 0.0

    @property
    def seen(self) -> int:
        """Samples that were looked at."""
        return self._windows * WINDOW

    @property
    def begins_at_earliest(self) -> int:
        """No turn will begin before this sample."""
        return max(0, (self._windows - self._run) * WINDOW - PAD_SAMPLES)

    def push(self, samples: Samples) -> list[Turn]:
        """What more audio tells."""
        self._held = np.concatenate([self._held, samples])
        count = len(self._held) // WINDOW
        windows, self._held = self._held[: count * WINDOW].reshape(count, WINDOW), self._held[count * WINDOW :]
        turns = (self._next(window) for window in windows)
        return [turn for turn in turns if turn is not None]

    def stop(self) -> None:
        """The turn is over, whoever said so."""
        self.is_speaking, self._run = False, 0

    def _next(self, window: Samples) -> Turn | None:
        self._mean += (float(window.mean()) - self._mean) / min(self._windows + 1, 100)
        level = window - self._mean
        self._peak = max(self._peak * FADE, float(np.abs(level).max()), FLOOR)
        (probability,) = self._state.probabilities((level / self._peak).astype(np.float32)[None])
        self._windows += 1
        if self.is_speaking:
            return self._listened(silent=bool(probability < self._quiet), loud=bool(probability >= self.threshold))
        self._run = self._run + 1 if probability >= self.threshold else 0
        if self._run < ONSET:
            return None
        began = Began(self.begins_at_earliest)
        self.is_speaking, self._run = True, 0
        return began

    def _listened(self, *, silent: bool, loud: bool) -> Turn | None:
        """A window in a turn; between silent and loud it stays what it was."""
        self._run = 0 if loud else self._run + (silent or self._run > 0)
        if self._run < self._silence:
            return None
        ended = Ended(min((self._windows - self._run) * WINDOW + PAD_SAMPLES, self.seen))
        self.stop()
        return ended

"""How long each [Hu] token of a sequence lasts, known as the tokens come: deduplication has dropped the run lengths.

A unit lasts as long as its runs do on average, rounded so that the errors cancel. [St] tokens stand exactly one second
apart. Speech can wait for them but not go back, so where there are any units last a little less; at an [St] token the last
unit goes on for what is missing, and the rest is made up for over the next second. Nothing looks ahead, so a stream and the
whole have the same lengths.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tinywave_core.tokenizers import speech
from tinywave_core.tokenizers.vocabulary import Vocabulary

# Share of a unit's mean length beyond one frame that it gets where [St] tokens follow, and the most frames that one of them
# lets a unit go on. How far units are from their place on held-out speech (LibriSpeech, 100 units), in frames, with all of the
# length and nothing going on: 2.6; with these: 1.1.
SHARE, MOST_FRAMES = 0.6, 3
MOST_EXTRA = 1.0  # frame by which each unit of the next second may be stretched or shortened
FEWEST_UNITS = 10  # that are expected in it


@dataclass(frozen=True)
class Sound:
    """A [Hu] token with the pitch and style in force."""

    unit: int
    pitch: int | None  # None before the first [Pi] token
    style: int | None  # likewise
    frames: int  # of 40 ms


class Clock:
    """Frames so far, and how many there should be by now."""

    def __init__(self) -> None:
        self.wanted, self.given = 0.0, 0
        self.extra, self.units = 0.0, 0
        self.second_began: float | None = None  # frames at the last [St] token by its own count; None before the first

    def lasts(self, mean_frames: float) -> int:
        """Number of frames of the next unit, at least one."""
        share = 1.0 if self.second_began is None else SHARE
        self.wanted += max(1 + share * (mean_frames - 1) + self.extra, 1.0)
        frames = max(round(self.wanted) - self.given, 1)
        self.given += frames
        self.units += 1
        return frames

    def second(self) -> int:
        """An [St] token, a second after the last one: frames for which the unit before it goes on."""
        if self.second_began is None:
            self.second_began = float(self.given)
            return 0
        self.second_began += speech.RATES_HZ["units"]
        missing = self.second_began - self.given
        more = int(np.clip(round(missing), 0, MOST_FRAMES)) if self.units else 0
        self.extra = float(np.clip((missing - more) / max(self.units, FEWEST_UNITS), -MOST_EXTRA, MOST_EXTRA))
        self.given += more
        self.wanted, self.units = float(self.given), 0
        return more


def sounds(ids: Iterable[int], vocabulary: Vocabulary, mean_frames: npt.NDArray[np.float64]) -> Iterator[Sound]:
    """The [Hu] tokens among ids, each as soon as it comes; text and markers are skipped. `mean_frames` is by unit."""
    clock = Clock()
    last = Sound(-1, None, None, 0)
    hubert, pitch, style = (vocabulary.first[kind] for kind in ("hubert", "pitch", "style"))
    for i in map(int, ids):
        if hubert <= i < pitch:
            last = replace(last, unit=i - hubert, frames=clock.lasts(float(mean_frames[i - hubert])))
            yield last
        elif pitch <= i < style:
            last = replace(last, pitch=i - pitch)
        elif style <= i < vocabulary.tokens:
            more = clock.second()
            if more:
                yield replace(last, frames=more)
            last = replace(last, style=i - style)

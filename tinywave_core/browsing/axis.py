"""What stands under one time axis: the outline of a waveform, runs of codes, the height of a pitch, marks of time.

In: samples, codes and rates. Out: numbers for the template, places as percent of the length, so that the browser can stretch all lanes alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinywave_core import plots

_COLUMNS_PER_S, _MOST_COLUMNS = 150, 4000
_GOLDEN_ANGLE = 137.508
"""Degrees: neighbouring ids get colours that lie far apart."""


@dataclass(frozen=True)
class Span:
    """A stretch of a lane."""

    code: int
    start_s: float
    end_s: float
    frames: int
    left: str
    """Percent of the axis."""
    width: str
    middle: str

    @property
    def hue(self) -> int:
        """Degrees, of the code's colour."""
        return round(self.code * _GOLDEN_ANGLE) % 360

    @property
    def when(self) -> str:
        """Its time, for people."""
        return f"{self.start_s:.2f} to {self.end_s:.2f} s"


def spans(codes: Sequence[int], rate_hz: float, seconds: float) -> list[Span]:
    """Runs of the same code, each with its time; what lies behind the end of the sound is cut there."""
    if not codes or seconds <= 0:
        return []
    codes_T = np.asarray(codes)
    starts = np.flatnonzero(np.concatenate([[True], codes_T[1:] != codes_T[:-1]]))
    ends = np.append(starts[1:], len(codes_T))
    found = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        start_s, end_s = start / rate_hz, min(end / rate_hz, seconds)
        if end_s > start_s:
            left, width = _percent(start_s, seconds), _percent(end_s - start_s, seconds)
            middle = _percent((start_s + end_s) / 2, seconds)
            found.append(Span(int(codes_T[start]), start_s, end_s, end - start, left, width, middle))
    return found


def _percent(part_s: float, seconds: float) -> str:
    return f"{100 * part_s / seconds:.4f}%"


def place(at_s: float, seconds: float) -> str:
    """A time as percent of the axis, which it does not leave."""
    return _percent(min(max(at_s, 0.0), seconds), seconds) if seconds > 0 else "0%"


def marks(seconds: float, count: int = 8) -> list[tuple[str, str]]:
    """Place and label of some round times."""
    if seconds <= 0:
        return []
    return [(place(at_s, seconds), f"{plots.number(round(at_s, 3))}") for at_s in plots.ticks(0.0, seconds, count)]


def outline(samples_N: npt.NDArray[np.float32], seconds: float) -> tuple[str, int]:
    """The waveform as a closed path around 0, from -1 (top) to 1, and its width: a column for each few milliseconds; loudest at full height."""
    columns = max(1, min(_MOST_COLUMNS, round(seconds * _COLUMNS_PER_S), len(samples_N)))
    if not len(samples_N):
        return "", columns
    edges = np.linspace(0, len(samples_N), columns, endpoint=False).astype(int)
    high, low = np.maximum.reduceat(samples_N, edges), np.minimum.reduceat(samples_N, edges)
    peak = max(float(high.max()), -float(low.min()), 1e-6)
    # The last column reaches to the end of the axis.
    there = [f"{x} {-y / peak:.3f}" for x, y in enumerate([*high.tolist(), float(high[-1])])]
    back = [f"{x} {-y / peak:.3f}" for x, y in reversed(list(enumerate([*low.tolist(), float(low[-1])])))]
    return "M" + "L".join([*there, *back]) + "Z", columns

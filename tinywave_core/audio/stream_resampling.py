"""Samples that come in pieces -> the same at another rate, in pieces: together they are what the whole signal gives, border or not.

torchaudio's resampler works in periods (two samples become three from 16 to 24 kHz) and looks a few samples to both sides of one. So a
piece is given out as far as all that its filter looks at is here, and a few periods are kept and heard again with the next piece.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
import torchaudio.functional

from tinywave_core.audio.resampling import FILTER_WIDTH, ROLLOFF

Samples = npt.NDArray[np.float32]


class StreamResampler:
    """One signal on its way from the rate `before` to `after`, both as whole numbers in any terms."""

    def __init__(self, before: int, after: int) -> None:
        common = math.gcd(before, after)
        self.before, self.after = before // common, after // common
        reach = math.ceil(FILTER_WIDTH * self.before / (min(self.before, self.after) * ROLLOFF))
        self._context = math.ceil(reach / self.before)
        """Periods to each side of one that have a say in it."""
        self._held = np.zeros(0, np.float32)
        self._given = 0
        """Periods at the beginning of what is held that were given out already."""

    def push(self, samples: Samples) -> Samples:
        """More of the signal; what of the result is settled by now, which may be nothing."""
        if self.before == self.after:
            return samples
        self._held = np.concatenate([self._held, samples])
        settled = len(self._held) // self.before - self._context
        if settled <= self._given:
            return np.zeros(0, np.float32)
        made = self._resampled()[self._given * self.after : settled * self.after]
        over = max(settled - self._context, 0)
        self._held = self._held[over * self.before :]
        self._given = settled - over
        return made

    def end(self) -> Samples:
        """The rest: nothing follows."""
        made = self._resampled()[self._given * self.after :]
        self._held, self._given = np.zeros(0, np.float32), 0
        return made

    def _resampled(self) -> Samples:
        if not len(self._held):
            return np.zeros(0, np.float32)
        made = torchaudio.functional.resample(torch.from_numpy(self._held), self.before, self.after)
        return made.numpy()  # type: ignore[no-any-return]

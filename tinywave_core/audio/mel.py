"""Mel filters in float64. torchaudio makes its own in float32, whose last bits depend on the CPU; what follows from them then does
as well, and a unit that stands between two clusters could be another one on another machine.

Shapes: K bins of a spectrum, M bands.
"""

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Scale = Literal["htk", "slaney"]


@cache
def mel_filters(bins: int, bands: int, rate: int, lowest_hz: float, scale: Scale) -> npt.NDArray[np.float64]:
    """Triangles [K, M] from the lowest frequency to half the rate: of height 1 on HTK's scale, of area 1 on Slaney's."""
    from transformers.audio_utils import mel_filter_bank

    norm = "slaney" if scale == "slaney" else None
    return mel_filter_bank(bins, bands, lowest_hz, rate / 2, rate, norm=norm, mel_scale=scale)

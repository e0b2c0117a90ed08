"""Mel filters in float64. torchaudio makes its own in float32, whose last bits depend on the CPU; what follows from them then does
as well, and a unit that stands between two clusters could be another one on another machine.

Shapes: K bins of a spectrum, M bands.
"""

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Scale = Literal["htk", "slaney"]
_STRAIGHT_HZ, _STRAIGHT = 1000.0, 15.0  # where Slaney's scale stops being straight, in Hz and on the scale


@cache
def mel_filters(bins: int, bands: int, rate: int, lowest_hz: float, scale: Scale) -> npt.NDArray[np.float64]:
    """Triangles [K, M] from the lowest frequency to half the rate: of height 1 on HTK's scale, of area 1 on Slaney's."""
    # Written here: transformers has the same, and importing it takes half a second of every process that tokenizes.
    lowest, highest = _mel(np.array([lowest_hz, rate / 2]), scale).tolist()
    edges_E = _hz(np.linspace(lowest, highest, bands + 2), scale)
    hz_K = np.linspace(0, rate // 2, bins)
    slopes_KE = edges_E - hz_K[:, None]
    widths_B = np.diff(edges_E)
    triangles_KM = np.maximum(0, np.minimum(-slopes_KE[:, :-2] / widths_B[:-1], slopes_KE[:, 2:] / widths_B[1:]))
    return triangles_KM * (2 / (edges_E[2:] - edges_E[:-2])) if scale == "slaney" else triangles_KM


def _mel(hz: npt.NDArray[np.float64], scale: Scale) -> npt.NDArray[np.float64]:
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    # Slaney's: straight up to 1 kHz, then 27 steps for each factor of 6.4.
    return np.where(
        hz >= _STRAIGHT_HZ, _STRAIGHT + np.log(np.maximum(hz, 1e-9) / _STRAIGHT_HZ) * (27 / np.log(6.4)), 3 * hz / 200
    )


def _hz(mel: npt.NDArray[np.float64], scale: Scale) -> npt.NDArray[np.float64]:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel >= _STRAIGHT, _STRAIGHT_HZ * np.exp((np.log(6.4) / 27) * (mel - _STRAIGHT)), 200 * mel / 3)

"""F0 at 100 Hz -> [Pi…] values at 12.5 Hz: semitones from the utterance's own median, to be coded by k-means.

Code 0 is unvoiced; the others rise with pitch. Code j looks at the eight F0 frames of 80 j … 80 j + 70 ms. The count is
SpiritLM's floor((floor(n / 80) + 1) / 16), so that a released pitch encoder can take this one's place.
"""

import numpy as np
import numpy.typing as npt

from tinywave_core.tokenizers import kmeans

FRAMES_PER_CODE = 8
MIN_VOICED_FRAMES = 4
# One lattice unit of `kmeans` is 3 semitones: steps of 9 cents, and a range of two octaves either way.
SEMITONES_PER_UNIT = 3.0
UNVOICED = 0

Semitones = npt.NDArray[np.float64]


def code_count(num_samples: int) -> int:
    """Codes at 12.5 Hz of an utterance: SpiritLM's count."""
    # 80 samples are FCPE's hop, 16 frames the stride of SpiritLM's pitch encoder; both counts are rounded down.
    return (num_samples // 80 + 1) // 16


def semitones(f0_hz: npt.NDArray[np.float64]) -> Semitones:
    """Every F0 frame in semitones from the median of the voiced ones; NaN where unvoiced."""
    voiced = f0_hz > 0
    if not voiced.any():
        return np.full(len(f0_hz), np.nan)
    return np.where(voiced, 12 * np.log2(np.where(voiced, f0_hz, 1.0) / np.median(f0_hz[voiced])), np.nan)


def contour(f0_hz: npt.NDArray[np.float64], num_samples: int) -> Semitones:
    """Semitones [P] at 12.5 Hz: medians over 80 ms, NaN where less than half of the frames are voiced."""
    codes = code_count(num_samples)
    # SpiritLM's count rounds down, so that there can be frames behind the last whole code.
    frames = semitones(f0_hz)[: codes * FRAMES_PER_CODE].reshape(codes, FRAMES_PER_CODE)
    voiced = np.isfinite(frames).sum(axis=1) >= MIN_VOICED_FRAMES
    result = np.full(codes, np.nan)
    result[voiced] = np.nanmedian(frames[voiced], axis=1)
    return result


def fit(contours: npt.NDArray[np.float64], codes: int, seed: int) -> kmeans.Lattice:
    """Centres [codes - 1, 1] on the lattice, rising, for the voiced values among `contours`."""
    voiced = contours[np.isfinite(contours)]
    points = kmeans.snap(voiced[:, None] / SEMITONES_PER_UNIT)
    # k-means numbers its centres as it drew them; sorted, a higher code is a higher pitch.
    return np.sort(kmeans.fit(points, codes - 1, seed, what="voiced 80 ms windows"), axis=0)


def encode(contour_P: Semitones, centres: kmeans.Lattice) -> kmeans.Codes:
    """Codes [P]: 0 for unvoiced, else 1 + the nearest centre."""
    codes = np.zeros(len(contour_P), np.int64)
    voiced = np.isfinite(contour_P)
    codes[voiced] = 1 + kmeans.assign(kmeans.snap(contour_P[voiced, None] / SEMITONES_PER_UNIT), centres)
    return codes


def decode(codes: npt.NDArray[np.integer], centres: kmeans.Lattice) -> Semitones:
    """Semitones of codes, NaN for unvoiced: what a vocoder needs."""
    table = np.concatenate([[np.nan], centres[:, 0] * (SEMITONES_PER_UNIT / kmeans.STEPS_PER_UNIT)])
    return table[codes]

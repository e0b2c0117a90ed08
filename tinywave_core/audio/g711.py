"""16-bit PCM <-> the two codes of telephones, ITU-T G.711: mu-law and A-law, a byte for each sample at 8 kHz.

Both are a sign, a segment that doubles in width with level, and four bits within it. Coding takes the nearest level of the code.
"""

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Law = Literal["mu", "a"]
RATE = 8_000

Pcm = npt.NDArray[np.int16]


def decode(data: bytes | bytearray, law: Law) -> Pcm:
    """Bytes of a law as 16-bit samples."""
    return _levels(law)[np.frombuffer(data, np.uint8)]


def encode(samples: Pcm, law: Law) -> bytes:
    """16-bit samples as bytes of a law; the nearest level, the one nearer to zero of two that are equally near."""
    levels, codes, borders = _ordered(law)
    # Borders lie between levels: below zero they belong to the level above, from zero on to the one below.
    values = 2 * samples.astype(np.int32)
    index = np.where(values < 0, np.searchsorted(borders, values, "right"), np.searchsorted(borders, values, "left"))
    assert len(levels) == len(borders) + 1
    return codes[index].tobytes()


@cache
def _levels(law: Law) -> Pcm:
    """The sample that each byte stands for."""
    codes = np.arange(256)
    flipped = codes ^ (0xFF if law == "mu" else 0x55)
    segment, step = (flipped >> 4) & 7, flipped & 15
    if law == "mu":
        magnitude = (((step << 3) + 0x84) << segment) - 0x84
        sign = np.where(flipped & 0x80, -1, 1)
    else:
        magnitude = np.where(segment == 0, (step << 4) + 8, ((step << 4) + 0x108) << np.maximum(segment - 1, 0))
        sign = np.where(flipped & 0x80, 1, -1)
    return (sign * magnitude).astype(np.int16)


@cache
def _ordered(law: Law) -> tuple[Pcm, npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Levels from low to high, their bytes, and twice the border between each two of them."""
    levels, codes = np.unique(
        _levels(law)[::-1], return_index=True
    )  # of the two zeros of mu-law the positive one, 0xFF
    borders = levels[:-1].astype(np.int32) + levels[1:]
    return levels, (255 - codes).astype(np.uint8), borders

"""Samples of any rate -> 16 kHz: torchaudio's resampler at its default parameters, with a bound on its filter.

The filter has as many values as the two rates have in lowest terms, multiplied: 705 million for 44,101 Hz (12 GiB and minutes). A rate
whose ratio has a denominator above `LARGEST_DENOMINATOR` is taken as the nearest one that has not, which is off by less than
0.05 %, less than a sound card's clock. All that resamples comes here; usual rates (8, 11.025, 22.05, 44.1, 48 kHz …) are exact.
"""

from fractions import Fraction
from typing import TYPE_CHECKING

from tinywave_core.audio.decoder_process import MAX_RATE, MIN_RATE
from tinywave_core.errors import SourceError
from tinywave_core.storage.schemas import SAMPLE_RATE

if TYPE_CHECKING:
    import torch

LARGEST_DENOMINATOR = 640
# Half-width and roll-off of the filter of torchaudio.functional.resample.
FILTER_WIDTH, ROLLOFF = 6, 0.99


def ratio(rate: int) -> tuple[int, int]:
    """Input and output samples of one period of the resampler, in lowest terms; SourceError if speech has no such rate."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise SourceError(f"a sample rate of {rate:,} Hz; expected {MIN_RATE:,} to {MAX_RATE:,} Hz: resample it first")
    exact = Fraction(rate, SAMPLE_RATE)
    near = exact if exact.denominator <= LARGEST_DENOMINATOR else exact.limit_denominator(LARGEST_DENOMINATOR)
    return near.numerator, near.denominator


def to_16k(samples: "torch.Tensor", rate: int) -> "torch.Tensor":
    """Samples [..., n] at `rate` as samples at 16 kHz, of the same type."""
    import torchaudio.functional

    return torchaudio.functional.resample(samples, *ratio(rate))

"""Mel filters against those of transformers, bit by bit: units of all stores come from them."""

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank

from tinywave_core.audio.mel import mel_filters


@pytest.mark.parametrize("bins", [201, 513])
@pytest.mark.parametrize(("bands", "lowest_hz"), [(40, 40.0), (80, 0.0), (64, 0.0)])
@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_filters_have_the_bits_of_the_reference(bins: int, bands: int, lowest_hz: float, scale: str):
    norm = "slaney" if scale == "slaney" else None
    reference_KM = mel_filter_bank(bins, bands, lowest_hz, 8000.0, 16_000, norm=norm, mel_scale=scale)
    filters_KM = mel_filters(bins, bands, 16_000, lowest_hz, scale)
    assert filters_KM.dtype == reference_KM.dtype and np.array_equal(filters_KM, reference_KM)

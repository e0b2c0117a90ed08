"""The excitation of the draft and the light vocoder: pulses are the sum of their harmonics, everywhere."""

import numpy as np
import pytest

from tinywave_core.synthesis.source_filter import NOISE_MAGNITUDE, _pulses

pytestmark = pytest.mark.arithmetic


@pytest.mark.parametrize("f0_hz", [60.0, 150.0, 399.0])
def test_pulses_are_the_sum_of_all_harmonics_below_7600_hz_also_where_the_closed_form_is_0_over_0(f0_hz: float):
    near = np.array([0, 1e-12, -1e-9, 1e-7, -1e-6, 1.1e-6, 1e-4, -1e-3, 0.1, 1.5])
    half_phase = np.concatenate([near + turns * np.pi for turns in (0, 1, 2, 33, 5000)])
    harmonics = np.arange(1, int(7600 / f0_hz) + 1)
    summed = np.cos(2 * harmonics * half_phase[:, None]).sum(axis=1)
    found = _pulses(np.full(len(half_phase), f0_hz), half_phase) / (f0_hz * NOISE_MAGNITUDE / 8000.0)
    np.testing.assert_allclose(found, summed, atol=1e-7)

"""Pitch codes: counts, normalisation, order of the codes, unvoiced."""

import numpy as np
import pytest

from tinywave_core.tokenizers import pitch

pytestmark = pytest.mark.arithmetic


@pytest.mark.parametrize(
    ("samples", "codes"), [(0, 0), (1199, 0), (1200, 1), (1280, 1), (146_160, 114), (1_600_000, 1250)]
)
def test_code_count_is_that_of_spiritlm(samples: int, codes: int) -> None:
    assert pitch.code_count(samples) == codes
    assert len(pitch.contour(np.zeros(samples // 160 + 1), samples)) == codes


def test_an_octave_up_is_twelve_semitones_from_the_median() -> None:
    f0 = np.array([100.0] * 24 + [200.0] * 8 + [0.0] * 9)
    np.testing.assert_allclose(pitch.contour(f0, 6400), [0, 0, 0, 12, np.nan])


def test_voice_an_octave_lower_gets_the_same_contour() -> None:
    f0 = np.random.default_rng(0).uniform(90, 180, 81)
    np.testing.assert_allclose(pitch.contour(f0, 12_800), pitch.contour(2 * f0, 12_800), atol=1e-9)


def test_higher_code_is_higher_pitch_and_zero_is_unvoiced() -> None:
    contour = np.concatenate([np.linspace(-6, 6, 50), [np.nan]])
    centres = pitch.fit(contour, 5, seed=0)
    codes = pitch.encode(contour, centres)
    assert codes[-1] == 0 and codes[0] == 1 and codes[-2] == 4 and (np.diff(codes[:-1]) >= 0).all()
    decoded = pitch.decode(codes, centres)
    assert np.isnan(decoded[-1]) and np.abs(decoded[:-1] - contour[:-1]).max() < 2


def test_half_voiced_window_is_voiced_and_less_is_not() -> None:
    f0 = np.array([0.0] * 4 + [100.0] * 4 + [0.0] * 5 + [100.0] * 3 + [0.0])
    assert np.isfinite(pitch.contour(f0, 2560)).tolist() == [True, False]

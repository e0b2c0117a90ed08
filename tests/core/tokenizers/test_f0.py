"""F0: right on tones and glides, without octave errors; noise, hum and silence are unvoiced."""

import numpy as np
import numpy.typing as npt
import pytest

from tinywave_core.tokenizers.f0 import f0_hz, frame_count

pytestmark = pytest.mark.arithmetic

Samples = npt.NDArray[np.float32]


def _harmonics(f0: npt.NDArray[np.float64], formant_hz: float | None = None) -> Samples:
    phase = 2 * np.pi * np.cumsum(f0) / 16_000
    total = np.zeros(len(f0))
    for h in range(1, int(7600 / f0.max()) + 1):
        gain = 1 / h if formant_hz is None else np.exp(-(((h * f0 - formant_hz) / 300) ** 2))
        total += gain * np.cos(h * phase + h)
    return (0.1 * total).astype(np.float32)


@pytest.mark.parametrize("formant_hz", [None, 600.0, 1200.0])
@pytest.mark.parametrize("hz", [65.0, 82.0, 110.0, 155.0, 220.0, 311.0, 390.0])
def test_steady_tone_is_found_within_a_percent(hz: float, formant_hz: float | None) -> None:
    found = f0_hz(_harmonics(np.full(16_000, hz), formant_hz))[5:-5]
    np.testing.assert_allclose(found, hz, rtol=0.01)


def test_glide_over_an_octave_is_followed() -> None:
    true = 110 * 2 ** (np.arange(16_000) / 16_000)
    np.testing.assert_allclose(f0_hz(_harmonics(true))[5:-5], true[np.arange(5, 96) * 160], rtol=0.02)


def test_tone_in_noise_at_10_db_stays_voiced() -> None:
    tone = _harmonics(np.full(32_000, 140.0))
    noise = np.random.default_rng(0).standard_normal(32_000) * tone.std() * 10**-0.5
    found = f0_hz((tone + noise).astype(np.float32))[5:-5]
    assert (found > 0).mean() > 0.98
    np.testing.assert_allclose(found[found > 0], 140, rtol=0.02)


def test_noise_is_unvoiced() -> None:
    noise = np.random.default_rng(0).standard_normal(80_000).astype(np.float32)
    assert (f0_hz(noise * np.float32(0.1)) > 0).mean() < 0.01


@pytest.mark.parametrize("samples", [np.zeros(16_000), np.full(16_000, 0.3), np.zeros(0), np.zeros(1)])
def test_silence_and_nothing_are_unvoiced(samples: npt.NDArray[np.float64]) -> None:
    found = f0_hz(samples.astype(np.float32))
    assert len(found) == frame_count(len(samples)) and not found[3:-3].any()


def test_mains_hum_between_words_is_unvoiced() -> None:
    hum = 0.01 * np.cos(2 * np.pi * 60 * np.arange(16_000) / 16_000)
    word = _harmonics(np.full(16_000, 150.0))
    found = f0_hz(np.concatenate([hum, word + hum]).astype(np.float32))
    assert not found[5:95].any()
    np.testing.assert_allclose(found[105:195], 150, rtol=0.02)

"""Style statistics: one row per started second, and what the columns say."""

import numpy as np
import pytest

from tinywave_core.tokenizers import f0, mfcc, style

pytestmark = pytest.mark.arithmetic


@pytest.mark.parametrize(
    ("samples", "codes"), [(0, 0), (399, 0), (400, 1), (16_000, 1), (16_400, 2), (32_000, 2), (1_600_000, 100)]
)
def test_one_code_per_started_second(samples: int, codes: int) -> None:
    assert style.code_count(samples) == codes


def test_loud_tone_after_quiet_noise_differs_in_level_voicing_and_motion() -> None:
    random = np.random.default_rng(0)
    tone = sum(0.1 * np.cos(2 * np.pi * 150 * h * np.arange(16_000) / 16_000) for h in range(1, 8))
    samples = np.concatenate([0.01 * random.standard_normal(16_000), tone]).astype(np.float32)
    quiet, loud = style.statistics(samples, f0.f0_hz(samples), mfcc.mfcc(samples))
    assert quiet[0] < loud[0] - 10  # dB
    assert quiet[4] < 0.05 and loud[4] > 0.95  # voiced share
    assert quiet[5] > loud[5]  # motion of the cepstrum


@pytest.mark.parametrize("samples", [1280, 16_000, 16_400, 20_000])
def test_silence_and_short_seconds_have_finite_statistics(samples: int) -> None:
    silence = np.zeros(samples, np.float32)
    rows = style.statistics(silence, f0.f0_hz(silence), mfcc.mfcc(silence))
    assert rows.shape == (style.code_count(samples), style.STATISTICS) and np.isfinite(rows).all()

"""MFCC features: frame counts, independence of level, and what each frame looks at."""

import numpy as np
import pytest
import torch
from torchaudio.functional import compute_deltas

from tinywave_core.tokenizers.mfcc import _delta, frame_count, mfcc

pytestmark = pytest.mark.arithmetic


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (719, 0), (720, 1), (1359, 1), (1360, 2), (146_160, 228), (225_360, 352)]
)
def test_frame_count_is_that_of_hubert_at_25_hz(samples: int, frames: int) -> None:
    assert frame_count(samples) == frames
    assert mfcc(np.zeros(samples, np.float32)).shape == (frames, 39)


def test_features_do_not_depend_on_the_level() -> None:
    speech = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.05
    np.testing.assert_allclose(mfcc(speech), mfcc(speech / 4), atol=1e-9)


def test_mean_cepstrum_of_an_even_sound_is_zero() -> None:
    noise = np.random.default_rng(0).standard_normal(16_000 * 4).astype(np.float32)
    assert np.abs(mfcc(noise)[:, :13].mean(axis=0)).max() < 0.1


def test_digital_silence_has_finite_features() -> None:
    assert np.isfinite(mfcc(np.zeros(16_000, np.float32))).all()


def test_differences_are_those_of_torchaudio() -> None:
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((13, 40)))
    np.testing.assert_allclose(_delta(values.numpy()), compute_deltas(values, win_length=5).numpy(), atol=1e-12)

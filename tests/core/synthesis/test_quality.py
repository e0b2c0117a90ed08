"""Figures of resynthesised speech: perfect for itself, worse with noise, and their floor and ceiling."""

import numpy as np
import pytest

from tests.core.conftest import babble
from tinywave_core.synthesis.quality import cepstral_distance_db, figures, from_own_mel, likeness

pytestmark = pytest.mark.arithmetic


def test_a_clip_is_like_itself_whatever_its_level():
    clip = babble(0)
    assert likeness(clip, clip) == pytest.approx(1.0)
    assert cepstral_distance_db(clip, clip) == 0.0
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    assert cepstral_distance_db(noise / 2, noise) < 1e-3  # with silence, what falls below the floor of the log counts


def test_noise_makes_it_worse_step_by_step():
    clip = babble(0)
    noise = np.random.default_rng(0).standard_normal(len(clip)).astype(np.float32)
    noisy = [clip + level * noise for level in (0.0, 0.001, 0.01, 0.1)]
    assert [*np.argsort([-likeness(each, clip) for each in noisy])] == [0, 1, 2, 3]
    assert [*np.argsort([cepstral_distance_db(each, clip) for each in noisy])] == [0, 1, 2, 3]


def test_ceiling_is_near_the_recording_and_floor_is_another_clip():
    clips = [babble(seed, 2.0) for seed in range(3)]
    found = figures(clips, {"same": lambda number: clips[number]})
    assert found["same"] == {"likeness": pytest.approx(1.0), "cepstral_distance_db": 0.0}
    assert 0.9 < found["ceiling"]["likeness"] < 1
    assert found["floor"]["likeness"] < 0.5
    assert found["floor"]["cepstral_distance_db"] > found["ceiling"]["cepstral_distance_db"]


def test_speech_from_its_own_mel_has_its_length():
    assert len(from_own_mel(babble(1, 0.5), iterations=2)) == 8000

"""The sample of frames: bounded, whatever the order, each frame as likely as any other."""

from typing import Any

import numpy as np
import pytest

from tinywave_core.tokenizers import frames
from tinywave_core.tokenizers.frames import FrameSample


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "PER_CLUSTER", 10)


def sampled(utterances: list[tuple[str, Any]], clusters: int = 4, seed: int = 0) -> np.ndarray:
    sample = FrameSample(clusters, seed, 1)
    for name, values in utterances:
        sample.add(name, np.asarray(values, np.float32)[:, None])
    return sample.frames()[:, 0]


def speech(count: int = 30, length: int = 20) -> list[tuple[str, Any]]:
    return [(f"u{i}", np.arange(length) + i * length) for i in range(count)]


@pytest.mark.usefixtures("few")
def test_the_sample_is_bounded_and_the_same_in_any_order():
    spoken = speech()
    found = sampled(spoken)
    assert len(found) == len(set(found)) == 40
    np.testing.assert_array_equal(found, sampled(spoken[::-1]))
    assert set(found) != set(sampled(spoken, seed=1))


@pytest.mark.usefixtures("few")
def test_a_frame_that_was_chosen_stays_in_the_sample_when_other_speech_is_taken_away():
    spoken = speech()
    half = spoken[::2]
    kept = {value for name, values in half for value in values}
    assert set(sampled(spoken)) & kept <= set(sampled(half))


@pytest.mark.usefixtures("few")
def test_frames_of_all_utterances_are_as_likely():
    chosen = sampled(speech(count=400, length=10), clusters=200)
    # 2000 of 4000 frames: half of each place of an utterance, within five deviations.
    counts = np.bincount(chosen.astype(int) % 10, minlength=10)
    assert np.abs(counts - 200).max() < 5 * np.sqrt(400 / 4)


def test_little_speech_is_taken_whole_and_none_is_an_empty_sample():
    assert sorted(sampled([("a", [1, 2]), ("b", []), ("c", [3])])) == [1, 2, 3]
    assert FrameSample(4, 0, 7).frames().shape == (0, 7)


def test_memory_is_bounded_at_any_size_but_every_cluster_can_have_a_frame(monkeypatch: pytest.MonkeyPatch):
    assert FrameSample(5000, 0, 768).most == 2**28 // 768
    monkeypatch.setattr(frames, "MOST_NUMBERS", 100)
    assert FrameSample(50, 0, 10).most == 50

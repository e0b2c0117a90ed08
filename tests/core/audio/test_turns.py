"""Turns in audio as it comes are those of the whole recording."""

import numpy as np
import pytest

from tests.fixtures.tiny import CLIPS, EXAMPLES
from tinywave_core.audio.turns import Began, Ended, TurnDetector
from tinywave_core.audio.vad import speech_probabilities, speech_regions
from tinywave_core.audio.waveform import read_waveform


def noise(seconds: float, level: float = 1e-5) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, int(seconds * 16_000)).astype(np.float32)


def talk(gain: float = 1.0, offset: float = 0.0, room: float = 1e-5) -> np.ndarray:
    """Two readers, and a quiet room before, between and after them."""
    first, second = (gain * read_waveform(EXAMPLES / clip) for clip in (CLIPS[1], CLIPS[4]))
    parts = [noise(0.5, room), first, noise(1.2, room), second, noise(1, room)]
    return (np.concatenate(parts) + offset).astype(np.float32)


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    return talk()


def turns(signal: np.ndarray, step: int, threshold: float = 0.5, silence_s: float = 0.5) -> list[tuple[str, int]]:
    detector = TurnDetector(threshold, silence_s)
    return [
        (type(turn).__name__, turn.at)
        for at in range(0, len(signal), step)
        for turn in detector.push(signal[at : at + step])
    ]


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.002, 0.0), (0.02, 0.3)])
def test_they_are_the_regions_of_the_whole_however_loud_it_is_and_with_any_offset(
    signal: np.ndarray, gain: float, offset: float
):
    probabilities = speech_probabilities((signal * 32767).astype(np.int16))
    regions = speech_regions(probabilities, len(signal), 0.5, 8_000)
    found = turns(talk(gain, offset), 1_600)
    assert [kind for kind, _ in found] == ["Began", "Ended"] * len(regions) == ["Began", "Ended"] * 2
    # Two windows of 32 ms: the whole recording is normalised by what is still to come here.
    np.testing.assert_allclose([at for _, at in found], np.ravel(regions), atol=1024)


def test_how_the_audio_is_cut_changes_nothing(signal: np.ndarray):
    assert turns(signal, 333) == turns(signal, 16_000) == turns(signal, len(signal))


def test_a_pause_that_is_longer_than_asked_ends_a_turn_and_a_shorter_one_does_not(signal: np.ndarray):
    assert len(turns(signal, 8_000, silence_s=0.5)) == 4 > len(turns(np.append(signal, noise(2)), 8_000, silence_s=2.5))


def test_hiss_and_a_click_are_no_turns():
    click = noise(2, 0.002)
    click[16_000:16_200] = 0.9
    assert turns(click, 1_600) == []


def test_a_turn_that_was_stopped_begins_again_while_its_speaker_goes_on(signal: np.ndarray):
    detector = TurnDetector(0.5, 0.5)
    assert isinstance(detector.push(signal[:24_000])[0], Began) and detector.is_speaking
    detector.stop()
    assert not detector.is_speaking
    began, ended = detector.push(signal[24_000 : 24_000 + 45_000])
    # Within the 128 ms that it takes: nothing that was said between is before the earliest beginning.
    assert isinstance(began, Began) and began.at <= 24_000 + 6 * 512 and isinstance(ended, Ended)

"""Voice activity: speech is found at any level, and nothing else is called speech."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tinywave_core.audio.decode import Recording
from tinywave_core.audio.vad import WINDOW, speech_probabilities, speech_regions, speech_share

pytestmark = pytest.mark.arithmetic

SENTENCE = Path(__file__).parents[3] / "examples" / "speech" / "LJSpeech" / "wavs" / "LJ001-0002.wav"
Samples = npt.NDArray[np.int16]


@pytest.fixture(scope="module")
def speech(decode: Callable[[Path], Recording]) -> Samples:
    samples_N = decode(SENTENCE).samples_N
    assert samples_N is not None
    return samples_N


def share(samples_N: npt.NDArray[np.floating]) -> float:
    return speech_share(speech_probabilities(np.clip(samples_N, -32_768, 32_767).astype(np.int16)), 0.5)


def test_speech_is_speech_however_quiet_it_is_and_with_any_offset(speech: Samples) -> None:
    loud = share(speech.astype(float))
    assert loud > 0.7
    assert share(speech * 0.0025) == pytest.approx(loud, abs=0.2)  # a peak of 41 steps: -58 dB
    assert share(speech * 0.3 + 16_000) == pytest.approx(loud, abs=0.1)


def test_tones_noise_and_silence_are_not_speech() -> None:
    time_N = np.arange(32_000) / 16_000
    assert share(9_000 * np.sin(2 * np.pi * 440 * time_N)) < 0.1
    assert share(np.random.default_rng(0).normal(0, 3_000, 32_000)) < 0.1
    assert share(np.zeros(32_000)) == 0


def test_a_probability_covers_32_ms_and_the_last_may_be_partial(speech: Samples) -> None:
    assert len(speech_probabilities(speech)) == -(-len(speech) // WINDOW)
    assert len(speech_probabilities(speech[:0])) == 0


def test_long_recordings_give_the_same_whatever_the_call_size(speech: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    long = np.tile(speech, 12)  # 22 s: more than one call
    whole = speech_probabilities(long)
    monkeypatch.setattr("tinywave_core.audio.vad.WINDOWS_PER_CALL", 64)
    assert np.array_equal(speech_probabilities(long), whole)


def test_regions_bridge_short_pauses_and_leave_out_blips() -> None:
    probabilities = np.array(
        [0] * 10 + [0.9] * 20 + [0.1] * 5 + [0.9] * 20 + [0.1] * 30 + [0.9] * 2 + [0] * 13, np.float32
    )
    assert speech_regions(probabilities, 51_200, 0.5, 6 * WINDOW) == [(10 * WINDOW - 480, 55 * WINDOW + 480)]
    assert len(speech_regions(probabilities, 51_200, 0.5, 3 * WINDOW)) == 2


def test_vad_does_not_import_silero_vad_which_would_set_torch_to_one_thread() -> None:
    code = "import sys, tinywave_core.audio.vad as v, numpy as np; v.speech_probabilities(np.ones(600, np.int16)); "
    subprocess.run([sys.executable, "-c", code + "assert not {'silero_vad', 'torch'} & set(sys.modules)"], check=True)

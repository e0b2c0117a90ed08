"""Measures of an utterance: numbers of sounds whose level, noise, band and tops are known, and of recordings with noise mixed in."""

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from tests.fixtures.tiny import EXAMPLES
from tinywave_core.audio.measures import PAUSE, SPEECH, bandwidth_hz, clipped_share, measure, snr_db, window_power
from tinywave_core.audio.vad import WINDOW, speech_probabilities

RNG = np.random.default_rng(0)
TALKS, PAUSES = np.float32(0.9), np.float32(0.05)
assert PAUSES < PAUSE < SPEECH < TALKS


def pcm(samples: npt.ArrayLike) -> npt.NDArray[np.int16]:
    return np.round(np.asarray(samples) * 32_768).clip(-32_768, 32_767).astype(np.int16)


@pytest.fixture(scope="module")
def reading() -> npt.NDArray[np.int16]:
    """A studio recording of 22.05 kHz, taken as if it were of 16 kHz; 1.9 s."""
    samples, _ = soundfile.read(EXAMPLES / "LJSpeech/wavs/LJ001-0002.wav", dtype="float64")
    return pcm(samples)


def powers(speech: float, pause: float, pauses: int = 20) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """20 windows of speech, then some of pause, with the VAD's word for each."""
    return (
        np.array([speech] * 20 + [pause] * pauses),
        np.array([TALKS] * 20 + [PAUSES] * pauses, np.float32),
    )


def test_the_ratio_is_that_of_speech_without_the_noise_in_it_to_the_noise():
    # 0.0101 is heard while somebody speaks, 0.0001 in the pauses: 0.01 of speech is 20 dB over the noise.
    assert snr_db(*powers(0.0101, 0.0001)) == pytest.approx(20.0)


def test_the_ratio_is_of_the_mean_of_all_pauses():
    power, talks = powers(0.0102, 0.0, 0)
    power, talks = np.append(power, [0.0001, 0.0003] * 5), np.append(talks, [PAUSES] * 10)
    assert snr_db(power, talks) == pytest.approx(10 * np.log10(0.01 / 0.0002))


def test_the_first_word_of_a_recording_is_no_noise_though_the_vad_is_late():
    power, _ = powers(0.0101, 0.0001)
    late = np.array([PAUSES] * 4 + [TALKS] * 16 + [PAUSES] * 20, np.float32)  # four windows of speech called pause
    assert snr_db(power, late) == pytest.approx(20.0)
    early = late[::-1]
    assert snr_db(power[::-1], early) == pytest.approx(20.0)


def test_without_pauses_the_quietest_tenth_of_windows_is_the_noise():
    power = np.array([0.0001] * 2 + [0.0101] * 18)
    assert snr_db(power, np.full(20, TALKS)) == pytest.approx(10 * np.log10((power.mean() - 0.0001) / 0.0001))


def test_digital_silence_is_no_noise():
    power, talks = powers(0.0101, 0.0001)
    silent = np.append(power, np.zeros(200)), np.append(talks, np.full(200, PAUSES))
    assert snr_db(*silent) == pytest.approx(20.0)


def test_the_ratio_has_bounds_and_is_not_known_without_speech():
    assert snr_db(*powers(0.25, 2e-9)) == 80.0
    assert snr_db(*powers(0.0001, 0.01)) == -20.0
    assert snr_db(np.full(30, 0.01), np.full(30, PAUSES)) is None


@pytest.mark.parametrize("mixed", [0.0, 10.0])
def test_noise_that_is_mixed_into_a_recording_is_found(reading: npt.NDArray[np.int16], mixed: float):
    power = window_power(reading)
    speech = power[speech_probabilities(reading)[: len(power)] >= SPEECH].mean()
    noise = np.random.default_rng(1).normal(0, np.sqrt(speech) * 10 ** (-mixed / 20), len(reading))
    found = measure(pcm(reading / 32_768 + noise)).snr_db
    assert found == pytest.approx(mixed, abs=1.0)  # words fade into their pauses: make bench-filters


def test_level_is_that_of_the_speech_alone(reading: npt.NDArray[np.int16]):
    as_it_is, halved = measure(reading), measure((reading / 2).round().astype(np.int16))
    padded = measure(np.concatenate([np.zeros(3 * 16_000, np.int16), reading]))
    assert as_it_is.level_db is not None and halved.level_db is not None
    assert as_it_is.level_db - halved.level_db == pytest.approx(6.02, abs=0.3)
    assert padded.level_db == pytest.approx(as_it_is.level_db, abs=1.0)
    assert padded.speech_share < 0.6 * as_it_is.speech_share


def test_power_is_one_at_full_scale_and_without_offset():
    square = np.tile(np.repeat(np.array([-32_768, 32_767], np.int16), 32), WINDOW // 32)
    assert window_power(square) == pytest.approx([1.0, 1.0], rel=1e-4)
    assert window_power(np.full(WINDOW, 9_000, np.int16)) == pytest.approx([0.0])
    assert len(window_power(np.zeros(WINDOW - 1, np.int16))) == 0


def test_flat_tops_are_counted_at_any_level_but_in_a_whisper():
    # 100 periods of 160 samples; |sin| is above sin(60°) for 2/6 of them: 53 samples of each period are cut, 51 equal the one before.
    sine = np.sin(2 * np.pi * np.arange(16_000) / 160)
    cut = np.clip(sine, -np.sin(np.pi / 3), np.sin(np.pi / 3))
    for level in (0.9, 0.1):
        assert clipped_share(pcm(level * cut)) == pytest.approx(51 / 160, abs=0.03)
        assert clipped_share(pcm(level * sine)) < 0.1
    assert clipped_share(pcm(0.005 * cut)) == 0.0
    assert clipped_share(np.zeros(0, np.int16)) == 0.0


def bursts(band_hz: tuple[float, float], noise: float = 0.0) -> npt.NDArray[np.int16]:
    """Three seconds of noise of a band that comes and goes, over steady noise of all."""
    size = 48_000
    hz, spectrum = np.fft.rfftfreq(size, 1 / 16_000), np.fft.rfft(RNG.normal(0, 0.1, size))
    banded = np.fft.irfft(spectrum * ((hz >= band_hz[0]) & (hz < band_hz[1])), size)
    comes = np.sin(2 * np.pi * 2.5 * np.arange(size) / 16_000) ** 4  # softly: a switch would sound in all bands
    return pcm(banded * comes + RNG.normal(0, noise or 1e-9, size))


def test_bandwidth_is_where_the_speech_ends():
    assert bandwidth_hz(bursts((100, 3_900))) == pytest.approx(4_000, abs=250)
    assert bandwidth_hz(bursts((100, 8_000))) == 8_000


def test_bandwidth_is_not_known_where_noise_covers_what_lies_above():
    assert bandwidth_hz(bursts((100, 3_900), noise=0.03)) is None


def test_nothing_is_known_of_silence_and_of_a_click():
    silence = measure(np.zeros(16_000, np.int16))
    assert (silence.snr_db, silence.bandwidth_hz, silence.level_db, silence.speech_share) == (None, None, None, 0.0)
    assert measure(np.zeros(1, np.int16)).snr_db is None
    assert measure(np.zeros(0, np.int16)).speech_share == 0.0

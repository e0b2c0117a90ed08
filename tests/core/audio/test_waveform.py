"""Audio for looking and for prompts: loaded as SpiritLM's tokenizer loads it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from tests.fixtures import release
from tinywave_core.audio.waveform import read_waveform, to_mono_16k
from tinywave_core.errors import SourceError

pytestmark = pytest.mark.arithmetic


def noise(samples: int, channels: int, level: float = 0.1) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, (samples, channels)).astype(np.float32)


def written(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


def test_file_at_16_khz_comes_as_it_is() -> None:
    samples = read_waveform(release.AUDIO)
    np.testing.assert_array_equal(samples, soundfile.read(release.AUDIO, dtype="float32")[0])
    assert samples.dtype == np.float32 and samples.shape == (146_160,) and samples.flags.c_contiguous


@pytest.mark.parametrize("rate", [8000, 22_050, 24_000, 44_100, 48_000])
def test_channels_are_resampled_by_torchaudio_and_then_averaged(tmp_path: Path, rate: int) -> None:
    stereo = noise(rate, 2)
    left, right = (
        torchaudio.functional.resample(torch.from_numpy(stereo[:, channel].copy()), rate, 16_000) for channel in (0, 1)
    )
    found = read_waveform(written(tmp_path / "a.wav", stereo, rate))
    assert found.shape == (16_000,)
    np.testing.assert_allclose(found, ((left + right) / 2).numpy(), rtol=0, atol=1e-7)


def test_mono_at_8_khz_keeps_its_pitch(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    found = read_waveform(written(tmp_path / "a.wav", tone, 8000))
    spectrum = np.abs(np.fft.rfft(found))
    assert len(found) == 16_000 and spectrum.argmax() == 440


def test_stereo_at_16_khz_is_averaged() -> None:
    samples = np.array([[0.5, 0.25], [-1.0, 1.0]], np.float32)
    assert to_mono_16k(samples, 16_000, "a").tolist() == [0.375, 0.0]


@pytest.mark.parametrize("level", [1e-4, 3.0])
def test_level_and_offset_stay(tmp_path: Path, level: float) -> None:
    samples = noise(1000, 1, level) + np.float32(0.25)
    np.testing.assert_array_equal(read_waveform(written(tmp_path / "a.wav", samples)), samples[:, 0])


def test_16_bit_samples_are_shares_of_32768(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([-32768, 0, 16384, 1], np.int16), 16_000, subtype="PCM_16")
    assert read_waveform(tmp_path / "a.wav").tolist() == [-1, 0, 0.5, 1 / 32768]


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_recording_without_samples_is_empty(tmp_path: Path, rate: int) -> None:
    assert read_waveform(written(tmp_path / "a.wav", np.zeros((0, 1)), rate)).shape == (0,)


def test_more_than_two_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a\.wav has 3 channels, expected one or two: mix it down or pick channels"):
        read_waveform(written(tmp_path / "a.wav", noise(100, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    samples = noise(100, 2)
    samples[50, 1] = value
    with pytest.raises(SourceError, match=r"a\.wav has samples that are NaN or infinite"):
        read_waveform(written(tmp_path / "a.wav", samples, 24_000))


@pytest.mark.parametrize("content", [b"", b"not audio", b"RIFF\x00\x00\x00\x00WAVE", b"fLaC" + bytes(50)])
def test_file_that_is_no_audio_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.wav cannot be read as audio .*: expected wav, flac, ogg/opus or mp3"):
        read_waveform(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["nowhere.wav", ".", "samples.raw"])
def test_what_is_no_file_of_audio_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "samples.raw").write_bytes(bytes(100))
    with pytest.raises(SourceError, match=r"cannot be read as audio"):
        read_waveform(tmp_path / name)


def test_path_may_be_a_string(tmp_path: Path) -> None:
    assert len(read_waveform(str(written(tmp_path / "a.wav", noise(10, 1))))) == 10

"""Audio for looking and for prompts: loaded as SpiritLM's tokenizer loads it."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from tests.fixtures import release
from tinywave_core.audio import waveform
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


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.wav is not there"):
        read_waveform(tmp_path / "nowhere.wav")


@pytest.mark.parametrize("name", [".", "samples.raw"])
def test_what_is_no_file_of_audio_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "samples.raw").write_bytes(bytes(100))
    with pytest.raises(SourceError, match=r"cannot be read as audio"):
        read_waveform(tmp_path / name)


def silent_flac(path: Path, frames: int, rate: int = 48_000, channels: int = 2) -> Path:
    with soundfile.SoundFile(path, "w", rate, channels, "PCM_16") as file:
        for start in range(0, frames, 1 << 20):
            file.write(np.zeros((min(1 << 20, frames - start), channels), np.int16))
    return path


def with_length(path: Path, frames: int) -> Path:
    """A FLAC file whose header claims another number of frames; 0 says that it is not known."""
    data = bytearray(path.read_bytes())
    data[18:26] = (int.from_bytes(data[18:26], "big") >> 36 << 36 | frames).to_bytes(8, "big")
    path.write_bytes(data)
    return path


def refused_for_its_length(path: Path) -> tuple[str, float]:
    """The words, and the memory in MB that refusing took."""
    tracemalloc.start()  # numpy's arrays are counted
    try:
        with pytest.raises(SourceError) as refused:
            read_waveform(path)
        return str(refused.value), tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("frames", [(1 << 36) - 1, 30 * 60 * 16_000 + 1])
def test_a_header_that_claims_more_than_half_an_hour_is_refused_before_memory_is_taken(
    tmp_path: Path, frames: int
) -> None:
    said, megabytes = refused_for_its_length(with_length(silent_flac(tmp_path / "a.flac", 16_000, 16_000, 1), frames))
    assert f"{frames / 16_000 / 60:,.1f} minutes of audio or more; expected 30 at most: cut it, or let" in said
    assert megabytes < 1


def test_a_bomb_that_does_not_say_its_length_is_given_up_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waveform, "LONGEST_S", 20)
    path = with_length(silent_flac(tmp_path / "a.flac", 48_000 * 200), 0)
    assert path.stat().st_size < 48_000 * 200 * 2 * 4 / 1000  # a thousandth of what it unpacks to
    said, megabytes = refused_for_its_length(path)
    assert "a.flac has 0.3 minutes of audio or more; expected 0.3333 at most" in said
    assert megabytes < 2 * 20 * 48_000 * 2 * 4 / 1e6  # not the 77 MB that are in it


def test_at_high_rates_the_limit_is_one_of_memory(tmp_path: Path) -> None:
    path = with_length(silent_flac(tmp_path / "a.flac", 1000, 192_000), 192_000 * 451)
    assert "has 7.5 minutes of audio or more; expected 7.5 at most" in refused_for_its_length(path)[0]


def test_a_whole_file_that_does_not_say_its_length_is_read(tmp_path: Path) -> None:
    assert len(read_waveform(with_length(silent_flac(tmp_path / "a.flac", 70_000, 16_000, 1), 0))) == 70_000


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_blocks_are_the_samples_of_one_piece(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, noise(200_000, 2), 16_000)
    whole, _ = soundfile.read(tmp_path / name, dtype="float32")
    np.testing.assert_array_equal(read_waveform(tmp_path / name), whole.mean(axis=1, dtype=np.float32))


def test_path_may_be_a_string(tmp_path: Path) -> None:
    assert len(read_waveform(str(written(tmp_path / "a.wav", noise(10, 1))))) == 10

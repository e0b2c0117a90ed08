"""Decoding: every format comes out as 16 kHz mono, every broken file as a reason."""

import os
import shutil
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchaudio.functional

from tinywave_core.audio.decode import Decoder, Recording, resample, to_int16
from tinywave_core.audio.levels import channel_weights
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import ConfigError

Decode = Callable[[Path], Recording]
Samples = npt.NDArray[np.float32]
Write = Callable[..., Path]

FORMATS: dict[str, tuple[int, dict[str, Any]]] = {
    "a.wav": (22_050, {}),
    "24.wav": (22_050, {"subtype": "PCM_24"}),
    "float.wav": (22_050, {"subtype": "FLOAT"}),
    "u.wav": (8_000, {"subtype": "ULAW"}),
    "rf64.wav": (44_100, {"format": "RF64"}),
    "a.flac": (48_000, {}),
    "a.ogg": (22_050, {}),
    "a.opus": (16_000, {"format": "OGG", "subtype": "OPUS"}),
    "a.mp3": (44_100, {}),
    "a.aiff": (96_000, {}),
    "a.caf": (22_050, {}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_and_rate_gives_16_khz_of_the_same_duration(
    name: str, sentence: Samples, write: Write, decode: Decode
) -> None:
    rate, options = FORMATS[name]
    recording = decode(write(name, sentence, rate, **options))
    assert recording.verdict.reason is None
    assert recording.samples_N is not None
    assert len(recording.samples_N) == pytest.approx(len(sentence) / rate * 16_000, abs=2)


def test_the_content_decides_and_not_the_name(sentence: Samples, write: Write, decode: Decode, tmp_path: Path) -> None:
    write("a.flac", sentence).rename(tmp_path / "a.mp3")
    assert decode(tmp_path / "a.mp3").verdict.container == "FLAC"


def test_16_khz_16_bit_samples_stay_exactly_as_they_are(write: Write, decode: Decode) -> None:
    samples = np.random.default_rng(0).integers(-9_000, 9_000, 20_000).astype(np.int16)
    samples -= np.int16(round(samples.mean()))
    assert np.array_equal(decode(write("a.wav", samples, 16_000)).samples_N, samples)


def test_wav_and_flac_of_the_same_samples_decode_to_the_same(sentence: Samples, write: Write, decode: Decode) -> None:
    first, second = decode(write("a.wav", sentence)), decode(write("a.flac", sentence))
    assert np.array_equal(first.samples_N, second.samples_N)


@pytest.mark.parametrize(
    "channels",
    [lambda s: [s, -s], lambda s: [s, 0 * s], lambda s: [0 * s, s], lambda s: [s] * 16, lambda s: [s, s]],
    ids=["anti-phase", "dead right", "dead left", "sixteen", "stereo"],
)
def test_no_arrangement_of_channels_loses_level(channels: Any, sentence: Samples, write: Write, decode: Decode) -> None:
    mono = decode(write("mono.wav", sentence)).samples_N
    many = decode(write("many.wav", np.stack(channels(sentence), axis=1))).samples_N
    assert mono is not None
    assert many is not None
    assert np.abs(np.abs(many.astype(int)) - np.abs(mono.astype(int))).max() <= 1


def test_opposed_channels_are_turned_round_and_weak_ones_left_out() -> None:
    covariance = np.array([[1.0, -0.9, 0.0], [-0.9, 1.0, 0.0], [0.0, 0.0, 1e-9]])
    assert channel_weights(covariance).tolist() == [0.5, -0.5, 0.0]


def test_a_constant_offset_is_removed(sentence: Samples, write: Write, decode: Decode) -> None:
    recording = decode(write("a.wav", 0.3 * sentence + 0.5))
    assert recording.verdict.dc_offset == pytest.approx(0.5, abs=1e-4)
    assert recording.samples_N is not None
    assert abs(recording.samples_N.mean()) < 1


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def patched(path: Path, marker: bytes, offset: int, new: bytes) -> Path:
    data = bytearray(path.read_bytes())
    position = data.index(marker) + offset
    data[position : position + len(new)] = new
    path.write_bytes(data)
    return path


def flac_of_length(path: Path, frames: int) -> Path:
    """A FLAC file whose header claims another number of frames (36 bits of STREAMINFO)."""
    data = bytearray(path.read_bytes())
    field = int.from_bytes(data[18:26], "big") >> 36 << 36 | frames
    data[18:26] = field.to_bytes(8, "big")
    path.write_bytes(data)
    return path


def text(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def spoilt(samples: Samples, value: float) -> Samples:
    samples = samples.copy()
    samples[100] = value
    return samples


OPUS = {"format": "OGG", "subtype": "OPUS"}
BROKEN: dict[str, tuple[str, Callable[[Write, Path, Samples], Path]]] = {
    "zero bytes": ("empty_file", lambda w, t, s: text(t / "a.wav", b"")),
    "text named wav": ("not_audio", lambda w, t, s: text(t / "a.wav", b"hello " * 99)),
    "a page named flac": ("not_audio", lambda w, t, s: text(t / "a.flac", b"<html></html>")),
    "a Git LFS pointer": (
        "not_audio",
        lambda w, t, s: text(t / "a.wav", b"version https://git-lfs.github.com/spec/v1\n"),
    ),
    "no samples": ("no_audio", lambda w, t, s: w("a.wav", s[:0])),
    "cut WAV": ("length_mismatch", lambda w, t, s: cut(w("a.wav", s), 0.9)),
    "cut FLAC": ("undecodable", lambda w, t, s: cut(w("a.flac", s), 0.9)),
    "cut Vorbis": ("length_mismatch", lambda w, t, s: cut(w("a.ogg", s), 0.9)),
    "cut Opus": ("length_mismatch", lambda w, t, s: cut(w("a.opus", np.tile(s, 9), 16_000, **OPUS), 0.9)),
    "cut MP3": ("length_mismatch", lambda w, t, s: cut(w("a.mp3", np.tile(s, 9)), 0.9)),
    "forged FLAC": ("length_mismatch", lambda w, t, s: flac_of_length(w("a.flac", np.tile(s, 9)), 16_000)),
    "forged WAV": ("length_mismatch", lambda w, t, s: patched(w("a.wav", s), b"data", 4, struct.pack("<I", 16_000))),
    "forged MP3": (
        "length_mismatch",
        lambda w, t, s: patched(w("a.mp3", np.tile(s, 9)), b"Xing", 8, struct.pack(">I", 50)),
    ),
    "FLAC of 200 hours": ("too_long", lambda w, t, s: flac_of_length(w("a.flac", s), 1 << 34)),
    "FLAC bomb": ("too_long", lambda w, t, s: w("a.flac", np.zeros(16_000 * 400, np.int16), 16_000)),
    "FLAC bomb of no length": (
        "too_long",
        lambda w, t, s: flac_of_length(w("a.flac", np.zeros(16_000 * 400, np.int16), 16_000), 0),
    ),
    "2 GHz": ("bad_sample_rate", lambda w, t, s: patched(w("a.wav", s), b"fmt ", 12, struct.pack("<I", 2_000_000_000))),
    "1 kHz": ("bad_sample_rate", lambda w, t, s: w("a.wav", s, 1_000)),
    "17 channels": ("bad_channels", lambda w, t, s: w("a.wav", np.stack([s] * 17, axis=1))),
    "NaN": ("not_finite", lambda w, t, s: w("a.wav", spoilt(s, np.nan), subtype="FLOAT")),
    "infinity": ("not_finite", lambda w, t, s: w("a.wav", spoilt(s, -np.inf), subtype="FLOAT")),
    "30 times full scale": ("over_full_scale", lambda w, t, s: w("a.wav", 60 * s, subtype="FLOAT")),
    "silence": ("silent", lambda w, t, s: w("a.wav", np.zeros(20_000))),
    "a constant": ("silent", lambda w, t, s: w("a.wav", np.full(20_000, 0.5))),
    "missing": ("unreadable", lambda w, t, s: t / "none.wav"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_with_its_reason(
    what: str, sentence: Samples, write: Write, decode: Decode, tmp_path: Path
) -> None:
    reason, make = BROKEN[what]
    recording = decode(make(write, tmp_path, sentence))
    assert (recording.verdict.reason, recording.samples_N) == (reason, None)
    assert recording.verdict.detail


WHOLE = ["unknown FLAC length", "unknown WAV length", "trailing chunk", "trailing tag"]


@pytest.mark.parametrize("what", WHOLE)
def test_unusual_but_whole_files_are_taken(what: str, sentence: Samples, write: Write, decode: Decode) -> None:
    match what:
        case "unknown FLAC length":
            path = flac_of_length(write("a.flac", np.tile(sentence, 9)), 0)
        case "unknown WAV length":
            path = patched(write("a.wav", sentence), b"data", 4, b"\xff\xff\xff\xff")
        case "trailing chunk":
            path = write("a.wav", sentence)
            path.write_bytes(path.read_bytes() + b"LIST" + struct.pack("<I", 50_000) + bytes(50_000))
        case _:
            path = write("a.mp3", sentence)
            path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
    assert decode(path).verdict.reason is None


def test_the_details_of_a_file_are_reported(write: Write, decode: Decode) -> None:
    seen = decode(write("a.wav", np.tile([1.0, -1.0, 0.25, -0.25], 4_000), 8_000)).verdict
    assert (seen.sample_rate, seen.channels, seen.header_frames, seen.decoded_frames) == (8_000, 1, 16_000, 16_000)
    assert (seen.container, seen.encoding, seen.peak, seen.clipped_share) == ("WAV", "PCM_16", 1.0, 0.5)


# The child ---------------------------------------------------------------------------------------------------------


def test_names_with_newlines_quotes_emoji_and_no_utf8_can_be_decoded(
    write: Write, decode: Decode, tmp_path: Path
) -> None:
    path = write("a.wav", np.tile([0.5, -0.5], 9_000))
    for name in (b"a\nb.wav", b"'\"`$(x).wav", "🎙 e\u0301.wav".encode(), b"\xff\xfe.wav"):
        path = path.rename(Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))))
        assert decode(path).verdict.reason is None


def test_a_killed_decoder_is_replaced_and_the_file_is_read(sentence: Samples, write: Write) -> None:
    with Decoder(RuntimeConfig(), 1.0) as decoder:
        decoder.decode(write("a.wav", sentence))
        assert decoder.pid
        os.kill(decoder.pid, signal.SIGKILL)
        assert decoder.decode(write("b.wav", sentence)).verdict.reason is None


DIES_ON_EVERY_FILE = """
import os, sys
hello = b"{}"
os.write(1, len(hello).to_bytes(4, "big") + hello)
sys.stdin.readline()
os.abort()
"""


def test_a_file_on_which_the_decoder_dies_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dies.py").write_text(DIES_ON_EVERY_FILE)
    monkeypatch.setattr("tinywave_core.audio.decoder_process.__file__", str(tmp_path / "dies.py"))
    with Decoder(RuntimeConfig(), 1.0) as decoder:
        recording = decoder.decode(tmp_path / "any.wav")
    assert recording.verdict.reason == "decoder_crashed"


def test_a_decoder_that_hangs_is_given_up_and_replaced(sentence: Samples, write: Write) -> None:
    with Decoder(RuntimeConfig(decode_timeout_s=0.5), 1.0) as decoder:
        path = write("a.wav", sentence)
        decoder.decode(path)
        assert decoder.pid
        os.kill(decoder.pid, signal.SIGSTOP)
        started = time.monotonic()
        assert decoder.decode(path).verdict.reason == "decoder_timeout"
        assert time.monotonic() - started < 5
        assert decoder.decode(path).verdict.reason is None


def test_a_decoder_that_cannot_start_says_what_to_do(
    sentence: Samples, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    with Decoder(RuntimeConfig(), 1.0) as decoder, pytest.raises(ConfigError, match="decode_memory_mb"):
        decoder.decode(write("a.wav", sentence))


# Resampling --------------------------------------------------------------------------------------------------------


def reader(samples: Samples) -> Callable[[int], Samples]:
    position = 0

    def read(count: int) -> Samples:
        nonlocal position
        position += count
        return samples[position - count : position]

    return read


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_resampling_in_blocks_is_torchaudio_in_one_piece(rate: int) -> None:
    samples = np.random.default_rng(rate).normal(0, 0.1, 5 * rate + 123).astype(np.float32)
    whole = torchaudio.functional.resample(torch.from_numpy(samples).double(), rate, 16_000).numpy()
    assert np.array_equal(resample(reader(samples), len(samples), rate, block_s=1), to_int16(whole))


@pytest.mark.parametrize("frames", range(213_167, 213_177))
def test_the_length_is_rounded_up_exactly(frames: int) -> None:
    assert len(resample(reader(np.zeros(frames, np.float32)), frames, 22_050)) == -(-frames * 320 // 441)


def test_samples_beyond_full_scale_are_clipped_and_halves_round_to_even() -> None:
    assert to_int16(np.array([-2.0, -1.0, 0.5, 1.0, 2.5 / 32_768])).tolist() == [-32_768, -32_768, 16_384, 32_767, 2]

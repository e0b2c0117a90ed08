"""Containers: lost pages, joined files and wrong headers are found in the bytes, and whole files are left in peace."""

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from tinywave_core.audio.containers import Part, ogg_crc
from tinywave_core.audio.decode import Recording

Decode = Callable[[Path], Recording]
Samples = npt.NDArray[np.float32]
RATE = 22_050


def encoded(samples_N: Samples, rate: int = RATE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples_N, rate, **options)
    return buffer.getvalue()


def decoded(data: bytes, decode: Decode, tmp_path: Path) -> Recording:
    path = tmp_path / "file"
    path.write_bytes(data)
    return decode(path)


# Ogg ---------------------------------------------------------------------------------------------------------------


OGG = {"vorbis": {"format": "OGG", "subtype": "VORBIS"}, "opus": {"format": "OGG", "subtype": "OPUS"}}


def pages(data: bytes) -> list[bytes]:
    """The pages of an Ogg file by their own lengths."""
    found, position = [], 0
    while position < len(data):
        segments = data[position + 26]
        length = 27 + segments + sum(data[position + 27 : position + 27 + segments])
        found.append(data[position : position + length])
        position += length
    return found


def flipped(page: bytes) -> bytes:
    return page[:-5] + bytes([page[-5] ^ 0x55]) + page[-4:]


def test_the_checksum_is_the_one_in_the_pages(sentence: Samples) -> None:
    for page in pages(encoded(sentence, **OGG["vorbis"])):
        assert ogg_crc(page[:22] + bytes(4) + page[26:]) == int.from_bytes(page[22:26], "little")


@pytest.mark.parametrize("kind", OGG)
@pytest.mark.parametrize("damage", ["flipped", "lost", "doubled", "last flipped"])
def test_an_ogg_that_lost_a_page_is_refused_however_little_the_decoder_says(
    kind: str, damage: str, sentence: Samples, decode: Decode, tmp_path: Path
) -> None:
    whole = pages(encoded(np.tile(sentence, 6), 16_000, **OGG[kind]))
    middle = len(whole) // 2
    damaged = {
        "flipped": [*whole[:middle], flipped(whole[middle]), *whole[middle + 1 :]],
        "lost": [*whole[:middle], *whole[middle + 1 :]],
        "doubled": [*whole[:middle], whole[middle], *whole[middle:]],
        "last flipped": [*whole[:-1], flipped(whole[-1])],
    }[damage]
    assert len(whole) > 6
    assert decoded(b"".join(whole), decode, tmp_path).verdict.reason is None
    verdict = decoded(b"".join(damaged), decode, tmp_path).verdict
    assert verdict.reason == "length_mismatch"
    assert verdict.detail is not None and ("pages are missing" in verdict.detail or "cut short" in verdict.detail)


def test_a_stream_that_begins_with_a_later_page_is_no_damage(sentence: Samples, decode: Decode, tmp_path: Path) -> None:
    """A stream that was captured begins with any page number."""
    shifted = []
    for page in pages(encoded(sentence, **OGG["vorbis"])):
        number = int.from_bytes(page[18:22], "little") + 1000
        page = page[:18] + struct.pack("<I", number) + bytes(4) + page[26:]
        shifted.append(page[:22] + struct.pack("<I", ogg_crc(page)) + page[26:])
    assert decoded(b"".join(shifted), decode, tmp_path).verdict.reason is None


# WAV ---------------------------------------------------------------------------------------------------------------


def wav(samples_N: Samples, riff: int, data: int) -> bytes:
    """A WAV whose header says these lengths."""
    whole = bytearray(encoded(samples_N, format="WAV", subtype="PCM_16"))
    assert whole[36:40] == b"data"
    whole[4:8], whole[40:44] = struct.pack("<I", riff), struct.pack("<I", data)
    return bytes(whole)


@pytest.mark.parametrize(
    ("riff", "data"),
    [(0xFFFF_FFFF, 0xFFFF_FFFF), (0x7FFF_FFFF, 0x7FFF_FFDB), (0, 0), (8, 0), (36, 0)],
    ids=["ffmpeg's pipe", "sox's pipe", "zeros", "libsndfile's crash", "an empty header"],
)
def test_a_streamed_wav_is_taken_whole(riff: int, data: int, sentence: Samples, decode: Decode, tmp_path: Path) -> None:
    usual = decoded(encoded(sentence, format="WAV", subtype="PCM_16"), decode, tmp_path)
    streamed = decoded(wav(sentence, riff, data), decode, tmp_path)
    assert streamed.verdict.reason is None
    assert np.array_equal(streamed.samples_N, usual.samples_N)


def test_a_slip_of_the_writer_costs_no_recording(sentence: Samples, decode: Decode, tmp_path: Path) -> None:
    size = 2 * len(sentence)
    for promised in (size + 1, size + 36, size + 44):
        assert decoded(wav(sentence, size + 36, promised), decode, tmp_path).verdict.reason is None


def test_a_header_that_promises_more_says_how_to_repair_it(sentence: Samples, decode: Decode, tmp_path: Path) -> None:
    verdict = decoded(wav(sentence, 99, 2 * len(sentence) + 5_000), decode, tmp_path).verdict
    assert verdict.reason == "length_mismatch"
    assert "sox --ignore-length" in str(verdict.detail)


def test_an_empty_wav_with_a_chunk_behind_it_stays_empty(sentence: Samples, decode: Decode, tmp_path: Path) -> None:
    data = encoded(sentence[:0], format="WAV", subtype="PCM_16") + b"LIST" + struct.pack("<I", 400) + bytes(400)
    assert decoded(data, decode, tmp_path).verdict.reason == "no_audio"


# MP3 ---------------------------------------------------------------------------------------------------------------


ID3 = b"ID3\x04\0\0\0\0\0\x14" + bytes(20)


@pytest.mark.parametrize("between", [b"", ID3, b"TAG" + bytes(125) + ID3], ids=["nothing", "ID3v2", "ID3v1 and v2"])
@pytest.mark.parametrize("channels", [1, 2])
def test_joined_mp3s_are_decoded_one_after_the_other(
    between: bytes, channels: int, sentence: Samples, decode: Decode, tmp_path: Path
) -> None:
    one = np.stack([sentence] * channels, axis=1)
    first, second = encoded(one, format="MP3"), encoded(np.tile(one, (2, 1)), format="MP3")
    joined = decoded(first + between + second, decode, tmp_path)
    assert joined.verdict.reason is None and joined.verdict.detail == "2 MP3 files in one: all of them were decoded"
    assert joined.verdict.decoded_frames == pytest.approx(3 * len(sentence), abs=3)
    parts = [decoded(part, decode, tmp_path).samples_N for part in (first, second)]
    assert parts[0] is not None and joined.samples_N is not None
    assert np.abs(joined.samples_N[20_000:30_000].astype(int) - parts[0][20_000:30_000]).max() <= 2


LOSSLESS_OR_NOT = {"WAV": {"format": "WAV"}, "MP3": {"format": "MP3"}, "OGG": OGG["vorbis"], "OGG Opus": OGG["opus"]}


def written(samples_N: Samples, times: int, **options: Any) -> bytes:
    """As `encoded`, in pieces: libsndfile's Vorbis takes no long ones at a time."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 16_000, 1, **options) as file:
        for _ in range(times):
            file.write(samples_N)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", LOSSLESS_OR_NOT)
def test_a_short_file_behind_a_long_one_is_decoded_too(
    kind: str, sentence: Samples, decode: Decode, tmp_path: Path
) -> None:
    """It is under 4 KiB or under 2 % of the bytes, which a reader may else leave."""
    sentence = sentence[:20_000]  # encoders take as long as the sound lasts
    long, short = (written(sentence, times, **LOSSLESS_OR_NOT[kind]) for times in (70, 1))
    data = long + short
    assert len(short) < max(4_096, 0.025 * len(data))
    verdict = decoded(data, decode, tmp_path).verdict
    assert verdict.reason is None and verdict.decoded_frames == pytest.approx(71 * len(sentence), abs=3)
    assert verdict.detail == f"2 {kind[:3]} files in one: all of them were decoded"


def test_a_wav_behind_which_another_is_cut_is_refused(sentence: Samples, decode: Decode, tmp_path: Path) -> None:
    data = written(sentence, 1, format="WAV") + written(sentence, 1, format="WAV")[:-1_000]
    assert decoded(data, decode, tmp_path).verdict.reason == "undecodable"


def test_joined_mp3s_of_two_rates_say_what_they_are(sentence: Samples, decode: Decode, tmp_path: Path) -> None:
    verdict = decoded(
        encoded(sentence, format="MP3") + encoded(sentence, 44_100, format="MP3"), decode, tmp_path
    ).verdict
    assert verdict.reason == "joined_files"
    assert "22050 Hz" in str(verdict.detail) and "44100 Hz" in str(verdict.detail)


def test_a_long_joined_mp3_comes_out_whole_in_its_second_pass(
    sentence: Samples, decode: Decode, tmp_path: Path
) -> None:
    """Stereo of more than 64 MiB decoded is read twice."""
    part = encoded(np.stack([np.tile(sentence, 110)] * 2, axis=1), 48_000, format="MP3")
    joined = decoded(part + part, decode, tmp_path)
    assert joined.verdict.reason is None and joined.samples_N is not None
    assert (joined.verdict.decoded_frames or 0) * 8 > 64 << 20
    assert len(joined.samples_N) == pytest.approx(220 * len(sentence) / 3, abs=5)


def test_a_part_of_a_file_reads_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    handle = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        part = Part(handle, 2, 8, b"ab")
        assert (part.read(3), part.tell(), part.read()) == (b"ab4", 3, b"567")
        assert (part.seek(-2, os.SEEK_END), part.read(9), part.seek(1), part.read(2)) == (4, b"67", 1, b"b4")
    finally:
        os.close(handle)

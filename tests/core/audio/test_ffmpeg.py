"""Phone and video formats: what they sound like is decoded in the same child, within the same bounds."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from tinywave_core.audio import waveform
from tinywave_core.audio.decode import Decoder, Recording
from tinywave_core.audio.ffmpeg import ffmpeg_name, kind_of
from tinywave_core.audio.quality import warnings_of
from tinywave_core.audio.waveform import read_waveform
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import SourceError
from tinywave_core.storage.schemas import FILES

Decode = Callable[[Path], Recording]
Samples = npt.NDArray[np.float32]
# container, codec, rate
FORMATS = {
    "a.m4a": ("ipod", "aac", 22_050),
    "a.mp4": ("mp4", "aac", 44_100),
    "alac.m4a": ("ipod", "alac", 22_050),
    "a.mov": ("mov", "pcm_s16le", 22_050),
    "a.3gp": ("3gp", "libopencore_amrnb", 8_000),
    "a.webm": ("webm", "libopus", 48_000),
    "a.mka": ("matroska", "aac", 22_050),
    "a.aac": ("adts", "aac", 22_050),
    "a.amr": ("amr", "libopencore_amrnb", 8_000),
    "a.wma": ("asf", "wmav2", 44_100),
}


def record(path: Path, tracks: list[Samples], form: str, codec: str, rate: int, *, film: bool = False) -> Path:
    """Samples [N] or [N, C] at `rate` as a file, by FFmpeg itself; with a picture where it is a film."""
    with av.open(path, "w", format=form) as out:
        pictures = out.add_stream("libvpx" if form == "webm" else "mpeg4", rate=5) if film else None
        streams = []
        for track in tracks:
            layout = "stereo" if track.ndim == 2 else "mono"
            streams.append(out.add_stream(codec, rate=rate, layout=layout))
            streams[-1].bit_rate = 12_200 if "amr" in codec else 64_000
        if pictures:
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
            for number in range(10):
                picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
                picture.pts = number
                out.mux(pictures.encode(picture))
            out.mux(pictures.encode(None))
        for stream, track in zip(streams, tracks, strict=True):
            packed = np.ascontiguousarray(track.reshape(1, -1), np.float32)
            frame = av.AudioFrame.from_ndarray(packed, "flt", "stereo" if track.ndim == 2 else "mono")
            frame.sample_rate, frame.pts = rate, 0
            resampler = av.AudioResampler(stream.format, stream.layout, rate, stream.frame_size or 1024)
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                out.mux(stream.encode(piece))
            out.mux(stream.encode(None))
    return path


def at(rate: int, samples: Samples) -> Samples:
    """Speech at 22.05 kHz read at another rate, without filters: only what it is like counts here."""
    places = np.arange(0, len(samples) - 1, 22_050 / rate)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def likeness(ours: Samples, reference: Samples) -> float:
    """The highest correlation, wherever the one begins in the other."""
    size = 1 << 17
    cross = np.fft.irfft(np.fft.rfft(ours, size) * np.conj(np.fft.rfft(reference, size)))
    return float(cross.max() / np.sqrt((ours.astype(float) ** 2).sum() * (reference.astype(float) ** 2).sum()))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_sounds_like_what_was_recorded(
    name: str, sentence: Samples, decode: Decode, tmp_path: Path
) -> None:
    form, codec, rate = FORMATS[name]
    found = decode(record(tmp_path / name, [at(rate, sentence)], form, codec, rate))
    assert found.verdict.reason is None
    assert found.verdict.decoder == ffmpeg_name()
    assert found.samples_N is not None
    assert len(found.samples_N) == pytest.approx(len(sentence) / 22_050 * 16_000, abs=0.1 * 16_000)
    assert likeness(found.samples_N, at(16_000, sentence)) > (0.9 if rate > 8_000 else 0.8)


def test_lossless_sound_is_the_same_as_from_wav(sentence: Samples, write: Any, decode: Decode, tmp_path: Path) -> None:
    whole = np.rint(sentence * 32_767).astype(np.int16)
    exact = (whole / 32_768).astype(np.float32)
    wav = decode(write("a.wav", whole))
    alac = decode(record(tmp_path / "a.m4a", [exact], "ipod", "alac", 22_050))
    mov = decode(record(tmp_path / "a.mov", [exact], "mov", "pcm_s16le", 22_050))
    assert wav.samples_N is not None
    assert np.array_equal(wav.samples_N, alac.samples_N)
    assert np.array_equal(wav.samples_N, mov.samples_N)


@pytest.mark.parametrize("form", ["mp4", "webm"])
def test_of_a_film_the_first_of_several_tracks_is_taken_and_told(
    form: str, sentence: Samples, decode: Decode, tmp_path: Path
) -> None:
    codec = "aac" if form == "mp4" else "libopus"
    loud = at(48_000, sentence)
    found = decode(record(tmp_path / f"a.{form}", [loud, 0.1 * loud[::-1]], form, codec, 48_000, film=True))
    assert found.verdict.detail == "2 audio tracks: the first of them was decoded"
    assert found.samples_N is not None
    assert likeness(found.samples_N, at(16_000, sentence)) > 0.9
    row = {**dict.fromkeys(FILES.names), "detail": found.verdict.detail}
    assert warnings_of(row) == ["several_tracks"]


def test_channels_are_mixed_as_those_of_any_file(sentence: Samples, decode: Decode, tmp_path: Path) -> None:
    found = decode(record(tmp_path / "a.m4a", [np.stack([sentence, -sentence], 1)], "ipod", "alac", 22_050))
    assert (found.verdict.channels, found.verdict.channel_mix) == (2, "flipped")


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def in_front(path: Path) -> Path:
    """The same MP4 with its outline in front, as for streaming: a copy of it can end anywhere."""
    with (
        av.open(path) as given,
        av.open(path.with_suffix(".front.m4a"), "w", format="ipod", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(given.streams.audio[0])
        for packet in given.demux(given.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return path.with_suffix(".front.m4a")


def test_damage_is_a_reason(sentence: Samples, decode: Decode, tmp_path: Path) -> None:
    whole = record(tmp_path / "a.m4a", [np.tile(sentence, 5)], "ipod", "aac", 22_050)
    front = in_front(whole)
    assert decode(front).verdict.reason is None
    assert decode(cut(front, 0.6)).verdict.reason in ("length_mismatch", "undecodable")
    assert decode(cut(whole, 0.6)).verdict.reason == "undecodable"
    (tmp_path / "junk.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(99))
    assert decode(tmp_path / "junk.m4a").verdict.reason in ("undecodable", "no_audio")


def test_a_code_that_nothing_decodes_is_told(sentence: Samples, decode: Decode, tmp_path: Path) -> None:
    path = record(tmp_path / "a.m4a", [sentence], "ipod", "aac", 22_050)
    data = path.read_bytes()
    assert data.count(b"mp4a") == data.count(b"\x40\x15") == 1  # the code by its name, and by its number
    path.write_bytes(data.replace(b"mp4a", b"zzzz").replace(b"\x40\x15", b"\x01\x15"))
    found = decode(path).verdict
    assert found.reason == "undecodable"
    assert found.detail == "FFmpeg: nothing here decodes its audio: it is in another code, encrypted or damaged"


def test_a_film_without_sound_is_told(decode: Decode, tmp_path: Path) -> None:
    found = decode(record(tmp_path / "a.mp4", [], "mp4", "aac", 22_050, film=True))
    assert (found.verdict.reason, found.verdict.detail) == ("no_audio", "no audio track; expected one")


def test_bounds_hold(sentence: Samples, tmp_path: Path) -> None:
    path = record(tmp_path / "a.m4a", [sentence], "ipod", "aac", 22_050)
    with Decoder(RuntimeConfig(), max_recording_hours=1 / 3600) as decoder:
        assert decoder.decode(path).verdict.reason == "too_long"
        webm = record(tmp_path / "a.webm", [at(48_000, sentence)], "webm", "libopus", 48_000)
        assert decoder.decode(webm).verdict.reason == "too_long"
        mov = record(tmp_path / "a.mov", [sentence], "mov", "pcm_s16le", 22_050)
        rate, slow = (struct.pack(">I", hertz << 16) for hertz in (22_050, 2_000))
        mov.write_bytes(mov.read_bytes().replace(rate, slow))
        assert decoder.decode(mov).verdict.reason == "bad_sample_rate"


def test_without_the_extra_the_reason_says_what_to_install(
    sentence: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "none" / "av").mkdir(parents=True)
    (tmp_path / "none" / "av" / "__init__.py").write_text("raise ImportError('not installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "none"))
    path = record(tmp_path / "a.m4a", [sentence], "ipod", "aac", 22_050)
    with Decoder(RuntimeConfig(), max_recording_hours=1) as decoder:
        verdict = decoder.decode(path).verdict
    assert verdict.reason == "needs_extra"
    assert verdict.detail
    assert "pip install 'tinywave[video]'" in verdict.detail


def test_a_playlist_that_names_other_files_opens_none_of_them(tmp_path: Path, decode: Decode) -> None:
    (tmp_path / "list.m4a").write_bytes(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    assert decode(tmp_path / "list.m4a").verdict.reason == "not_audio"


def test_no_head_of_other_formats_is_taken_for_one_of_these() -> None:
    heads = (
        b"RIFF\0\0\0\0WAVE",
        b"fLaC",
        b"OggS",
        b"ID3\x03",
        b"\xff\xfb\x90",
        b"\xff\xf3\x40",
        b"FORM\0\0\0\0AIFF",
        b"caff",
        b"",
    )
    assert [kind_of(head) for head in heads] == [None] * len(heads)


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.aac", "a.mp4"])
def test_a_prompt_from_a_phone_is_heard_as_ingestion_hears_it(
    name: str, sentence: Samples, decode: Decode, tmp_path: Path
) -> None:
    form, codec, rate = FORMATS[name]
    path = record(tmp_path / "prompt.wav", [at(rate, sentence)], form, codec, rate)  # whatever it is called
    samples_N = decode(path).samples_N
    assert samples_N is not None
    assert (read_waveform(path) * 32_768).tolist() == samples_N.tolist()


def test_a_prompt_from_a_phone_that_cannot_be_read_says_why(
    sentence: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(tmp_path / "a.m4a", [sentence], "ipod", "aac", 22_050)
    monkeypatch.setattr(waveform, "LONGEST_S", 1)
    with pytest.raises(SourceError, match=r"a\.m4a has more than 0\.01667 minutes of audio: cut it"):
        read_waveform(path)
    (tmp_path / "cut.m4a").write_bytes(path.read_bytes()[:200])
    with pytest.raises(SourceError, match=r"cut\.m4a \(MP4\) cannot be read as audio: undecodable, FFmpeg"):
        read_waveform(tmp_path / "cut.m4a")
    monkeypatch.setattr(waveform, "ffmpeg_name", lambda: None)
    with pytest.raises(SourceError, match=r"a\.m4a is MP4, which needs an extra: pip install 'tinywave\[video\]'"):
        read_waveform(path)

"""Phone and video formats (MP4, M4A, 3GP, QuickTime, WebM, Matroska, AAC, AMR, Windows Media) -> their sound, by PyAV (the extra `video`).

Runs in the decoding child, with its bounds of memory, time, length, sample rate and channels. Of a video the first audio track is
decoded. A file is opened as what its first bytes say, and by its descriptor alone: nothing that it names is opened. Shapes: N frames,
C channels.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

EXTRA = "pip install 'tinywave[video]'"
HEAD_BYTES = 64
BLOCK_FRAMES = 65_536
# AAC has frames of 1,024 or 2,048, and a header may count those that start and end the coding.
SLACK_FRAMES = 3 * 2048
TRACKS = "audio tracks: the first of them was decoded"
# Full scale of each kind of sample.
_SCALES = {"u8": 1 << 7, "s16": 1 << 15, "s32": 1 << 31, "flt": 1, "dbl": 1}
Samples = npt.NDArray[np.float32]


class FFmpegError(Exception):
    """What is wrong with a file, in FFmpeg's words or ours."""


@dataclass(frozen=True)
class Kind:
    """A family of files that FFmpeg reads and libsndfile does not."""

    name: str
    demuxer: str
    tells_length: bool = False
    """Whether its header says how long it is."""


MP4 = Kind("MP4", "mov", tells_length=True)
WEBM, WINDOWS = Kind("WebM or Matroska", "matroska"), Kind("Windows Media", "asf")
AAC, AMR = Kind("AAC (ADTS)", "aac"), Kind("AMR", "amr")


@dataclass(frozen=True)
class Header:
    """What a file says of its track, and what its first frame is."""

    encoding: str
    sample_rate: int
    channels: int
    frames: int | None
    tracks: int


def kind_of(head: bytes) -> Kind | None:
    """The family of a file by its first bytes; None for anything else."""
    kinds = {
        MP4: head[4:8] in (b"ftyp", b"moov", b"wide", b"mdat"),
        WEBM: head.startswith(b"\x1a\x45\xdf\xa3"),
        WINDOWS: head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
        AAC: head[:2] in (b"\xff\xf0", b"\xff\xf1", b"\xff\xf8", b"\xff\xf9"),
        AMR: head.startswith(b"#!AMR"),
    }
    return next((kind for kind, fits in kinds.items() if fits), None)


@cache
def ffmpeg_name() -> str | None:
    """Names and versions of what decodes; None without the extra."""
    try:
        import av
    except ImportError:
        return None
    return f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"


class Track:
    """The first audio track of an open file. Each use reads it from its beginning."""

    def __init__(self, handle: int, kind: Kind) -> None:
        self._handle = handle
        self.kind = kind

    def header(self) -> Header | None:
        """None without an audio track; FFmpegError where it cannot be read."""
        try:
            with self._opened() as container:
                if not container.streams.audio:
                    return None
                stream = container.streams.audio[0]
                promised = None
                if self.kind.tells_length and stream.duration and stream.time_base:
                    promised = float(stream.duration * stream.time_base)
                frame = next(_frames(container), None)
                rate = frame.sample_rate if frame else stream.rate
                channels = frame.layout.nb_channels if frame else stream.channels
                frames = None if promised is None else round(promised * rate)
                return Header(stream.codec_context.name, rate, channels, frames, len(container.streams.audio))
        except _errors() as error:
            raise FFmpegError(_words(error)) from error

    def blocks(self) -> Iterator[Samples]:
        """Its samples [N, C], BLOCK_FRAMES at a time; FFmpegError where they are damaged, or change their form."""
        held, number, form = list[Samples](), 0, None
        try:
            with self._opened() as container:
                for frame in _frames(container):
                    now = (frame.sample_rate, frame.layout.nb_channels)
                    form = form or now
                    if now != form:
                        raise FFmpegError(
                            f"it changes from {form[0]} Hz and {form[1]} channels to {now[0]} and {now[1]}"
                        )
                    held.append(_samples(frame))
                    number += len(held[-1])
                    while number >= BLOCK_FRAMES:
                        joined_NC = np.concatenate(held)
                        yield joined_NC[:BLOCK_FRAMES]
                        held, number = [joined_NC[BLOCK_FRAMES:]], number - BLOCK_FRAMES
        except _errors() as error:
            raise FFmpegError(_words(error)) from error
        if number:
            yield np.concatenate(held)

    def _opened(self) -> Any:
        import av

        av.logging.set_level(None)
        os.lseek(self._handle, 0, os.SEEK_SET)
        file = os.fdopen(os.dup(self._handle), "rb", buffering=0)
        return av.open(file, format=self.kind.demuxer, metadata_errors="replace")


def _frames(container: Any) -> Iterator[Any]:
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise FFmpegError("nothing here decodes its audio: it is in another code, encrypted or damaged")
    stream.codec_context.thread_count = 1
    for frame in container.decode(stream):
        if frame.samples:
            yield frame


def _samples(frame: Any) -> Samples:
    """Samples [N, C] in -1..1."""
    kind = frame.format.name.removesuffix("p")
    if kind not in _SCALES:
        raise FFmpegError(f"samples of the kind {frame.format.name} are not known")
    found = frame.to_ndarray()
    shaped_NC = found.T if frame.format.is_planar else found.reshape(-1, frame.layout.nb_channels)
    wide_NC = shaped_NC.astype(np.float64) - (128 if kind == "u8" else 0)
    return np.ascontiguousarray(wide_NC / _SCALES[kind], dtype=np.float32)


def _errors() -> tuple[type[Exception], ...]:
    import av

    return (av.error.FFmpegError, ValueError, OSError, EOFError, IndexError)


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)

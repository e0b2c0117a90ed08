"""The child process that decodes audio: paths in on stdin, verdict and mono samples out on stdout.

Run as a script with two arguments, the address space in MiB and the longest recording in seconds. Says hello, then
answers each request line `{"path": hex, "split": bool}` with a JSON record behind its length (`Verdict`'s fields) and, if its `reason`
is null, `decoded_frames` little-endian float32 samples: mono, offset removed, at the file's own rate. Where `split` is asked for and two
channels hold a voice each, both follow so, one after the other: `channel_mix` tells which is which.
Decoders crash and headers lie, so this process may die at any time; it imports only numpy, soundfile, and three modules that
import no more than that: `levels.py` (peaks, channels and their mix), `containers.py` (what a file's bytes say) and `ffmpeg.py` (phone
and video formats, by PyAV where it is installed and such a file comes).
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

if __name__ == "__main__":
    # For the three modules only: they must be those beside this file, and nothing else beside the package is to be found.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tinywave_core.audio.containers import (
    UNREAD_BYTES,
    UNREAD_SHARE,
    Part,
    joined_files,
    ogg_fault,
    riff_mismatch,
    size_of,
    streamed_wav,
    tag_bytes,
)
from tinywave_core.audio.ffmpeg import EXTRA, HEAD_BYTES, SLACK_FRAMES, TRACKS, FFmpegError, Track, ffmpeg_name, kind_of
from tinywave_core.audio.levels import CHANNELS, Levels, is_dialogue

if __name__ == "__main__":
    sys.path.pop(0)

# What speech is recorded with, telephone to studio: a header beyond it is damaged or forged, and would size the buffers.
MIN_RATE, MAX_RATE, MAX_CHANNELS = 4_000, 192_000, 16
# A few MB for 16 channels: large enough for numpy, small beside the child's memory limit.
BLOCK_FRAMES = 65_536
# Recordings up to this size are decoded once; longer ones twice (levels first, then samples), to bound the memory.
KEEP_BYTES = 64 << 20
# libsndfile's answer for "the header does not say".
UNKNOWN_FRAMES = 1 << 62
# Such files are taken again once the extra is installed.
NEEDS_EXTRA = "needs_extra"
# The MP3 length is an estimate from the first frame or the Xing tag: off by the decoder's delay (measured: 270).
MP3_SLACK_FRAMES = 2 * 1152
# Below one step of 16 bits nothing is left after storing; above twice full scale it is not audio in -1..1.
SILENT_RMS, LOUDEST_PEAK = 1 / 32_768, 2.0

Samples = npt.NDArray[np.float32]
File = int | Part | Track  # what soundfile opens: a descriptor, or a stretch of one; or what FFmpeg reads


@dataclass(frozen=True)
class Verdict:
    """What the file is and, if `reason` is set, why it is not taken. `detail` without a reason says what was mended."""

    reason: str | None = None
    detail: str | None = None
    container: str | None = None
    encoding: str | None = None
    sample_rate: int | None = None
    channels: int | None = None
    header_frames: int | None = None
    decoded_frames: int | None = None
    peak: float | None = None
    dc_offset: float | None = None
    clipped_share: float | None = None
    flat_share: float | None = None
    channel_mix: str | None = None
    channel_correlation: float | None = None
    channel_alternation: float | None = None
    decoder: str | None = None
    """None for libsndfile."""


def serve(path: bytes, split: bool, max_seconds: float, out: BinaryIO) -> None:
    """Answer one request. Everything that is wrong with the file is a verdict."""
    try:
        # Without O_NONBLOCK a pipe with a file's name would block here for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        return send(out, Verdict("unreadable", f"the file could not be opened: {error.strerror}"))
    try:
        answer(handle, split, max_seconds, out)
    except MemoryError:
        send(out, Verdict("decoder_crashed", "the decoder ran out of memory (runtime.decode_memory_mb)"))
    finally:
        os.close(handle)


def answer(handle: int, split: bool, max_seconds: float, out: BinaryIO) -> None:
    """Look at the file, decode it once for its levels, then send its samples."""
    refused = sniff(handle)
    if refused:
        return send(out, refused)
    kind = kind_of(os.pread(handle, HEAD_BYTES, 0))
    files: list[File] = [Track(handle, kind) if kind else streamed_wav(handle) or handle]
    found = measure(handle, files, max_seconds)
    if found.verdict.reason in ("length_mismatch", "undecodable"):
        parts = joined_files(handle)
        if len(parts) > 1:
            files, found = [*parts], measure(handle, parts, max_seconds)
    if found.verdict.reason:
        return send(out, found.verdict)
    is_two = split and is_dialogue(found.verdict.channel_alternation, found.verdict.channel_correlation)
    for recording in channels_apart(found) if is_two else [found]:
        send(out, recording.verdict)
        send_samples(out, recording, files)
    return None


def channels_apart(found: "Measured") -> list["Measured"]:
    """Each of two channels as a recording of its own."""
    return [
        replace(
            found,
            verdict=replace(found.verdict, channel_mix=name, dc_offset=in_steps(found.mean_C[channel])),
            weights_C=np.eye(2)[channel],
        )
        for channel, name in enumerate(CHANNELS)
    ]


def send_samples(out: BinaryIO, found: "Measured", files: Sequence[File]) -> None:
    """Write the samples of a recording for the parent process."""
    offset = float(np.float32(found.verdict.dc_offset or 0.0))
    remaining = found.verdict.decoded_frames or 0
    for block_NC in found.blocks if found.blocks is not None else reopened(files):
        mono_N = (block_NC[:remaining] @ found.weights_C.astype(np.float32)) - np.float32(offset)
        out.write(np.ascontiguousarray(mono_N, dtype="<f4").data)
        remaining -= len(mono_N)
    assert remaining == 0, "the second pass decoded another number of frames"
    out.flush()


def sniff(handle: int) -> Verdict | None:
    """Verdict on files that nothing here can read, known by their first bytes."""
    head = os.pread(handle, HEAD_BYTES, 0)
    if not head:
        return Verdict("empty_file", "0 bytes; expected audio")
    if (kind := kind_of(head)) and ffmpeg_name() is None:
        return Verdict(
            NEEDS_EXTRA, f"{kind.name}; {EXTRA} and run again, or convert it to WAV or FLAC", container=kind.name
        )
    if head.startswith(b"version https://git-lfs"):
        return Verdict("not_audio", "a Git LFS pointer, not the audio itself: run `git lfs pull` in the source")
    return None


def open_failed(error: soundfile.LibsndfileError) -> Verdict:
    """libsndfile's code 1 is "format not recognised"; the others are damage in a format that it knows."""
    return Verdict("not_audio" if error.code == 1 else "undecodable", f"libsndfile: {error.error_string}")


def check_header(header: Verdict, max_seconds: float) -> Verdict:
    """The header's numbers, refused where they are out of bounds: before anything is allocated or decoded."""
    rate, channels, frames = header.sample_rate or 0, header.channels or 0, header.header_frames
    if header.reason:
        return header
    if not MIN_RATE <= rate <= MAX_RATE:
        return replace(header, reason="bad_sample_rate", detail=f"{rate} Hz; expected {MIN_RATE} to {MAX_RATE}")
    if not 1 <= channels <= MAX_CHANNELS:
        return replace(header, reason="bad_channels", detail=f"{channels} channels; expected 1 to {MAX_CHANNELS}")
    if frames is not None and frames > max_seconds * rate:
        return too_long(header, frames / rate, max_seconds)
    return header


def too_long(header: Verdict, seconds: float, max_seconds: float) -> Verdict:
    """The verdict on a recording of at least `seconds`."""
    detail = f"{seconds / 3600:.2f} h or more; ingestion.max_recording_hours is {max_seconds / 3600:g}"
    return replace(header, reason="too_long", detail=detail)


@dataclass(frozen=True)
class Measured:
    """What the first pass found."""

    verdict: Verdict
    weights_C: npt.NDArray[np.float64]
    blocks: list[Samples] | None = None
    """The samples, if they are few."""
    mean_C: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


def measure(handle: int, files: Sequence[File], max_seconds: float) -> Measured:
    """Decode once. `files` are decoded one after the other: several where they were put together."""
    nothing = np.zeros(0)
    try:
        headers = [header_of(file) for file in files]
    except soundfile.LibsndfileError as error:
        return Measured(open_failed(error), nothing)
    except FFmpegError as error:
        return Measured(Verdict("undecodable", f"FFmpeg: {error}", decoder=ffmpeg_name()), nothing)
    header = check_header(joined_header(headers), max_seconds)
    if header.reason:
        return Measured(header, nothing)
    assert header.channels is not None
    assert header.sample_rate is not None
    levels = Levels(header.channels, header.sample_rate)
    few_blocks: list[Samples] | None = []
    trouble = None
    try:
        for block_NC in reopened(files):
            levels.add(block_NC)
            if levels.frames > max_seconds * header.sample_rate:
                return Measured(too_long(header, levels.frames / header.sample_rate, max_seconds), nothing)
            if not levels.finite:
                break
            if levels.frames * header.channels * 4 > KEEP_BYTES:
                few_blocks = None
            elif few_blocks is not None:
                few_blocks.append(block_NC.copy())
    except soundfile.LibsndfileError as error:
        trouble = f"libsndfile after {levels.frames} frames: {error.error_string}"
    except FFmpegError as error:
        trouble = f"FFmpeg after {levels.frames} frames: {error}"
    mix = levels.mix()
    offset = in_steps(float(mix.weights_C @ levels.mean_C))
    header = replace(
        header,
        decoded_frames=levels.frames,
        peak=levels.peak if levels.finite else None,
        dc_offset=offset,
        clipped_share=levels.clipped / max(levels.frames * header.channels, 1),
        flat_share=levels.flat_share,
        channel_mix=mix.rule,
        channel_correlation=levels.correlation,
        channel_alternation=levels.alternation,
    )
    reason, detail = fault(handle, header, levels, trouble, joined=len(files) > 1)
    return Measured(
        replace(header, reason=reason, detail=detail or header.detail), mix.weights_C, few_blocks, levels.mean_C
    )


def in_steps(offset: float) -> float:
    """An offset in steps of 16 bits, so that 16-bit files without one stay exactly as they are."""
    return round(float(offset) * 32_768) / 32_768


def header_of(file: File) -> Verdict:
    """What a file's header says."""
    if isinstance(file, Track):
        return header_of_track(file)
    with opened(file) as sound:
        return Verdict(
            container=sound.format,
            encoding=sound.subtype,
            sample_rate=int(sound.samplerate),
            channels=int(sound.channels),
            header_frames=None if sound.frames >= UNKNOWN_FRAMES else int(sound.frames),
        )


def header_of_track(track: Track) -> Verdict:
    """What the header of a phone's or video's file says."""
    found, kind, decoder = track.header(), track.kind.name, ffmpeg_name()
    if found is None:
        return Verdict("no_audio", "no audio track; expected one", container=kind, decoder=decoder)
    tracks = f"{found.tracks} {TRACKS}" if found.tracks > 1 else None
    return Verdict(
        detail=tracks,
        container=kind,
        encoding=found.encoding,
        sample_rate=found.sample_rate,
        channels=found.channels,
        header_frames=found.frames,
        decoder=decoder,
    )


def joined_header(headers: Sequence[Verdict]) -> Verdict:
    """The header of files that are decoded one after the other."""
    first, *others = headers
    if not others:
        return first
    for other in others:
        if (other.sample_rate, other.channels) != (first.sample_rate, first.channels):
            detail = (
                f"{len(headers)} {first.container} files in one, of {first.sample_rate} Hz with {first.channels} channels and {other.sample_rate} "
                f"Hz with {other.channels}; expected one form: take them apart"
            )
            return replace(first, reason="joined_files", detail=detail)
    frames = [header.header_frames for header in headers]
    total = None if None in frames else sum(frame or 0 for frame in frames)
    return replace(
        first, header_frames=total, detail=f"{len(headers)} {first.container} files in one: all of them were decoded"
    )


def fault(
    handle: int, header: Verdict, levels: Levels, trouble: str | None, *, joined: bool
) -> tuple[str | None, str | None]:
    """Reason and detail of what is wrong with the decoded samples, or (None, None)."""
    if not levels.finite:
        return "not_finite", "NaN or infinite samples; expected numbers in -1..1"
    if trouble:
        return "undecodable", trouble
    if levels.frames == 0:
        return "no_audio", "0 frames came out; expected audio behind the header"
    wrong_length = length_mismatch(handle, header, joined=joined)
    if wrong_length:
        return "length_mismatch", wrong_length
    if levels.peak > LOUDEST_PEAK:
        return ("over_full_scale", f"peak {levels.peak:.1f} of full scale; expected samples in -1..1: scale them down")
    if float(np.sqrt(np.maximum(np.diag(levels.covariance_CC), 0).max())) < SILENT_RMS:
        return "silent", "digital silence: less than one step of 16 bits"
    return None, None


def length_mismatch(handle: int, header: Verdict, *, joined: bool) -> str | None:
    """What the header promises against what came out and against the bytes that the reader left unread.

    Finds cut files (WAV: libsndfile quietly corrects the length), damaged Ogg pages and forged lengths that make the reader stop
    early in FLAC, MP3, Ogg and WAV. Not found: under 4 KiB of other bytes hidden behind a forged end, and forged AIFF, CAF, AU or W64 headers.
    """
    decoded, promised, size = header.decoded_frames or 0, header.header_frames, size_of(handle)
    if header.container == "OGG" and (missing := ogg_fault(handle)):
        return f"{decoded} frames came out; {missing}"
    slack = MP3_SLACK_FRAMES if header.container == "MP3" else SLACK_FRAMES if header.decoder else 0
    if promised is not None and abs(decoded - promised) > slack:
        return f"{decoded} frames came out; the header promises {promised}"
    if header.container in ("WAV", "WAVEX", "RF64"):
        return riff_mismatch(handle)
    # The readers of joined files leave the descriptor where they please.
    if header.container in ("FLAC", "MP3", "OGG") and not joined:
        unread = size - os.lseek(handle, 0, os.SEEK_CUR) - tag_bytes(handle)
        # A short file behind a long one is a small share, and a second of it takes less than what readers leave.
        many = unread > UNREAD_BYTES and unread > UNREAD_SHARE * size
        if many or (unread > 0 and len(joined_files(handle)) > 1):
            return (
                f"{unread} of {size} bytes lie behind the end that the header gives ({decoded} frames): where files were put "
                "together, take them apart; else encode it anew"
            )
    return None


def opened(file: int | Part) -> soundfile.SoundFile:
    """A fresh reader from the file's beginning; the descriptor stays open."""
    if isinstance(file, int):
        os.lseek(file, 0, os.SEEK_SET)
    else:
        file.seek(0)
    return soundfile.SoundFile(file, closefd=False)


def blocks(sound: soundfile.SoundFile) -> Iterator[Samples]:
    """The samples [N, C] block by block, in one buffer that is used again and again."""
    # soundfile seeks after each block to where it is already, which fails at the end of a FLAC of unknown length.
    sound.seekable = lambda: False
    buffer_NC = np.empty((BLOCK_FRAMES, sound.channels), dtype=np.float32)
    while True:
        block_NC = sound.read(out=buffer_NC)
        if len(block_NC) == 0:
            return
        yield block_NC


def reopened(files: Sequence[File]) -> Iterator[Samples]:
    """The samples of files one after the other, from fresh readers: seeking back is not exact in every format."""
    for file in files:
        if isinstance(file, Track):
            yield from file.blocks()
            continue
        with opened(file) as sound:
            yield from blocks(sound)


def send(out: BinaryIO, verdict: Verdict) -> None:
    """Write the verdict for the parent process."""
    _send(out, asdict(verdict))


def _send(out: BinaryIO, record: dict[str, Any]) -> None:
    data = json.dumps(record).encode()
    out.write(len(data).to_bytes(4, "big") + data)
    out.flush()


def decoder_name() -> str:
    """Name and version of the decoder: sample counts of Opus and MP3 depend on it."""
    return f"libsndfile {soundfile.__libsndfile_version__.removeprefix('libsndfile-')}"


def main(memory_mb: int, max_seconds: float) -> None:
    """Serve requests until stdin ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: do not outlive the parent inside a decoder
        # macOS refuses a limit below the address space that it has reserved by itself.
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # C libraries print to stdout and stderr as they please: keep the answers on a descriptor of their own.
    out = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)
    _send(out, {"decoder": decoder_name()})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        serve(bytes.fromhex(request["path"]), request["split"], max_seconds, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))

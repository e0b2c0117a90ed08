"""The child process that decodes audio: paths in on stdin, verdict and mono samples out on stdout.

Run as a script with two arguments, the address space in MiB and the longest recording in seconds. Says hello, then
answers each request line `{"path": hex}` with a JSON record behind its length (`Verdict`'s fields) and, if its `reason`
is null, `decoded_frames` little-endian float32 samples: mono, offset removed, at the file's own rate.
Decoders crash and headers lie, so this process may die at any time; it imports only numpy and soundfile.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import soundfile

# What speech is recorded with, telephone to studio: a header beyond it is damaged or forged, and would size the buffers.
MIN_RATE, MAX_RATE, MAX_CHANNELS = 4_000, 192_000, 16
# A few MB for 16 channels: large enough for numpy, small beside the child's memory limit.
BLOCK_FRAMES = 65_536
# Recordings up to this size are decoded once; longer ones twice (levels first, then samples), to bound the memory.
KEEP_BYTES = 64 << 20
# libsndfile's answer for "the header does not say".
UNKNOWN_FRAMES = 1 << 62
# Sizes that programs write into a WAV header when they stream and do not know the length yet.
UNKNOWN_RIFF_BYTES = 0x7FFF_0000
# The MP3 length is an estimate from the first frame or the Xing tag: off by the decoder's delay (measured: 270).
MP3_SLACK_FRAMES = 2 * 1152
# By the format: a header of 27 + 255 bytes and 255 segments of 255 bytes. The last page lies within so many bytes of the end.
MAX_OGG_PAGE = 65_307
# Bytes behind the last decoded frame that a reader may leave (measured on sound files: 0).
UNREAD_BYTES, UNREAD_SHARE = 4_096, 0.02
# A channel this much weaker than the strongest one is dead; a mean with it would halve the level.
DEAD_POWER = 1e-3
FULL_SCALE = 32_767 / 32_768
# Below one step of 16 bits nothing is left after storing; above twice full scale it is not audio in -1..1.
SILENT_RMS, LOUDEST_PEAK = 1 / 32_768, 2.0

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """What the file is and, if `reason` is set, why it is not taken."""

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


class Levels:
    """Running sums over the blocks of one recording: enough to choose channels without holding the samples."""

    def __init__(self, channels: int) -> None:
        self.frames = 0
        self.finite = True
        self.peak = 0.0
        self.clipped = 0
        self.sum_C = np.zeros(channels)
        self.gram_CC = np.zeros((channels, channels))

    def add(self, block_NC: Samples) -> None:
        self.frames += len(block_NC)
        magnitude_NC = np.abs(block_NC)
        peak = float(magnitude_NC.max())
        self.finite = self.finite and bool(np.isfinite(peak))
        if not self.finite:
            return
        self.peak = max(self.peak, peak)
        self.clipped += int(np.count_nonzero(magnitude_NC >= FULL_SCALE))
        self.sum_C += block_NC.sum(axis=0, dtype=np.float64)
        # float32 sums over hours lose the last bits that tell an offset from zero.
        block_64 = block_NC.astype(np.float64)
        self.gram_CC += block_64.T @ block_64

    @property
    def mean_C(self) -> npt.NDArray[np.float64]:
        return self.sum_C / max(self.frames, 1)

    @property
    def covariance_CC(self) -> npt.NDArray[np.float64]:
        return self.gram_CC / max(self.frames, 1) - np.outer(self.mean_C, self.mean_C)


def channel_weights(covariance_CC: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weights of the mono mix: the mean of the living channels, turned round where they oppose the strongest one.

    A plain mean turns anti-phase stereo into silence and halves the level beside a dead channel.
    """
    power_C = np.diag(covariance_CC)
    strongest = int(np.argmax(power_C))
    alive_C = power_C > DEAD_POWER * power_C[strongest]
    alive_C[strongest] = True
    limit_C = -0.5 * np.sqrt(np.maximum(power_C * power_C[strongest], 0))
    sign_C = np.where(covariance_CC[strongest] < limit_C, -1.0, 1.0)
    return np.where(alive_C, sign_C, 0.0) / np.count_nonzero(alive_C)


def serve(path: bytes, max_seconds: float, out: BinaryIO) -> None:
    """Answer one request. Everything that is wrong with the file is a verdict."""
    try:
        # Without O_NONBLOCK a pipe with a file's name would block here for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        return send(out, Verdict("unreadable", f"the file could not be opened: {error.strerror}"))
    try:
        answer(handle, max_seconds, out)
    except MemoryError:
        send(out, Verdict("decoder_crashed", "the decoder ran out of memory (runtime.decode_memory_mb)"))
    finally:
        os.close(handle)


def answer(handle: int, max_seconds: float, out: BinaryIO) -> None:
    """Look at the file, decode it once for its levels, then send its samples."""
    refused = sniff(handle)
    if refused:
        return send(out, refused)
    try:
        with soundfile.SoundFile(handle, closefd=False) as sound:
            verdict = check_header(sound, max_seconds)
            if verdict.reason:
                return send(out, verdict)
            verdict, weights_C, samples = measure(handle, sound, verdict, max_seconds)
    except soundfile.LibsndfileError as error:
        return send(out, open_failed(error))
    send(out, verdict)
    if verdict.reason:
        return None
    offset = float(np.float32(verdict.dc_offset or 0.0))
    remaining = verdict.decoded_frames or 0
    for block_NC in samples if samples is not None else reopened(handle):
        mono_N = (block_NC[:remaining] @ weights_C.astype(np.float32)) - np.float32(offset)
        out.write(np.ascontiguousarray(mono_N, dtype="<f4").data)
        remaining -= len(mono_N)
    assert remaining == 0, "the second pass decoded another number of frames"
    out.flush()


def sniff(handle: int) -> Verdict | None:
    """Verdict on files that libsndfile cannot read, known by their first bytes."""
    head = os.pread(handle, 64, 0)
    if not head:
        return Verdict("empty_file", "0 bytes; expected audio")
    kinds = {
        "MP4/M4A (AAC)": head[4:8] == b"ftyp",
        "WebM or Matroska": head.startswith(b"\x1a\x45\xdf\xa3"),
        "Windows Media": head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
        "AAC (ADTS)": head[:2] in (b"\xff\xf1", b"\xff\xf9"),
        "AMR": head.startswith(b"#!AMR"),
    }
    for kind, magic in kinds.items():
        if magic:
            advice = "expected WAV, FLAC, Ogg Vorbis, Ogg Opus, MP3, AIFF or another format of libsndfile: convert it"
            return Verdict("unsupported_format", f"{kind}; {advice}", container=kind)
    if head.startswith(b"version https://git-lfs"):
        return Verdict("not_audio", "a Git LFS pointer, not the audio itself: run `git lfs pull` in the source")
    return None


def open_failed(error: soundfile.LibsndfileError) -> Verdict:
    """libsndfile's code 1 is "format not recognised"; the others are damage in a format that it knows."""
    return Verdict("not_audio" if error.code == 1 else "undecodable", f"libsndfile: {error.error_string}")


def check_header(sound: soundfile.SoundFile, max_seconds: float) -> Verdict:
    """The header's numbers, refused where they are out of bounds: before anything is allocated or decoded."""
    frames = None if sound.frames >= UNKNOWN_FRAMES else int(sound.frames)
    header = Verdict(
        container=sound.format,
        encoding=sound.subtype,
        sample_rate=int(sound.samplerate),
        channels=int(sound.channels),
        header_frames=frames,
    )
    if not MIN_RATE <= sound.samplerate <= MAX_RATE:
        return replace(
            header, reason="bad_sample_rate", detail=f"{sound.samplerate} Hz; expected {MIN_RATE} to {MAX_RATE}"
        )
    if not 1 <= sound.channels <= MAX_CHANNELS:
        return replace(header, reason="bad_channels", detail=f"{sound.channels} channels; expected 1 to {MAX_CHANNELS}")
    if frames is not None and frames > max_seconds * sound.samplerate:
        return too_long(header, frames / sound.samplerate, max_seconds)
    return header


def too_long(header: Verdict, seconds: float, max_seconds: float) -> Verdict:
    """The verdict on a recording of at least `seconds`."""
    detail = f"{seconds / 3600:.2f} h or more; ingestion.max_recording_hours is {max_seconds / 3600:g}"
    return replace(header, reason="too_long", detail=detail)


def measure(
    handle: int, sound: soundfile.SoundFile, header: Verdict, max_seconds: float
) -> tuple[Verdict, npt.NDArray[np.float64], list[Samples] | None]:
    """Decode once. Returns the verdict, the channel weights, and the blocks if they are few."""
    levels = Levels(sound.channels)
    few_blocks: list[Samples] | None = []
    trouble = None
    try:
        for block_NC in blocks(sound):
            levels.add(block_NC)
            if levels.frames > max_seconds * sound.samplerate:
                return (too_long(header, levels.frames / sound.samplerate, max_seconds), np.zeros(0), None)
            if not levels.finite:
                break
            if levels.frames * sound.channels * 4 > KEEP_BYTES:
                few_blocks = None
            elif few_blocks is not None:
                few_blocks.append(block_NC.copy())
    except soundfile.LibsndfileError as error:
        trouble = error.error_string
    weights_C = channel_weights(levels.covariance_CC)
    # In steps of 16 bits, so that 16-bit files without an offset stay exactly as they are.
    offset = round(float(weights_C @ levels.mean_C) * 32_768) / 32_768
    header = replace(
        header,
        decoded_frames=levels.frames,
        peak=levels.peak if levels.finite else None,
        dc_offset=offset,
        clipped_share=levels.clipped / max(levels.frames * sound.channels, 1),
    )
    reason, detail = fault(handle, header, levels, trouble)
    return replace(header, reason=reason, detail=detail), weights_C, few_blocks


def fault(handle: int, header: Verdict, levels: Levels, trouble: str | None) -> tuple[str | None, str | None]:
    """Reason and detail of what is wrong with the decoded samples, or (None, None)."""
    if not levels.finite:
        return "not_finite", "NaN or infinite samples; expected numbers in -1..1"
    if trouble:
        return "undecodable", f"libsndfile after {levels.frames} frames: {trouble}"
    if levels.frames == 0:
        return "no_audio", "0 frames came out; expected audio behind the header"
    wrong_length = length_mismatch(handle, header)
    if wrong_length:
        return "length_mismatch", wrong_length
    if levels.peak > LOUDEST_PEAK:
        return ("over_full_scale", f"peak {levels.peak:.1f} of full scale; expected samples in -1..1: scale them down")
    if float(np.sqrt(np.maximum(np.diag(levels.covariance_CC), 0).max())) < SILENT_RMS:
        return "silent", "digital silence: less than one step of 16 bits"
    return None, None


def length_mismatch(handle: int, header: Verdict) -> str | None:
    """What the header promises against what came out and against the bytes that the reader left unread.

    Finds cut files (WAV: libsndfile quietly corrects the length) and forged lengths that make the reader stop early in
    FLAC, MP3, Ogg and WAV. Not found: under 4 KiB hidden behind a forged end, and forged AIFF, CAF, AU or W64 headers.
    """
    decoded, promised = header.decoded_frames or 0, header.header_frames
    slack = MP3_SLACK_FRAMES if header.container == "MP3" else 0
    if promised is not None and abs(decoded - promised) > slack:
        return f"{decoded} frames came out; the header promises {promised}"
    size = os.fstat(handle).st_size
    if header.container in ("WAV", "WAVEX", "RF64"):
        return riff_mismatch(handle, size)
    if header.container == "OGG" and not ogg_ends(handle, size):
        return f"{decoded} frames came out, then the stream stops without its end mark: the file is cut short"
    if header.container in ("FLAC", "MP3", "OGG"):
        unread = size - os.lseek(handle, 0, os.SEEK_CUR) - tag_bytes(handle, size)
        if unread > UNREAD_BYTES and unread > UNREAD_SHARE * size:
            return f"{unread} of {size} bytes lie behind the end that the header gives ({decoded} frames)"
    return None


def riff_mismatch(handle: int, size: int) -> str | None:
    """A WAV's data chunk against the file: too long (cut file) or followed by no chunks (forged, shorter length)."""
    little = os.pread(handle, 4, 0) in (b"RIFF", b"RF64")
    order: Literal["little", "big"] = "little" if little else "big"
    position, large = 12, 0
    while position + 8 <= size:
        name, raw = os.pread(handle, 4, position), os.pread(handle, 4, position + 4)
        length = int.from_bytes(raw, order)
        if name == b"ds64":
            large = int.from_bytes(os.pread(handle, 8, position + 16), "little")
        if name == b"data":
            length = large if length == 0xFFFF_FFFF and large else length
            if length > size - position - 8 and length < UNKNOWN_RIFF_BYTES:
                return f"{size - position - 8} bytes of samples; the header promises {length}: the file is cut short"
            return riff_tail_mismatch(handle, min(position + 8 + length + length % 2, size), size)
        position += 8 + length + length % 2
    return None


def riff_tail_mismatch(handle: int, end: int, size: int) -> str | None:
    """What is wrong with the bytes behind the end of a WAV's data, if anything is; other chunks may lie there."""
    tail = os.pread(handle, 8, end)
    is_chunk = len(tail) == 8 and all(32 <= byte < 127 for byte in tail[:4])
    unread = size - end
    if unread > UNREAD_BYTES and unread > UNREAD_SHARE * size and not is_chunk:
        return f"{unread} of {size} bytes lie behind the end that the header gives and are no RIFF chunk"
    return None


def ogg_ends(handle: int, size: int) -> bool:
    """Whether the last page of an Ogg file is whole and says that it is the last. A cut file else reads as short."""
    tail = os.pread(handle, 2 * MAX_OGG_PAGE, max(0, size - 2 * MAX_OGG_PAGE))
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return False
    segments = tail[page + 26]
    length = 27 + segments + sum(tail[page + 27 : page + 27 + segments])
    return bool(tail[page + 5] & 0x04) and len(tail) >= page + length


def tag_bytes(handle: int, size: int) -> int:
    """Bytes of ID3v1 and APEv2 tags at the end of the file."""
    id3 = 128 if size > 128 and os.pread(handle, 3, size - 128) == b"TAG" else 0
    footer = os.pread(handle, 32, max(size - id3 - 32, 0))
    if not footer.startswith(b"APETAGEX"):
        return id3
    return id3 + 32 + int.from_bytes(footer[12:16], "little")


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


def reopened(handle: int) -> Iterator[Samples]:
    """The second pass: from a fresh reader, because seeking back is not exact in every format."""
    os.lseek(handle, 0, os.SEEK_SET)
    with soundfile.SoundFile(handle, closefd=False) as sound:
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
        serve(bytes.fromhex(json.loads(line)["path"]), max_seconds, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))

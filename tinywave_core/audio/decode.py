"""Any audio file -> mono 16-bit samples at 16 kHz, or the reason why not. Decoding happens in a child process.

The child (`decoder_process`) has bounded memory and time; a child that dies or hangs costs one file, never the run.
Resampling (`resampling.py`) in float64 so that the rounding to 16 bits does not depend on the machine's instruction
set, block by block so that twelve hours need no more memory than their result.
"""

import contextlib
import json
import math
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tinywave_core.audio import decoder_process
from tinywave_core.audio.decoder_process import Verdict
from tinywave_core.audio.levels import CHANNELS
from tinywave_core.audio.resampling import FILTER_WIDTH, ROLLOFF, ratio, to_16k
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import ConfigError

# Twelve hours of samples in one piece would be gigabytes of float64; a minute is enough for the resampler to be busy.
BLOCK_S = 60
# Starting Python and numpy on a busy machine takes seconds; a child that never says hello must not hold up the run.
START_TIMEOUT_S = 60.0
_ONE_THREAD = threading.Lock()

Samples = npt.NDArray[np.int16]
Read = Callable[[int], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Recording:
    """A decoded file: what was found in it, and its samples unless `verdict.reason` is set."""

    verdict: Verdict
    samples_N: Samples | None = None  # mono, 16 kHz


class _ChildDied(Exception):
    """The decoder ended in the middle of an answer."""


class _ChildHung(Exception):
    """The decoder did not answer in time."""


class Decoder:
    """One decoding child at a time, started when needed and replaced when it dies. Use as a context manager."""

    def __init__(self, runtime: RuntimeConfig, max_recording_hours: float) -> None:
        self._runtime = runtime
        self._max_seconds = max_recording_hours * 3600
        self._child: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        # A deadline for the whole file, not for each read: a decoder that crawls would never miss the latter.
        self._left_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._log.close()

    @property
    def pid(self) -> int | None:
        """Process id of the child, if one is running."""
        return self._child.pid if self._child else None

    def decode(self, path: Path) -> Recording:
        """The recording in a local file."""
        (recording,) = self._recordings(path, split=False)
        return recording

    def decode_channels(self, path: Path) -> list[Recording]:
        """The recording in a local file, or the two where each of two channels holds a voice."""
        return self._recordings(path, split=True)

    def _recordings(self, path: Path, *, split: bool) -> list[Recording]:
        """A child that died is given one more try: it may not have been the file."""
        for last_try in (False, True):
            try:
                return self._decode(path, split=split)
            # No second try: it would cost the whole deadline once more.
            except _ChildHung:
                self._stop()
                limit = self._runtime.decode_timeout_s
                return [Recording(Verdict("decoder_timeout", f"no end after {limit:g} s (runtime.decode_timeout_s)"))]
            except _ChildDied:
                code = self._stop()
                if last_try:
                    detail = f"the decoder died twice on this file (exit code {code})"
                    return [Recording(Verdict("decoder_crashed", detail))]
        raise AssertionError("unreachable")

    def _decode(self, path: Path, *, split: bool) -> list[Recording]:
        child = self._started()
        self._left_s = self._runtime.decode_timeout_s
        # In hex: file names are bytes, and any of them, a newline too, must pass through a line of text.
        request = json.dumps({"path": os.fsencode(path).hex(), "split": split}).encode() + b"\n"
        assert child.stdin is not None
        try:
            child.stdin.write(request)
            child.stdin.flush()
        except BrokenPipeError as error:
            raise _ChildDied from error
        recordings = [self._recording()]
        if recordings[0].verdict.channel_mix == CHANNELS[0]:
            recordings.append(self._recording())
        return recordings

    def _recording(self) -> Recording:
        verdict = Verdict(**self._read_record())
        last_words = self._first_log_line()
        if verdict.reason:
            detail = f"{verdict.detail} ({last_words})" if last_words else verdict.detail
            return Recording(replace(verdict, detail=detail))
        assert verdict.sample_rate is not None
        assert verdict.decoded_frames is not None
        return Recording(verdict, resample(self._read_samples, verdict.decoded_frames, verdict.sample_rate))

    # The child ----------------------------------------------------------------------------------------------------

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._stop()
        script = str(Path(decoder_process.__file__).resolve())
        limits = [str(self._runtime.decode_memory_mb), repr(self._max_seconds)]
        self._child = subprocess.Popen(
            # A script, not a fork: a fork would inherit this process's memory, and the limit counts it. -P: no module beside the script
            # can shadow one of the standard library.
            [sys.executable, "-P", "-W", "ignore", script, *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            # One BLAS thread: its buffers count against the child's address space.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        self._left_s = START_TIMEOUT_S
        try:
            self._read_record()
        except (_ChildDied, _ChildHung) as error:
            code = self._stop()
            raise ConfigError(
                f"the process that decodes audio did not start (exit code {code}: {self._first_log_line() or 'no message'}) with "
                f"{self._runtime.decode_memory_mb} MiB: raise --runtime.decode_memory_mb (default 2048)"
            ) from error
        return self._child

    def _stop(self) -> int | None:
        child, self._child = self._child, None
        if child is None:
            return None
        died_with = child.poll()
        # Killed, not asked: it may hang in C code, and has nothing to save.
        child.kill()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe:
                    pipe.close()
        return died_with if died_with is not None else child.wait()

    def _first_log_line(self) -> str:
        """What the C libraries printed since the last file, shortened to its first line."""
        self._log.seek(0)
        log_text = self._log.read(4096).decode(errors="replace").strip()
        self._log.seek(0)
        self._log.truncate()
        return log_text.splitlines()[0][:200] if log_text else ""

    # Its answers --------------------------------------------------------------------------------------------------

    def _read_record(self) -> dict[str, Any]:
        length = int.from_bytes(self._read_exactly(4), "big")
        record: dict[str, Any] = json.loads(self._read_exactly(length))
        return record

    def _read_samples(self, count: int) -> npt.NDArray[np.float32]:
        return np.frombuffer(self._read_exactly(4 * count), dtype="<f4")

    def _read_exactly(self, count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        filled = 0
        while filled < count:
            # In pieces, so that a child that claims terabytes fails at its first missing byte.
            some = self._read_some(min(count - filled, 1 << 20))
            view[filled : filled + len(some)] = some
            filled += len(some)
        return data

    def _read_some(self, count: int) -> bytes:
        """Up to `count` bytes; only the time spent waiting for the child counts against its deadline."""
        assert self._child is not None
        assert self._child.stdout is not None
        pipe = self._child.stdout.fileno()
        started = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            if not selector.select(max(self._left_s, 0)):
                raise _ChildHung
        some = os.read(pipe, count)
        self._left_s -= time.monotonic() - started
        if not some:
            raise _ChildDied
        return some


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """torch on one thread: for a few seconds of sound a second one only waits (8 ms against 160 ms a file)."""
    import torch

    with _ONE_THREAD:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def resample(read: Read, frames: int, rate: int, block_s: int = BLOCK_S) -> Samples:
    """`frames` samples at `rate`, which `read(n)` hands out in order, as 16-bit samples at 16 kHz.

    Works on blocks with enough of their neighbours on both sides that the result is the same as in one piece.
    """
    orig, new = ratio(rate)
    if orig == new:
        return _read_as_is(read, frames, block_s * rate)
    import torch

    # As much of the neighbours as the filter reaches: then a block's result does not depend on where blocks begin.
    margin = orig * (1 + math.ceil(FILTER_WIDTH * orig / (min(orig, new) * ROLLOFF) / orig))
    block = orig * max(1, block_s * rate // orig)
    out_N = np.empty(math.ceil(frames * new / orig), dtype=np.int16)
    block_start, block_samples = 0, read(min(block + margin, frames))
    for start in range(0, frames, block):
        stop = min(start + block, frames)
        if stop == frames:
            # torchaudio rounds its output's length in float32, so it can be one short: zeros behind, as it adds itself.
            block_samples = np.concatenate([block_samples, np.zeros(orig, dtype=np.float32)])
        with _one_thread():
            wide_tensor = to_16k(torch.from_numpy(block_samples).double(), rate)
        wide = wide_tensor.numpy()
        first, last = (start // orig * new, len(out_N) if stop == frames else stop // orig * new)
        skip = (start - block_start) // orig * new
        out_N[first:last] = to_int16(wide[skip : skip + last - first])
        keep_from = max(0, stop - margin)
        fresh = read(min(stop + block + margin, frames) - min(stop + margin, frames))
        block_start, block_samples = (keep_from, np.concatenate([block_samples[keep_from - block_start :], fresh]))
    return out_N


def _read_as_is(read: Read, frames: int, block: int) -> Samples:
    out_N = np.empty(frames, dtype=np.int16)
    for start in range(0, frames, block):
        stop = min(start + block, frames)
        out_N[start:stop] = to_int16(read(stop - start))
    return out_N


def to_int16(samples_N: npt.NDArray[np.floating[Any]]) -> Samples:
    """Samples in -1..1 as 16-bit integers, clipped; the inverse of division by 32768."""
    clipped_N: Samples = np.clip(np.rint(samples_N * 32_768), -32_768, 32_767).astype(np.int16)
    return clipped_N

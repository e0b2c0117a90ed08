"""A plain file with a checksum for each block of 64 KiB: any part of it can be read alone, and none is taken unchecked.

A block is compared with its checksum the first time that it is touched. The checksums are kept elsewhere (`indices.py`).
Legend: R parts, B blocks.
"""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 16


def checksums(data: bytes | memoryview) -> npt.NDArray[np.uint32]:
    """CRC-32 of each block [B]."""
    view = memoryview(data)
    return np.array([zlib.crc32(view[at : at + _BLOCK]) for at in range(0, len(view), _BLOCK)], dtype=np.uint32)


class BlockFile:
    """Reads parts of one file."""

    def __init__(self, path: Path, checksums_B: npt.NDArray[np.uint32], broken: Callable[[], Exception]) -> None:
        """`broken` gives what is raised where the file is gone, cut or not what was written."""
        self._path, self._checksums, self._broken = path, checksums_B, broken
        self._verified = np.zeros(len(checksums_B), dtype=bool)

    def read(self, starts_R: npt.NDArray[np.int64], sizes_R: npt.NDArray[np.int64]) -> list[bytes]:
        """The bytes of some parts."""
        try:  # anew each time: thousands of such files would use up the handles that a process may have
            handle = os.open(self._path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError as error:
            raise self._broken() from error
        try:
            parts = list(zip(starts_R.tolist(), sizes_R.tolist(), strict=True))
            for start, size in parts:
                for block in range(start // _BLOCK, -(-(start + size) // _BLOCK)):
                    if not self._verified[block]:
                        self._verify(handle, block)
            found = [os.pread(handle, size, start) for start, size in parts]
        finally:
            os.close(handle)
        if any(len(data) != size for data, (_, size) in zip(found, parts, strict=True)):
            raise self._broken()
        return found

    def _verify(self, handle: int, block: int) -> None:
        if zlib.crc32(os.pread(handle, _BLOCK, block * _BLOCK)) != self._checksums[block]:
            raise self._broken()
        self._verified[block] = True

"""A plain file with a checksum for each block of 64 KiB: any part of it can be read alone, and none is taken unchecked.

A block is compared with its checksum the first time that it is touched. The checksums are kept elsewhere (`indices.py`).
Legend: R parts, B blocks.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinywave_core.errors import DamagedArtifactError
from tinywave_core.storage.ranges import LocalRanges

_BLOCK = 1 << 16


def checksums(data: bytes | memoryview) -> npt.NDArray[np.uint32]:
    """CRC-32 of each block [B]."""
    view = memoryview(data)
    return np.array([zlib.crc32(view[at : at + _BLOCK]) for at in range(0, len(view), _BLOCK)], dtype=np.uint32)


class BlockFile:
    """Reads parts of one file."""

    def __init__(
        self, path: Path, size: int, checksums_B: npt.NDArray[np.uint32], broken: Callable[[], Exception]
    ) -> None:
        """Of a file of `size` bytes; `broken` gives what is raised where it is gone, cut or not what was written."""
        self._file, self._bytes, self._checksums, self._broken = LocalRanges(path), size, checksums_B, broken
        self._verified = np.zeros(len(checksums_B), dtype=bool)

    def read(self, starts_R: npt.NDArray[np.int64], sizes_R: npt.NDArray[np.int64]) -> list[bytes]:
        """The bytes of some parts."""
        parts = list(zip(starts_R.tolist(), sizes_R.tolist(), strict=True))
        touched = {block for start, size in parts for block in range(start // _BLOCK, -(-(start + size) // _BLOCK))}
        try:
            self._verify(sorted(block for block in touched if not self._verified[block]))
            return self._file.read(parts)
        except DamagedArtifactError as error:  # gone, or cut
            raise self._broken() from error

    def _verify(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            start = block * _BLOCK
            (data,) = self._file.read([(start, min(_BLOCK, self._bytes - start))])
            if zlib.crc32(data) != self._checksums[block]:
                raise self._broken()
            self._verified[block] = True

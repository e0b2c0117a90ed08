"""The header of a GGUF file against the bytes of the file, before a library builds lists from what it claims.

The format is versions 2 and 3 of ggml's docs/gguf.md, little-endian: magic, version, how many tensors and keys; the keys with typed
values; name, sizes, type and place of each tensor; the tensors, aligned. The header is walked once and nothing of it is kept.
"""

import math
import mmap
import struct
from pathlib import Path

MOST_ITEMS = 4_000_000
"""Keys, tensors and entries of lists; a vocabulary of 256,000 with its merges has a third. The package gguf makes objects of each."""
MOST_DIMENSIONS = 4  # as in ggml
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a number by its type
_UINT32, _STRING, _ARRAY = 4, 8, 9


def fault_of_gguf(path: Path) -> str:
    """What the header claims that the file does not have; empty where all of it lies in the file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Walk(data).walk()
    except (ValueError, OSError) as error:
        return str(error)
    return ""


class _Walk:
    """A place in the file, which only goes forward; ValueError where it would leave the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0
        self._items = 0
        self._alignment = 32

    def walk(self) -> None:
        if self._take(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        if (version := self._number("I")) not in (2, 3):
            raise ValueError(f"version {version}, expected 2 or 3, little-endian")
        tensors, keys = self._number("Q"), self._number("Q")
        self._count(keys)
        for _ in range(keys):
            self._key()
        self._count(tensors)
        ends = [self._tensor() for _ in range(tensors)]
        start = -(-self._at // self._alignment) * self._alignment
        if start + max(ends, default=0) > len(self._data):
            raise ValueError(f"tensors up to byte {start + max(ends):,} of {len(self._data):,}")

    def _key(self) -> None:
        name, kind = self._string(), self._number("I")
        if name == b"general.alignment":
            self._alignment = self._number("I") if kind == _UINT32 else 0
            if self._alignment not in (1 << n for n in range(17)):
                raise ValueError(f"an alignment of {self._alignment}")
        elif kind == _STRING:
            self._string()
        elif kind == _ARRAY:
            self._array()
        else:
            self._take(_width(kind))

    def _array(self) -> None:
        kind, length = self._number("I"), self._number("Q")
        self._count(length)
        if kind == _STRING:
            for _ in range(length):
                self._string()
        else:
            self._take(_width(kind) * length)

    def _tensor(self) -> int:
        """Where it ends, from the first tensor on."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        self._string()
        dimensions = self._number("I")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions:,} dimensions")
        sizes = [self._number("Q") for _ in range(dimensions)]
        block, width = GGML_QUANT_SIZES[GGMLQuantizationType(self._number("I"))]
        if (sizes or [1])[0] % block:
            raise ValueError(f"a row of {sizes[0]:,} numbers in blocks of {block}")
        return self._number("Q") + math.prod(sizes) // block * width

    def _count(self, items: int) -> None:
        self._items += items
        if self._items > MOST_ITEMS:
            raise ValueError(f"a list of {items:,} entries, expected {MOST_ITEMS:,} in all at most")

    def _string(self) -> bytes:
        return self._take(self._number("Q"))

    def _number(self, form: str) -> int:
        return int(struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")))[0])

    def _take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise ValueError(f"a part that would end at byte {end:,} of {len(self._data):,}")
        found = self._data[self._at : end]
        self._at = end
        return found


def _width(kind: int) -> int:
    if kind not in _WIDTHS:  # lists of lists among them, which no model has
        raise ValueError(f"a value of type {kind}")
    return _WIDTHS[kind]

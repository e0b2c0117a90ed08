"""Rows of an epoch: which sequences lie in each, a function of ids, seeds and lengths.

Order comes from a hash of (seed, epoch, sequence id): new audio slips in between and disturbs nothing else. Rows are arrays, for an
epoch of 12 million sequences is kept while it lasts.
Legend: S sequences of an epoch, in the order in which rows hold them; R rows.
"""

import hashlib
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinywave_core.storage.indices import read_arrays, replaced_whole, write_arrays

_OPEN_ROWS = 32  # rows that packing keeps open at once: more fills rows better, and order stays local
_AT_ONCE = 1 << 16  # numbers that are plain Python at one time
_WORTH_KEEPING = 200_000  # sequences: of fewer an epoch is packed again in two seconds


@dataclass(frozen=True)
class Rows:
    """Packed rows."""

    members: npt.NDArray[np.int32]
    """Numbers of sequences, row after row [S]."""
    ends: npt.NDArray[np.int64]
    """Where each row ends in `members` [R]."""

    def __len__(self) -> int:
        return len(self.ends)

    def lists(self, start: int = 0, end: int | None = None) -> list[list[int]]:
        """The rows from `start` to `end`."""
        ends = self.ends[start:end].tolist()
        begins = [int(self.ends[start - 1]) if start else 0, *ends]
        return [self.members[begin:stop].tolist() for begin, stop in zip(begins, ends, strict=False)]


def order_of(ids: npt.NDArray[np.bytes_], numbers: npt.NDArray[np.int64], prefix: str) -> npt.NDArray[np.int64]:
    """`numbers` in the order of SHA-256 of `prefix` and the sequence's id in hex; `ids` has the 16 bytes of each."""
    keys = np.concatenate([np.empty(0, ">u8"), *_first_bytes(ids, numbers, prefix)])
    order = np.argsort(keys, kind="stable")
    ties = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    if (ids[numbers[order[ties]]] != ids[numbers[order[ties + 1]]]).any():  # whole hashes take four times the memory
        by_hash = dict(zip(numbers.tolist(), _hashes(ids, numbers, prefix), strict=True))
        return np.array(sorted(by_hash, key=by_hash.__getitem__), np.int64)
    return numbers[order]


def _first_bytes(
    ids: npt.NDArray[np.bytes_], numbers: npt.NDArray[np.int64], prefix: str
) -> Iterator[npt.NDArray[Any]]:
    """Of each hash the first 8 bytes, as numbers that sort as they do; in parts."""
    hashes = _hashes(ids, numbers, prefix)
    while part := b"".join(digest[:8] for digest in islice(hashes, _AT_ONCE)):
        yield np.frombuffer(part, ">u8")


def _hashes(ids: npt.NDArray[np.bytes_], numbers: npt.NDArray[np.int64], prefix: str) -> Iterator[bytes]:
    state = hashlib.sha256(prefix.encode())  # copied for each: hashing is most of the time that an epoch's order takes
    for start in range(0, len(numbers), _AT_ONCE):
        digits = ids[numbers[start : start + _AT_ONCE]].tobytes().hex().encode()
        for at in range(0, len(digits), 32):
            own = state.copy()
            own.update(digits[at : at + 32])
            yield own.digest()


def pack(order: Iterable[int], lengths: Sequence[int] | npt.NDArray[np.int32], row_length: int) -> Rows:
    """First-fit packing of sequences, taken in `order`, into rows of `row_length` tokens; nothing is cut or lost."""
    numbers = np.asarray(list(order) if not isinstance(order, np.ndarray) else order, dtype=np.int64)
    sizes = np.asarray(lengths)[numbers]
    assert not len(sizes) or sizes.max() <= row_length, f"sequence of {sizes.max()} tokens in rows of {row_length}"
    smallest = int(sizes.min()) if len(sizes) else 0
    members, ends = array("i"), array("q")
    window: deque[list[int]] = deque()  # the rows that are open
    # Of them those that the smallest sequence still fits into: their number, room and members, in order.
    free: list[tuple[int, list[int]]] = []
    room: list[int] = []
    count = 0
    for number, size in _pairs(numbers, sizes):
        at = 0
        for left in room:
            if left >= size:
                break
            at += 1
        else:
            if len(window) == _OPEN_ROWS:
                members.extend(window.popleft())
                ends.append(len(members))
            window.append([])
            free.append((count, window[-1]))
            room.append(row_length)
            count += 1
            if free[0][0] < count - _OPEN_ROWS:
                del free[0], room[0]
            at = len(room) - 1
        free[at][1].append(number)
        room[at] -= size
        if room[at] < smallest:
            del free[at], room[at]
    for row in window:
        members.extend(row)
        ends.append(len(members))
    return Rows(np.frombuffer(members, np.int32) if members else np.empty(0, np.int32), np.array(ends, np.int64))


def _pairs(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Plain numbers, a part at a time: as lists they take ten times the memory of the arrays."""
    for start in range(0, len(one), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        yield from zip(one[part].tolist(), other[part].tolist(), strict=True)


def kept_rows(folder: Path | None, key: str, size: int, make: Callable[[], Rows]) -> Rows:
    """The rows that were kept in `folder` under `key`; those of many sequences are kept, so that a training that goes on need not
    pack them again."""
    if folder is None or size < _WORTH_KEEPING:
        return make()
    path = folder / f"rows-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    if (found := read_arrays(path)) is not None:
        return Rows(found["members"], found["ends"])
    rows = make()
    folder.mkdir(parents=True, exist_ok=True)
    replaced_whole(path, lambda partial: write_arrays(partial, {"members": rows.members, "ends": rows.ends}))
    return rows

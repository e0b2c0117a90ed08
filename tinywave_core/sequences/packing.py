"""Rows of an epoch: which sequences lie in each, a function of ids, seeds and lengths.

Order comes from a hash of (seed, epoch, sequence id): new audio slips in between and disturbs nothing else. Rows are arrays, for an
epoch of 12 million sequences is kept while it lasts.
Legend: S sequences of an epoch, in the order in which rows hold them; R rows.
"""

import hashlib
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinywave_core.storage.indices import read_arrays, write_arrays

_OPEN_ROWS = 32  # rows that packing keeps open at once: more fills rows better, and order stays local
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


def order_of(ids: str, numbers: npt.NDArray[np.int64], prefix: str) -> npt.NDArray[np.int64]:
    """`numbers` in the order of SHA-256 of `prefix` and the sequence's id; `ids` has 32 hex digits of each sequence."""
    # The state after the prefix is copied: hashing is most of the time that an epoch's order takes.
    state, digits = hashlib.sha256(prefix.encode()), ids.encode()
    keys = bytearray()
    for number in numbers.tolist():
        own = state.copy()
        own.update(digits[32 * number : 32 * number + 32])
        keys += own.digest()
    # Zeros at the end of a key are all that NumPy's order of bytes does not see, and equal keys would be equal all the same.
    return numbers[np.argsort(np.frombuffer(bytes(keys), "S32"), kind="stable")]


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
    for number, size in zip(numbers.tolist(), sizes.tolist(), strict=True):
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
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    write_arrays(partial, {"members": rows.members, "ends": rows.ends})
    os.replace(partial, path)
    return rows

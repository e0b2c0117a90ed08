"""Windows over a sequence that arrives item by item: steps with context, the basis of streaming.

Where a window lies depends on the place in the sequence alone, never on how the items arrived. So whatever is computed
window by window is the same for a stream and for the whole.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
_Samples = npt.NDArray[np.float32]
_END = object()


def windows(items: Iterable[T], before: int, after: int, step: int) -> Iterator[tuple[list[T], int, int]]:
    """(items of a window, start, stop): `step` items from start to stop, with up to `before` and `after` others around them.

    A window comes as soon as its last item is there. Only at the two ends is there less around it, and the last step may
    be shorter.
    """
    buffer: list[T] = []
    done = 0
    for item in chain(items, [_END]):
        if item is not _END:
            buffer.append(item)  # type: ignore[arg-type]
        while len(buffer) - done >= (1 if item is _END else step + after):
            stop = min(done + step, len(buffer))
            yield buffer[: stop + after], done, stop
            dropped = max(stop - before, 0)
            buffer, done = buffer[dropped:], stop - dropped


def in_chunks(pieces: Iterable[_Samples], samples: int) -> Iterator[_Samples]:
    """Audio in chunks of so many samples, the last one shorter; a chunk comes as soon as it is full."""
    pending = np.zeros(0, np.float32)
    for piece in pieces:
        pending = np.concatenate([pending, piece])
        while len(pending) >= samples:
            yield pending[:samples]
            pending = pending[samples:]
    if len(pending):
        yield pending


def joined(chunks: Iterable[_Samples]) -> _Samples:
    """The whole of a stream; empty where nothing came."""
    return np.concatenate([np.zeros(0, np.float32), *chunks])

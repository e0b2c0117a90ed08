"""A long recording into utterances: speech regions in, (start, end) in samples out. Pure integer arithmetic.

Regions with short pauses between them form a group; a group that is longer than an utterance may be is cut, at a long
pause if it has one, else where speech is least likely. Groups lie apart, pieces of a group touch: no sample of a group
is lost or comes twice. A group shorter than the shortest utterance is dropped.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tinywave_core.audio.vad import WINDOW, Region
from tinywave_core.storage.schemas import SAMPLE_RATE

# Pauses up to this stay inside an utterance (they are part of how people speak); longer ones are left out.
MAX_PAUSE_SAMPLES = SAMPLE_RATE
# Silence kept before and after the speech of a group.
PAD_SAMPLES = SAMPLE_RATE // 10


def utterance_bounds(
    regions: Sequence[Region], probabilities_W: npt.NDArray[np.float32], total: int, *, shortest: int, longest: int
) -> list[Region]:
    """Utterances as (start, end) in samples, in order, each `shortest` to `longest` samples long.

    A recording of at most `longest` samples stays whole. `longest` must be at least twice `shortest`.
    """
    assert longest >= 2 * shortest
    if total <= longest:
        return [(0, total)] if total >= shortest else []
    bounds: list[Region] = []
    for group in _groups(regions):
        start = max(0, group[0][0] - PAD_SAMPLES)
        end = min(total, group[-1][1] + PAD_SAMPLES)
        if end - start >= shortest:
            bounds += _pieces(start, end, group, probabilities_W, shortest, longest)
    return bounds


def _groups(regions: Sequence[Region]) -> list[list[Region]]:
    groups: list[list[Region]] = []
    for region in regions:
        if groups and region[0] - groups[-1][-1][1] <= MAX_PAUSE_SAMPLES:
            groups[-1].append(region)
        else:
            groups.append([region])
    return groups


def _pieces(
    start: int, end: int, group: Sequence[Region], probabilities_W: npt.NDArray[np.float32], shortest: int, longest: int
) -> list[Region]:
    pauses = [(left[1], right[0]) for left, right in itertools.pairwise(group)]
    pieces = []
    while end - start > longest:
        earliest, latest = start + shortest, min(start + longest, end - shortest)
        cut = _cut(pauses, probabilities_W, earliest, latest)
        pieces.append((start, cut))
        start = cut
    return [*pieces, (start, end)]


def _cut(pauses: Sequence[Region], probabilities_W: npt.NDArray[np.float32], earliest: int, latest: int) -> int:
    """Where to cut between two bounds: the longest pause of the later half, else the last pause, else the quietest."""
    middle = (earliest + latest) // 2
    inside = [
        ((left + right) // 2, right - left) for left, right in pauses if earliest <= (left + right) // 2 <= latest
    ]
    # Of the later half: cutting at the first good pause would leave a row of short pieces.
    late = [pause for pause in inside if pause[0] >= middle]
    if late:
        return max(late, key=lambda pause: (pause[1], pause[0]))[0]
    if inside:
        return inside[-1][0]
    first, last = -(-middle // WINDOW), latest // WINDOW
    window_P = probabilities_W[first : last + 1]
    if not len(window_P):
        return latest
    return min((first + int(np.argmin(window_P))) * WINDOW, latest)

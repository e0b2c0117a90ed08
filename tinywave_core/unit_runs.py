"""Runs of N units of an utterance as hashes of 32 bits: speech is known again by them, whatever its file is called.

Units of an utterance in; hashes out, and the share of them that other speech has. Repeats of a unit are merged first, so that the
pace has less say. Used against the base (base/leaks.py) and within a corpus (tokenizers/near_duplicates.py).
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

N = 7
LEAST = 12
"""Runs that an utterance needs for its share to tell anything."""
STARTS_SAMPLES = (0, 160, 320, 480)
"""What is left out at the beginning of speech that others are compared with, at 16 kHz: a unit is 40 ms, and a copy begins anywhere."""
# Two odd constants of SplitMix64: neighbouring units must not give neighbouring hashes.
_MULTIPLY, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)

Hashes = npt.NDArray[np.uint32]


def runs_of(units_T: npt.ArrayLike) -> Hashes:
    """Hashes [max(0, D - N + 1)] of the runs of N in an utterance's units, of which D are left when repeats are merged."""
    units = np.asarray(units_T, np.uint64)
    kept = units[np.concatenate([[True], units[1:] != units[:-1]])] if len(units) else units
    if len(kept) < N:
        return np.zeros(0, np.uint32)
    hashes = np.zeros(len(kept) - N + 1, np.uint64)
    for column in np.lib.stride_tricks.sliding_window_view(kept, N).T:
        hashes = (hashes ^ (column + np.uint64(1))) * _MULTIPLY  # modulo 2^64, which is meant
        hashes = (hashes ^ (hashes >> np.uint64(29))) * _MIX
    return (hashes >> np.uint64(32)).astype(np.uint32)


def all_runs(utterances: Iterable[npt.ArrayLike]) -> Hashes:
    """The different hashes of many utterances, sorted."""
    found = [runs_of(units) for units in utterances]
    return np.unique(np.concatenate([np.zeros(0, np.uint32), *found]))


def share_of(runs: Hashes, known: Hashes) -> float:
    """Share of an utterance's runs that are among `known`, which is sorted; 0 where it has too few to tell."""
    if len(runs) < LEAST or not len(known):
        return 0.0
    # Sorted once, where `np.isin` would sort them for each utterance.
    places = np.searchsorted(known, runs).clip(max=len(known) - 1)
    return float((known[places] == runs).mean())

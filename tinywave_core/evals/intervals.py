"""Intervals: a figure without one is not a result."""

import math

import numpy as np
import numpy.typing as npt


def wilson_interval(successes: float, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): never outside [0, 1], sensible at 0 and 1."""
    share = successes / trials
    scale = 1 + z**2 / trials
    centre = (share + z**2 / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    numerators: npt.ArrayLike, denominators: npt.ArrayLike, seed: int, draws: int = 2000
) -> tuple[float, float]:
    """95 % interval of sum(numerators) / sum(denominators) over resampled items (utterances, say): percentiles."""
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(top), size=(draws, len(top)))
    ratios = top[picks].sum(axis=1) / bottom[picks].sum(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)

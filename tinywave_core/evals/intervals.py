"""Intervals: a figure without one is not a result."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_PICKS = 4_000_000  # picked items that are in memory at once


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
    random = np.random.default_rng(seed)
    ratios: list[float] = []
    while len(ratios) < draws:  # some at a time: all picks among 100,000 utterances would be 1.6 GB
        some = min(draws - len(ratios), max(1, _PICKS // len(top)))
        picks = random.integers(0, len(top), size=(some, len(top)))
        ratios += (top[picks].sum(axis=1) / bottom[picks].sum(axis=1)).tolist()
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def plug_in_interval(
    statistic: Callable[[npt.NDArray[np.float64]], float], items: int, seed: int, draws: int = 400
) -> tuple[float, float]:
    """95 % interval of a figure of counts (an entropy, a purity) over resampled items; `statistic` takes a weight for each item.

    Such figures grow where there is less to count, and a resample, which repeats items, has less: its figures all lie too high,
    the estimate even outside of their percentiles. So their mean is moved to the estimate.
    """
    random = np.random.default_rng(seed)
    picks = (np.bincount(random.integers(0, items, items), minlength=items) for _ in range(draws))
    found = np.array([statistic(weights.astype(np.float64)) for weights in picks])
    low, high = np.percentile(found - found.mean() + statistic(np.ones(items)), [2.5, 97.5])
    return float(low), float(high)


def paired_ratio_interval(
    first: npt.ArrayLike, second: npt.ArrayLike, seed: int, draws: int = 2000
) -> tuple[float, float] | None:
    """95 % interval of mean(first) / mean(second) on the same items; None where the second is not surely above 0."""
    ratios = _ratios(first, second, 0.0, seed, draws)
    return None if ratios is None else _quantiles(ratios)


@dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same items, by the items on which only one is right."""

    first_only: int
    second_only: int
    p: float
    """Two-sided and exact: how often a fair coin falls at least as unevenly."""


def mcnemar(first: npt.ArrayLike, second: npt.ArrayLike) -> McNemar:
    """McNemar's exact test (1947) of credits of the same items; items with equal credits say nothing.

    An item that is a tie (credit 0.5) for one of them counts for the one with more, as in a sign test.
    """
    gaps = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    more, less = int((gaps > 0).sum()), int((gaps < 0).sum())
    n = more + less
    tail = sum(math.comb(n, k) for k in range(min(more, less) + 1))
    return McNemar(more, less, float(min(1.0, 2 * tail / 2**n)))


@dataclass(frozen=True)
class Retention:
    """What a student keeps of its teacher's accuracy on the same items, plainly and above chance."""

    ratio: float | None
    """Student over teacher: 50 of 60 percent is 0.83, although by chance alone it would be that."""
    ratio_interval: tuple[float, float] | None
    above_chance: float | None
    """(Student - chance) over (teacher - chance); None where the teacher is not surely above chance."""
    above_chance_interval: tuple[float, float] | None
    why: str
    """Why there is no above-chance retention; empty where there is."""


def retention(student: npt.ArrayLike, teacher: npt.ArrayLike, chance: float, seed: int, draws: int = 2000) -> Retention:
    """Retention from credits of the same items, with paired bootstrap intervals (95 %)."""
    own, of_teacher = (np.asarray(x, dtype=np.float64) for x in (student, teacher))
    s, t = float(own.mean()), float(of_teacher.mean())
    ratio = s / t if t > 0 else None
    ratios = _ratios(own, of_teacher, chance, seed, draws)
    # Resampling a handful of right answers gives nothing but right answers, so that alone does not show much.
    if ratios is None or wilson_interval(float(of_teacher.sum()), len(of_teacher))[0] <= chance:
        known = "is not above" if t <= chance else "cannot be told from"
        why = f"the teacher's {t:.1%} over {len(own)} items {known} chance ({chance:.0%})"
        return Retention(ratio, paired_ratio_interval(own, of_teacher, seed, draws), None, None, why)
    above = (s - chance) / (t - chance)
    return Retention(ratio, paired_ratio_interval(own, of_teacher, seed, draws), above, _quantiles(ratios), "")


def _ratios(
    first: npt.ArrayLike, second: npt.ArrayLike, chance: float, seed: int, draws: int
) -> npt.NDArray[np.float64] | None:
    """(mean(first) - chance) / (mean(second) - chance) of every draw; None unless the second's 95 % interval is above chance."""
    top, bottom = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(top), size=(draws, len(top)))
    above_D, base_D = top[picks].mean(axis=1) - chance, bottom[picks].mean(axis=1) - chance
    if bottom.mean() <= chance or _quantiles(base_D)[0] <= 1e-12:
        return None
    # The few draws without a ratio (fewer than 2.5 %) stand at the far end, so that they can only widen the interval.
    positive_D = base_D > 1e-12
    return np.where(positive_D, above_D / np.where(positive_D, base_D, 1.0), math.inf)


def _quantiles(draws: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)

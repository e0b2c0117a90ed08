"""Likelihood of held-out speech in units that compare: per token, per second of audio by stream, and against the teacher.

Everything is a ratio of sums over sequences, so intervals resample sequences, and those of two models resample them together.
The continuation figures count the tokens after a prompt only (Libri-Light-style prompts of 3 s): what a listener would wait for.

Legend: N sequences, L tokens of one of them, of which L - 1 are predicted.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinywave_core.evals.figures import Interval, NllRatio, PerSecond, PerToken, Ratio
from tinywave_core.evals.intervals import bootstrap_interval

Floats = npt.NDArray[np.float64]
LARGEST_EXPONENT = 709.0  # exp(709) is 8e307; float64 ends at 1.8e308


def sums(values: Sequence[npt.NDArray[Any]], chosen: Sequence[npt.NDArray[np.bool_]]) -> Floats:
    """For every sequence the sum of the chosen values [L - 1]: [N]."""
    return np.array([v[c].sum(dtype=np.float64) for v, c in zip(values, chosen, strict=True)], dtype=np.float64)


def after_prompt(prompt_tokens: int, length: int, *, ended: bool) -> npt.NDArray[np.bool_]:
    """Which predicted tokens [L - 1] come after a prompt of so many tokens (<s> included); </s> never counts, if it is there."""
    positions = np.arange(1, length)
    return (positions >= prompt_tokens) & (positions < length - ended)


def per_token(nll_N: Floats, tokens_N: Floats, seed: int) -> PerToken:
    """NLL in nats per token with its interval, and perplexity with its."""
    nll = float(nll_N.sum() / tokens_N.sum())
    interval = bootstrap_interval(nll_N, tokens_N, seed)
    perplexity, perplexity_interval = exponentials(nll, interval)
    return PerToken(nll=nll, nll_interval=interval, perplexity=perplexity, perplexity_interval=perplexity_interval)


def exponentials(logarithm: float, interval: Interval) -> tuple[float | None, Interval | None]:
    """exp of a figure and of its 95 % interval; None for both where a float64 cannot hold one of them.

    A diverged model can have an NLL above 709 nats per token. It has no perplexity then, and tables say "too large".
    """
    value, low, high = (exponential(x) for x in (logarithm, *interval))
    if value is None or low is None or high is None:
        return None, None
    return value, (low, high)


def exponential(logarithm: float) -> float | None:
    """exp of a figure; None where a float64 cannot hold it."""
    return math.exp(logarithm) if logarithm <= LARGEST_EXPONENT else None


def per_second(nll_N: Floats, seconds_N: Floats, seed: int) -> PerSecond:
    """Bits per second of audio with its interval."""
    bits_N = nll_N / math.log(2)
    return PerSecond(
        bits_per_second=float(bits_N.sum() / seconds_N.sum()),
        bits_per_second_interval=bootstrap_interval(bits_N, seconds_N, seed),
    )


def against_teacher(own_N: Floats, teacher_N: Floats, tokens_N: Floats, seed: int) -> Ratio:
    """A model's NLL and perplexity over the teacher's on the same tokens; 1 is as good, above is worse.

    The ratio of bits per second is that of the NLL: both models are asked for the same tokens of the same seconds.
    """
    gap = float((own_N - teacher_N).sum() / tokens_N.sum())
    perplexity, perplexity_interval = exponentials(gap, bootstrap_interval(own_N - teacher_N, tokens_N, seed))
    nll = nll_ratio(own_N, teacher_N, seed)
    return Ratio(**dict(nll), perplexity=perplexity, perplexity_interval=perplexity_interval)


def nll_ratio(own_N: Floats, teacher_N: Floats, seed: int) -> NllRatio:
    """Ratio of two sums with its paired interval; None where the teacher's can be 0."""
    # A sequence of which nothing counts (no token of this stream) says nothing, and its 0 is no teacher's certainty.
    counts_N = (own_N != 0) | (teacher_N != 0)
    own, teacher = own_N[counts_N], teacher_N[counts_N]
    if not len(own) or not (teacher > 0).all():
        return NllRatio(nll=None, nll_interval=None)
    return NllRatio(nll=float(own.sum() / teacher.sum()), nll_interval=bootstrap_interval(own, teacher, seed))

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

from tinywave_core.evals.intervals import bootstrap_interval

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]
LARGEST_EXPONENT = 709.0  # exp(709) is 8e307; float64 ends at 1.8e308


def sums(values: Sequence[npt.NDArray[Any]], chosen: Sequence[npt.NDArray[np.bool_]]) -> Floats:
    """For every sequence the sum of the chosen values [L - 1]: [N]."""
    return np.array([v[c].sum(dtype=np.float64) for v, c in zip(values, chosen, strict=True)], dtype=np.float64)


def after_prompt(prompt_tokens: int, length: int, *, ended: bool) -> npt.NDArray[np.bool_]:
    """Which predicted tokens [L - 1] come after a prompt of so many tokens (<s> included); </s> never counts, if it is there."""
    positions = np.arange(1, length)
    return (positions >= prompt_tokens) & (positions < length - ended)


def per_token(nll_N: Floats, tokens_N: Floats, seed: int) -> dict[str, Any]:
    """NLL in nats per token with its interval, and perplexity with its."""
    nll = float(nll_N.sum() / tokens_N.sum())
    interval = bootstrap_interval(nll_N, tokens_N, seed)
    return {"nll": nll, "nll_interval": interval, **exponentials("perplexity", nll, interval)}


def exponentials(name: str, logarithm: float, interval: Interval) -> dict[str, Any]:
    """exp of a figure and of its 95 % interval, under a name; None for both where a float64 cannot hold one of them.

    A diverged model can have an NLL above 709 nats per token. It has no perplexity then, and tables say "too large".
    """
    value, low, high = (exponential(each) for each in (logarithm, *interval))
    if value is None or high is None:
        return {name: None, f"{name}_interval": None}
    return {name: value, f"{name}_interval": (low, high)}


def exponential(logarithm: float) -> float | None:
    """exp of a figure; None where a float64 cannot hold it."""
    return math.exp(logarithm) if logarithm <= LARGEST_EXPONENT else None


def per_second(nll_N: Floats, seconds_N: Floats, seed: int) -> dict[str, Any]:
    """Bits per second of audio with its interval."""
    bits_N = nll_N / math.log(2)
    return {
        "bits_per_second": float(bits_N.sum() / seconds_N.sum()),
        "bits_per_second_interval": bootstrap_interval(bits_N, seconds_N, seed),
    }


def against_teacher(own_N: Floats, teacher_N: Floats, tokens_N: Floats, seed: int) -> dict[str, Any]:
    """A model's NLL and perplexity over the teacher's on the same tokens; 1 is as good, above is worse.

    The ratio of bits per second is that of the NLL: both models are asked for the same tokens of the same seconds.
    """
    gap = float((own_N - teacher_N).sum() / tokens_N.sum())
    interval = bootstrap_interval(own_N - teacher_N, tokens_N, seed)
    return {**ratio(own_N, teacher_N, seed, "nll"), **exponentials("perplexity", gap, interval)}


def ratio(own_N: Floats, teacher_N: Floats, seed: int, name: str) -> dict[str, Any]:
    """Ratio of two sums with its paired interval, under a name; None where the teacher's can be 0. Sequences of which nothing
    counts say nothing."""
    counts_N = (own_N != 0) | (teacher_N != 0)
    own, teacher = own_N[counts_N], teacher_N[counts_N]
    if not len(own) or not (teacher > 0).all():
        return {name: None, f"{name}_interval": None}
    return {name: float(own.sum() / teacher.sum()), f"{name}_interval": bootstrap_interval(own, teacher, seed)}

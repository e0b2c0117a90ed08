"""Scores of probes: accuracy of each model, what of it is beyond chance, and whether models differ on the same pairs.

A version's score is its mean log-probability per token: over all of it, as SALMon has it, and from the splice on. The pair
is right when the positive has the higher one; a tie counts half. Chance is 0.5.

Legend: I pairs, L tokens of one sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinywave_core.evals.figures import OverallAccuracy, ProbeAccuracy, ProbeFigures
from tinywave_core.evals.intervals import bootstrap_interval, mcnemar, retention, wilson_interval

CHANCE = 0.5
Credits = npt.NDArray[np.float64]  # [I]


@dataclass(frozen=True)
class Version:
    """Tokens of one recording of a pair."""

    ids: npt.NDArray[np.uint16]  # [L]
    splice: int
    """The first token of the second part."""


def means(version: Version, log_p: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Mean log-probability over all tokens and from the splice on, from those of tokens 1 … L - 1."""
    start = min(max(version.splice - 1, 0), len(log_p) - 1)
    return float(log_p.mean(dtype=np.float64)), float(log_p[start:].mean(dtype=np.float64))


def credits(positive: npt.ArrayLike, negative: npt.ArrayLike) -> Credits:
    """1 right, 0 wrong, 0.5 tie for every pair, from the scores of both versions."""
    gaps = np.asarray(positive, dtype=np.float64) - np.asarray(negative, dtype=np.float64)
    return np.asarray((np.sign(gaps) + 1) / 2)


def probe_figures(whole: Mapping[str, Credits], continuation: Mapping[str, Credits], seed: int) -> ProbeFigures:
    """What one probe says of teacher, student and control: their credits of the same pairs, by model."""
    student = whole["student"]
    return ProbeFigures(
        items=len(student),
        models={name: _accuracy(whole[name], continuation[name]) for name in whole},
        mcnemar={name: mcnemar(student, whole[name]) for name in ("control", "teacher")},
        retention=retention(student, whole["teacher"], CHANCE, seed),
    )


def overall(credits: Mapping[str, Credits], groups: Sequence[str], seed: int) -> dict[str, OverallAccuracy]:
    """All probes together; intervals over utterances, for the pairs made of one are not independent."""
    _, at = np.unique(list(groups), return_inverse=True)
    counts = np.bincount(at)
    return {
        name: OverallAccuracy(
            accuracy=float(of_model.mean()),
            interval=bootstrap_interval(np.bincount(at, weights=of_model), counts, seed),
        )
        for name, of_model in credits.items()
    }


def _accuracy(whole: Credits, continuation: Credits) -> ProbeAccuracy:
    return ProbeAccuracy(
        accuracy=float(whole.mean()),
        interval=wilson_interval(float(whole.sum()), len(whole)),
        continuation_accuracy=float(continuation.mean()),
        continuation_interval=wilson_interval(float(continuation.sum()), len(continuation)),
    )

"""Continuations of one prompt with a judge's scores -> pairs of a better and a worse one, or why there is none.

All continuations are equally long. The better one of a pair may not repeat itself more than the worse, beyond what is allowed: judges that
are language models like repetition, and a student that learns from them would too (Align-SLM, arXiv 2411.01834, filters by auto-BLEU).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy.typing as npt

from tinywave_core.evals.generated import auto_bleu

FEW = "fewer than two continuations with a score"
ALIKE = "the judge sees no difference"
REPEATS = "the better one repeats itself more"


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one continuation: a score, the higher the better, or why there is none."""

    score: float | None
    failure: str = ""


@dataclass(frozen=True)
class Choice:
    """A pair, by the numbers of its continuations."""

    better: int
    worse: int
    gap: float
    """Difference of their scores."""


def repetition(ids: npt.ArrayLike) -> float:
    """Auto-BLEU of tokens: the share of pairs of neighbours that occur again; 0 for fewer than two tokens."""
    return auto_bleu(" ".join(map(str, ids))) or 0.0  # type: ignore[arg-type]


def choose(
    verdicts: Sequence[Verdict],
    repetitions: Sequence[float],
    *,
    least_gap: float,
    more_repetition: float,
    most: int,
) -> tuple[list[Choice], str]:
    """The pairs with the largest gaps, `most` at most and each continuation in one only; and why there is none."""
    scores = {number: verdict.score for number, verdict in enumerate(verdicts) if verdict.score is not None}
    if len(scores) < 2:
        return [], FEW
    apart = [Choice(a, b, scores[a] - scores[b]) for a, b in permutations(scores, 2) if scores[a] > scores[b]]
    apart = [choice for choice in apart if choice.gap >= least_gap]
    if not apart:
        return [], ALIKE
    fair = [c for c in apart if repetitions[c.better] <= repetitions[c.worse] + more_repetition]
    chosen: list[Choice] = []
    for choice in sorted(fair, key=lambda c: (-c.gap, c.better, c.worse)):
        taken = {number for c in chosen for number in (c.better, c.worse)}
        if len(chosen) < most and not taken & {choice.better, choice.worse}:
            chosen.append(choice)
    return chosen, "" if chosen else REPEATS

"""Held-out speech under guessing and tables of counts, beside the models: what any model has to be better than.

The counts are of the tokens that the student was trained on. Which of their orders is the floor is decided by the held-out speech
itself, in favour of the floor: a model has to beat the best of them.
"""

from collections.abc import Sequence

import numpy as np

from tinywave_core.evals.comparison import Scores, TokenNll, paired_difference
from tinywave_core.evals.figures import FEW_RECORDINGS, MODELS, AboveFloor, Floors
from tinywave_core.evals.ngrams import ORDERS, Ngrams, counted
from tinywave_core.evals.perplexity import Floats
from tinywave_core.sequences.table import SequenceTable, TokenSequence

GUESSING = "guessing"
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306)  # 97.5 % of Student's t with 1 to 8 degrees of freedom
_UNKNOWN = 100.0  # nats per token, more than any model can be apart: one recording tells nothing of others
COUNTS = tuple(f"counts of {order}" for order in range(1, ORDERS + 1))


def floor_scores(train: Sequence[TokenSequence], held_out: Sequence[TokenSequence], tokens: int) -> dict[str, Scores]:
    """Log-probabilities of held-out speech by every floor, as those of models; `tokens`: ids of the vocabulary."""
    ngrams = Ngrams.count((s.ids for s in counted(train)), tokens)
    by_order = [ngrams.by_order(s.ids) for s in held_out]
    return {name: [of_one[order] for of_one in by_order] for order, name in enumerate((GUESSING, *COUNTS))}


def lowest_nll(train: Sequence[TokenSequence], held_out: Sequence[TokenSequence], tokens: int) -> float:
    """Nats per token of the best of the tables of counts."""
    scores = floor_scores(train, held_out, tokens)
    return min(-float(np.concatenate(scores[name]).mean()) for name in COUNTS)


def compare_with_floors(nll: TokenNll, train: Sequence[TokenSequence]) -> Floors:
    """The floors' figures, and the models' differences from guessing and from the best of the counts."""
    counts = [nll.likelihood(name) for name in COUNTS]
    order = 1 + int(np.argmin([of_order.nll for of_order in counts]))
    table = SequenceTable.of(train)
    return Floors(
        guessing=nll.likelihood(GUESSING),
        counts=counts,
        order=order,
        above_guessing={model: _above(nll, model, GUESSING) for model in MODELS},
        above_counts={model: _above(nll, model, COUNTS[order - 1]) for model in MODELS},
        recordings=len({s.recording_id for s in nll.sequences}),
        counted_tokens=int(counted(table).lengths.sum()),
        training_tokens=int(table.lengths[table.variants <= 0].sum()),
    )


def _above(nll: TokenNll, model: str, floor: str) -> AboveFloor:
    gaps, tokens = nll.sums(model, nll.all) - nll.sums(floor, nll.all), nll.count(nll.all)
    difference, interval = paired_difference(gaps, tokens, nll.seed)
    if len(gaps) < FEW_RECORDINGS:
        interval = _of_few(gaps, tokens, difference)
    return AboveFloor(nll=difference, interval=interval)


def _of_few(gaps_R: Floats, tokens_R: Floats, difference: float) -> tuple[float, float]:
    """Student's t over recordings: of few, those that are drawn anew are too much alike, and of one they are all the same."""
    recordings = len(gaps_R)
    if recordings < 2:
        return difference - _UNKNOWN, difference + _UNKNOWN
    residuals = ((gaps_R - difference * tokens_R) ** 2).sum()
    half = _T[recordings - 2] * np.sqrt(residuals / (recordings - 1) * recordings) / tokens_R.sum()
    return difference - half, difference + half

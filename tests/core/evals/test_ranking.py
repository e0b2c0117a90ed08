"""Which continuations of a prompt make a pair, and why some make none."""

import pytest

from tinywave_core.evals.ranking import ALIKE, FEW, REPEATS, Choice, Verdict, choose, repetition


def pairs(scores: list[float | None], repetitions: list[float] | None = None, gap: float = 0.1, **settings):
    verdicts = [Verdict(score, "" if score is not None else "no words") for score in scores]
    asked = {"least_gap": gap, "more_repetition": 0.0, "most": 1} | settings
    return choose(verdicts, repetitions or [0.0] * len(scores), **asked)


def test_the_pair_is_that_with_the_largest_gap():
    assert pairs([-3.0, -1.0, -2.0, -4.5]) == ([Choice(1, 3, 3.5)], "")


def test_more_pairs_of_a_prompt_share_no_continuation():
    found, why = pairs([4.0, 3.0, 1.0, 0.0, 0.0], most=3)
    assert [(c.better, c.worse) for c in found] == [(0, 3), (1, 4)] and not why


def test_the_better_one_may_not_repeat_itself_more():
    # The likeliest one repeats itself most: the next pair by gap is taken.
    scores, repeats = [-1.0, -2.0, -4.0], [0.5, 0.1, 0.2]
    assert pairs(scores, repeats)[0] == [Choice(1, 2, 2.0)]
    assert pairs(scores, repeats, more_repetition=0.3)[0] == [Choice(0, 2, 3.0)]
    assert pairs([-1.0, -2.0], [0.5, 0.1]) == ([], REPEATS)


@pytest.mark.parametrize(
    ("scores", "why"), [([1.0, None], FEW), ([None, None], FEW), ([1.0, 1.05], ALIKE), ([1.0, 1.0], ALIKE)]
)
def test_what_makes_no_pair_has_a_reason(scores: list[float | None], why: str):
    assert pairs(scores) == ([], why)


def test_a_tie_makes_no_pair_even_without_a_smallest_gap():
    assert pairs([1.0, 1.0], gap=0.0) == ([], ALIKE)


def test_what_has_no_score_is_in_no_pair():
    assert pairs([None, 2.0, 1.0])[0] == [Choice(1, 2, 1.0)]


def test_repetition_is_the_share_of_neighbours_that_occur_again():
    assert repetition([7, 8, 7, 8, 9]) == 0.5  # 7 8, 8 7, 7 8, 8 9
    assert repetition([1, 2, 3]) == 0.0 and repetition([1]) == 0.0
    assert repetition([1, 2, 3, 12, 3]) == 0.0  # 2 3 and 12 3 are not the same

"""Intervals against published and hand-worked numbers."""

import numpy as np
import pytest

from tinywave_core.evals import intervals
from tinywave_core.evals.intervals import (
    bootstrap_interval,
    mcnemar,
    paired_ratio_interval,
    retention,
    wilson_interval,
)

pytestmark = pytest.mark.arithmetic


def test_wilson_of_eight_in_ten():
    assert wilson_interval(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)


def test_wilson_stays_inside_at_the_ends():
    assert wilson_interval(0, 20)[0] == 0 and wilson_interval(20, 20)[1] == 1


def test_bootstrap_of_a_constant_ratio_is_that_ratio():
    assert bootstrap_interval([2, 4, 6], [1, 2, 3], seed=0) == (2, 2)


def test_bootstrap_holds_the_mean_and_shrinks_with_more_items():
    few, many = ([0, 1] * n for n in (10, 1000))
    wide, narrow = (bootstrap_interval(x, [1] * len(x), seed=0) for x in (few, many))
    assert wide[0] < narrow[0] < 0.5 < narrow[1] < wide[1]


def credits(both: int, first_only: int, second_only: int, neither: int) -> tuple[list[int], list[int]]:
    """Credits of two classifiers with so many items of each sort."""
    first = [1] * both + [1] * first_only + [0] * second_only + [0] * neither
    second = [1] * both + [0] * first_only + [1] * second_only + [0] * neither
    return first, second


@pytest.mark.parametrize(
    ("first_only", "second_only", "p"),
    [(1, 0, 1), (5, 0, 2 / 32), (9, 1, 22 / 1024), (3, 3, 1), (0, 0, 1), (2, 8, 2 * (1 + 10 + 45) / 1024)],
)
def test_mcnemar_is_the_two_sided_tail_of_a_fair_coin(first_only: int, second_only: int, p: float):
    test = mcnemar(*credits(20, first_only, second_only, 7))
    assert (test.first_only, test.second_only, test.p) == (first_only, second_only, pytest.approx(p))


def test_mcnemar_does_not_look_at_items_that_both_or_neither_get():
    assert mcnemar(*credits(0, 6, 1, 0)) == mcnemar(*credits(500, 6, 1, 900))


def test_a_tie_is_less_than_right_and_more_than_wrong():
    assert (mcnemar([0.5, 0.5, 0.5], [1, 0, 0.5]).first_only, mcnemar([0.5], [1]).second_only) == (1, 1)


def test_a_paired_interval_does_not_see_what_both_share():
    shared = np.random.default_rng(0).uniform(1, 100, 200)
    low, high = paired_ratio_interval(1.5 * shared, shared, seed=0)
    assert low == pytest.approx(1.5) and high == pytest.approx(1.5)


def test_a_ratio_to_nothing_has_no_interval():
    assert paired_ratio_interval([1, 1, 0], [0, 0, 0], seed=0) is None


def test_retention_above_chance_leaves_out_what_a_coin_gets():
    kept = retention([1] * 75 + [0] * 25, [1] * 100, 0.5, seed=0)
    assert (kept.ratio, kept.above_chance, kept.why) == (0.75, 0.5, "")
    assert kept.ratio_interval is not None and kept.above_chance_interval is not None
    # Of a teacher that is always right, above-chance retention is 2 x ratio - 1, and so is its interval.
    assert kept.above_chance_interval == pytest.approx([2 * x - 1 for x in kept.ratio_interval])


@pytest.mark.parametrize(
    ("right", "of", "why"),
    [
        (50, 100, "the teacher's 50.0% over 100 items is not above chance (50%)"),
        (54, 100, "the teacher's 54.0% over 100 items cannot be told from chance (50%)"),
        (2, 2, "the teacher's 100.0% over 2 items cannot be told from chance (50%)"),
    ],
)
def test_retention_of_a_teacher_at_chance_is_undefined_and_says_so(right: int, of: int, why: str):
    kept = retention([1] * of, [1] * right + [0] * (of - right), 0.5, seed=0)
    assert kept.above_chance is None and kept.above_chance_interval is None
    assert kept.why == why


def coverage(interval, truth: float) -> float:
    """How often the interval of 80 paired items of a student (70 % right) and its teacher (80 %) holds the truth."""
    rng = np.random.default_rng(7)
    held = []
    for _ in range(300):
        teacher = rng.random(80) < 0.8
        student = np.where(rng.random(80) < 0.7, teacher, rng.random(80) < 7 / 15)  # 0.7 x 0.8 + 0.3 x 7/15 = 0.7
        low, high = interval(student, teacher)
        held.append(low <= truth <= high)
    return float(np.mean(held))


@pytest.mark.parametrize(
    ("interval", "truth"),
    [
        (lambda s, t: paired_ratio_interval(s, t, 0, 300), 0.7 / 0.8),
        (lambda s, t: retention(s, t, 0.5, 0, 300).above_chance_interval, 0.2 / 0.3),
        (lambda s, t: wilson_interval(float(s.sum()), len(s)), 0.7),
    ],
    ids=["ratio", "retention", "wilson"],
)
def test_ninety_five_percent_intervals_hold_the_truth_about_as_often(interval, truth: float):
    assert 0.91 <= coverage(interval, truth) <= 0.98


def test_intervals_do_not_depend_on_how_many_draws_are_in_memory(monkeypatch: pytest.MonkeyPatch):
    top, bottom = np.arange(1.0, 18.0), np.arange(2.0, 19.0)
    at_once = bootstrap_interval(top, bottom, 3)
    monkeypatch.setattr(intervals, "_PICKS", 90)  # five draws of 17
    assert bootstrap_interval(top, bottom, 3) == at_once

"""Intervals against published and hand-worked numbers."""

import pytest

from tinywave_core.evals.intervals import bootstrap_interval, wilson_interval


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

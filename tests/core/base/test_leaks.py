"""Runs of units tell what the base has heard."""

import numpy as np

from tinywave_core.base.leaks import LEAKS_FROM, heard_recordings, heard_runs, share_heard
from tinywave_core.base.opening import open_base
from tinywave_core.unit_runs import LEAST, N, all_runs, runs_of

RNG = np.random.default_rng(7)
ONE, OTHER = RNG.integers(0, 100, 200), RNG.integers(0, 100, 200)


def test_repeats_are_merged_and_runs_counted():
    assert len(runs_of([1, 1, 2, 2, 2, 3, 4, 5, 6, 7, 7])) == 1  # seven units are left: one run of seven
    assert (runs_of([1, 1, 2, 3, 4, 5, 6, 7]) == runs_of([1, 2, 2, 3, 4, 5, 6, 7])).all()
    assert len(runs_of(range(N + 4))) == 5
    assert len(runs_of(range(N - 1))) == len(runs_of([])) == 0


def test_another_order_or_another_unit_is_another_run():
    given = runs_of([1, 2, 3, 4, 5, 6, 7])
    others = [[7, 6, 5, 4, 3, 2, 1], [2, 1, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 8], [0, 2, 3, 4, 5, 6, 7]]
    assert not [units for units in others if runs_of(units) == given]


def test_hashes_of_many_runs_hardly_ever_meet():
    units = np.random.default_rng(0).integers(0, 100, 40_000)
    assert len(all_runs([units])) > 0.999 * len(runs_of(units))


def test_the_share_is_that_of_known_runs():
    heard = all_runs([ONE])
    assert share_heard(ONE, heard) == 1
    assert share_heard(OTHER, heard) == share_heard(ONE, all_runs([])) == 0
    assert share_heard(OTHER, heard) == np.isin(runs_of(OTHER), heard).mean()
    assert share_heard(ONE, all_runs([OTHER, ONE])) == 1
    half = np.concatenate([ONE[:100], OTHER[:100]])
    assert 0.4 < share_heard(half, heard) < 0.55
    assert share_heard(OTHER, heard) < LEAKS_FROM <= share_heard(half, heard)
    mostly_other = np.concatenate([ONE[:30], OTHER])
    assert 0 < share_heard(mostly_other, heard) < 0.15 < LEAKS_FROM


def test_a_few_runs_tell_nothing():
    heard = all_runs([ONE])
    assert share_heard(ONE[: N + LEAST - 2], heard) == 0
    assert share_heard(ONE[: N + LEAST + 20], heard) == 1


def test_the_release_lists_what_it_heard():
    base = open_base()
    assert len(heard_recordings(base)) >= base.recordings
    runs = heard_runs(base)
    assert runs.dtype == np.uint32 and (np.diff(runs.astype(np.int64)) > 0).all()
    assert len(runs) > 100 * base.recordings  # of every recording, from four beginnings

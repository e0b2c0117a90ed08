"""kill -9 at drawn moments of every stage, of a run whose store is a folder: tests/s3/test_drawn_kills.py has those on S3."""

from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Finished
from tests.fixtures.kills import draws, numbers_of, stage_of, store_before, survive
from tinywave_core.config.pipeline import STAGES


@pytest.mark.parametrize("number", draws(remote=False))
def test_a_run_killed_at_any_moment_is_finished_by_the_next_as_if_nothing_had_happened(
    finished: Finished, tmp_path: Path, number: int
):
    survive(number, finished, store_before(stage_of(number), finished, tmp_path / "store"), {})


@pytest.mark.parametrize("remote", [False, True])
def test_the_draws_of_a_night_kill_every_stage_on_both_kinds_of_store(remote: bool):
    counts = Counter(stage_of(number) for number in numbers_of(200, remote=remote))
    assert set(counts) == set(STAGES) and min(counts.values()) >= 6

"""Two whole runs begun at once in one store: one waits for the other, finds its work, and what they leave is what one leaves."""

from pathlib import Path

import pytest

from tests.conftest import Finished
from tests.fixtures.at_once import run_at_once
from tests.fixtures.kills import leftovers
from tests.fixtures.tiny import digests, summaries
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.storage.care.census import take_census
from tinywave_core.storage.care.verify import verify
from tinywave_core.storage.store import Store


def records(store: Store) -> dict[str, int]:
    """How many records each log has."""
    return {name: len(log.records) for name, log in take_census(store).logs.items()}


@pytest.mark.nightly
def test_of_two_runs_at_once_the_second_is_told_who_holds_the_store_and_both_end_alike(
    finished: Finished, tmp_path: Path
):
    two_runs_are_one(finished, finished.config.model_copy(update={"root": str(tmp_path / "store")}), {})


def two_runs_are_one(finished: Finished, config: PipelineConfig, environment: dict[str, str]) -> None:
    told = run_at_once(config, 2, environment)
    assert told and all("is in use by run " in said for said in told)
    store = Store(config.root)
    assert digests(store) == digests(finished.store)
    assert summaries(store) == summaries(finished.store)
    assert records(store) == records(finished.store)
    assert not verify(take_census(store)) and not leftovers(config)

"""A fan-out of any size has a bounded number of task runs ahead, fails when all others are done, and reads the log of runs once."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks import base
from tasks.base import PrefectExecute
from tests.fixtures.summaries import Anything
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import SourceError
from tinywave_core.steps.base import Output, Step, compute
from tinywave_core.steps.reasons import explain_all
from tinywave_core.steps.runs import RUNS, record_run
from tinywave_core.storage.forgotten import FORGOTTEN
from tinywave_core.storage.store import Artifact, Log, Store

RUNTIME = RuntimeConfig(workers=1)


class Later:
    """A future whose work is done when it is waited for."""

    def __init__(self, flight: "Flight", step: Step) -> None:
        self.flight, self.step = flight, step

    def wait(self) -> None:
        self.flight.ahead -= 1

    def result(self) -> Artifact:
        return compute(self.step)


class Flight(PrefectExecute):
    """Counts what is ahead; no server is needed to see how much that is."""

    ahead, most = 0, 0

    def _task(self, step: Step, artifact: Artifact) -> Any:
        return None

    def _submit(self, step: Step, run_step: Any) -> Later:
        self.ahead += 1
        self.most = max(self.most, self.ahead)
        return Later(self, step)


def steps(root: Path, number: int) -> list[Step]:
    def run(step: Step, output: Output) -> Anything:
        if step.params["number"] in (3, 5):
            raise SourceError(f"no audio in {step.params['number']}")
        return Anything()

    store = Store(str(root))
    return [Step(store, "ingestion", "shard", 1, run, RUNTIME, params={"number": i}, runtime=RUNTIME) for i in range(number)]  # fmt: skip


def test_of_many_steps_so_many_are_ahead_and_the_others_are_done_before_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(base, "IN_FLIGHT", 4)
    flight, many = Flight(run_step=None), steps(tmp_path, 20)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="no audio in 3"):
        flight(many)
    assert (flight.ahead, flight.most) == (0, 8)  # eight times the one worker
    assert [i for i, step in enumerate(many) if not step.find().complete] == [3, 5]


def test_the_log_of_runs_is_read_once_for_all_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    many = steps(tmp_path, 20)
    record_run(many[0].store, {"artifacts": {"ingestion/shard": [compute(many[0]).id, many[1].id]}})
    read: Counter[str] = Counter()
    records = Log.records
    monkeypatch.setattr(Log, "records", lambda log: read.update([log.name]) or records(log))
    whys = [reason.why for reason in explain_all(many, [step.find() for step in many])]
    assert read == {RUNS: 1, FORGOTTEN: 1}
    assert whys[:3] == [
        "same settings and inputs as before",
        "its output is missing or damaged",
        "what the last run used is gone",
    ]

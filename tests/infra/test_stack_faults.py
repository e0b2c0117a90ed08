"""The services of docker-compose.yml, run natively, when something of them dies in the middle of a training: the run ends with a
clear state, the same run asked for again goes on, and what it leaves is what an undisturbed run leaves."""

import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.cli import main
from flows.schedules import ZOMBIES
from infra.native.stack import Stack
from tests.conftest import Finished
from tests.fixtures.tiny import copy_store, digests, run_tiny, tiny_config
from tests.infra.conftest import Api, filled_in
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.storage.store import Store

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]
STEPS, EVERY = 3000, 500
SILENT_S = 90  # three heartbeats of the stack's worker, as the nine minutes are of Prefect's default
PATIENCE_S = 120


def long_training(finished: Finished, root: Path) -> PipelineConfig:
    """A copy of a finished store, and settings that train a teacher anew in it, for tens of seconds."""
    copy_store(finished.config, root)
    training = {"training": {"steps": STEPS, "learning_rate": 1e-5}}  # so many at the usual rate only make it worse
    return tiny_config(finished.config.source, root, adaptation=training, runtime={"checkpoint_every": EVERY})


@pytest.fixture(scope="module")
def undisturbed(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Digests of what a run leaves to which nothing happens."""
    config = long_training(finished, tmp_path_factory.mktemp("undisturbed") / "store")
    run_tiny(config)
    return digests(Store(config.root))


@pytest.fixture
def config(finished: Finished, tmp_path: Path) -> PipelineConfig:
    return long_training(finished, tmp_path / "store")


@pytest.fixture
def parameters(config: PipelineConfig) -> dict[str, Any]:
    return filled_in(config)


@pytest.fixture(autouse=True)
def whole(config: PipelineConfig) -> Iterator[None]:
    """Whatever happened, every byte of the store is as it was made."""
    yield
    assert main(["verify", "--root", config.root]) == 0


def checkpoints(config: PipelineConfig) -> list[int]:
    """Steps whose checkpoint is there, but for the one that each training begins with."""
    found = Path(config.root, ".work").glob("adaptation-*/resume/step-*/state.json")
    return sorted(step for state in found if (step := int(state.parent.name.removeprefix("step-"))))


def wait_until_it_trains(config: PipelineConfig, stack: Stack) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not checkpoints(config):
        assert time.monotonic() < deadline, stack.said("worker", 8000)
        time.sleep(0.05)


def said(api: Api, run: str) -> str:
    """The log of a run, as its page shows it."""
    found = api("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
    return "\n".join(line["message"] for line in found)


def of_adaptation(artifacts: dict[str, Any]) -> dict[str, Any]:
    return {name: files for name, files in artifacts.items() if name.startswith("adaptation/")}


def processes(stack: Stack) -> list[psutil.Process]:
    """The worker and everything that it has started."""
    worker = psutil.Process(stack.processes["worker"].pid)
    return [worker, *worker.children(recursive=True)]


def test_of_two_clicks_the_second_waits_and_finds_the_work_done(
    api: Api, config: PipelineConfig, parameters: dict[str, Any], undisturbed: dict[str, Any]
):
    runs = [api.start("adaptation/adaptation-store-demo", parameters) for _ in range(2)]
    created = [api(f"flow_runs/{run}")["expected_start_time"] for run in runs]
    assert len(set(created)) == 2
    assert [api.end(run)["type"] for run in runs] == ["COMPLETED"] * 2
    assert sorted("cached" in said(api, run) for run in runs) == [False, True]
    assert of_adaptation(digests(Store(config.root))).items() >= of_adaptation(undisturbed).items()


def test_a_run_whose_worker_is_killed_is_called_crashed_and_the_next_goes_on(
    stack: Stack, api: Api, config: PipelineConfig, parameters: dict[str, Any], undisturbed: dict[str, Any]
):
    (automation,) = api("automations/filter", {"automations": {"name": {"any_": [ZOMBIES]}}})
    assert automation["trigger"]["within"] == 540
    automation["trigger"]["within"] = SILENT_S
    kept = {name: automation[name] for name in ("name", "description", "enabled", "trigger", "actions")}
    api(f"automations/{automation['id']}", kept, method="PUT")

    run = api.start("pipeline/pipeline-store-demo", parameters)
    wait_until_it_trains(config, stack)
    before = digests(Store(config.root))
    for process in processes(stack):
        process.kill()
    stack.processes["worker"].wait()
    stack.start_worker()
    killed = time.monotonic()
    again = api.start("pipeline/pipeline-store-demo", parameters)
    assert api.end(run)["type"] == "CRASHED"
    assert time.monotonic() - killed < 2 * SILENT_S
    assert "no heartbeat" in api(f"flow_runs/{run}")["state"]["message"]
    assert api.end(again, 600)["type"] == "COMPLETED", said(api, again)
    after = digests(Store(config.root))
    assert after == undisturbed and after.items() >= before.items()


@pytest.mark.parametrize("how", ["cancelled", "told twice to end"])
def test_a_run_that_is_cancelled_stops_soon_and_the_next_goes_on(
    stack: Stack, api: Api, config: PipelineConfig, parameters: dict[str, Any], undisturbed: dict[str, Any], how: str
):
    """As by the button of Prefect's page; or as a machine is shut down by somebody who does not wait."""
    run = api.start("adaptation/adaptation-store-demo", parameters)
    wait_until_it_trains(config, stack)
    asked = time.monotonic()
    if how == "cancelled":
        api(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    else:
        (process,) = psutil.Process(stack.processes["worker"].pid).children()
        process.send_signal(signal.SIGTERM)
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    assert api.end(run)["type"] == ("CANCELLED" if how == "cancelled" else "CRASHED"), said(api, run)
    assert time.monotonic() - asked < 30
    kept = checkpoints(config)
    assert kept and (how != "cancelled" or kept[-1] % EVERY), "the last step is kept, not the last checkpoint"
    assert "goes on from there" in said(api, run) or how != "cancelled"
    api.run("adaptation/adaptation-store-demo", parameters)
    assert of_adaptation(digests(Store(config.root))) == of_adaptation(undisturbed)


@pytest.mark.parametrize("what", ["server", "postgres"])
def test_a_restarted_server_or_database_costs_at_most_one_more_run(
    stack: Stack,
    api: Api,
    config: PipelineConfig,
    parameters: dict[str, Any],
    undisturbed: dict[str, Any],
    what: str,
):
    run = api.start("pipeline/pipeline-store-demo", parameters)
    wait_until_it_trains(config, stack)
    # What `pg_ctl restart -m immediate` sends.
    stack.restart(what, signal.SIGKILL if what == "server" else signal.SIGQUIT)
    if api.end(run, 600)["type"] != "COMPLETED":
        print(said(api, run))
        api.run("pipeline/pipeline-store-demo", parameters)
    assert digests(Store(config.root)) == undisturbed


def test_no_password_of_server_store_or_database_is_written_down(stack: Stack, config: PipelineConfig):
    """After all the runs above: in no log, database, result or store; but in the file that keeps them for the next start."""
    own = "passwords.json"
    places = [stack.folder, *Path(config.root).parents[1].iterdir()]
    files = [path for place in places for path in place.rglob("*") if path.is_file() and path.name != own]
    assert len(files) > 100
    found = {
        (str(path), name)
        for path in files
        for name, password in stack.passwords.items()
        if password.encode() in path.read_bytes()
    }
    assert not found

"""The set of docker-compose.yml, natively: server and services on PostgreSQL and Redis, an S3 store, and a process worker
that runs the pipeline's deployment. What it leaves in the store is what a local run leaves."""

import json
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from flows.cli import main
from infra.native.stack import ROOT, Stack, StackError, find_postgres, find_redis
from tests.conftest import Finished
from tests.fixtures.strangers import OPEN, SOCKETS, operations, password, preflight, socket_says, statuses
from tests.fixtures.tiny import digests, tiny_config
from tinywave_core.config.pipeline import STAGES
from tinywave_core.reporting.stages import StageRow
from tinywave_core.storage.store import Store

pytestmark = pytest.mark.timeout(900)  # eight processes start one after the other: minutes, on a busy machine
DONE = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Api:
    """Prefect's REST API, as any client sees it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.headers = password(stack.login) | {"Content-Type": "application/json"}

    def __call__(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.stack.api}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers=self.headers,
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def run(self, deployment: str, parameters: dict[str, Any], patience_s: float = 300) -> str:
        """Ask for a run of a deployment and wait until it ends: its id."""
        started = time.monotonic()
        found = self(f"deployments/name/{deployment}")
        run = self(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        while time.monotonic() < started + patience_s:
            if failed := self.stack.failed():
                pytest.fail(f"{failed} ended:\n{self.stack.said(failed)}")
            state = self(f"flow_runs/{run['id']}")["state"]
            if state["type"] in DONE:
                assert state["type"] == "COMPLETED", f"{state}\n{self.stack.said('worker', 8000)}"
                return str(run["id"])
            time.sleep(0.2)
        pytest.fail(f"the run did not end in {patience_s} s:\n{self.stack.said('worker', 8000)}")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Started by root, PostgreSQL runs as nobody, who must be able to reach its folder: pytest's own are closed to him."""
    try:
        find_postgres(), find_redis()
    except StackError:
        pytest.skip("no PostgreSQL or no Redis on this machine: install both (apt-get install postgresql redis-server)")
    folder = Path(tempfile.mkdtemp(prefix="tinywave-stack-"))
    folder.chmod(0o711)
    try:
        with Stack(folder, worker_environment={"PREFECT_WORKER_QUERY_SECONDS": "1"}, patience_s=300) as started:
            started.deploy("--preset", "demo", "--root", ROOT)
            yield started
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def api(stack: Stack) -> Api:
    return Api(stack)


@pytest.fixture(scope="module")
def store(stack: Stack) -> Iterator[Store]:
    """The store in the stack's S3, as a client of it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.client.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield Store(ROOT)
        S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def config(tiny_source: Path) -> dict[str, Any]:
    return tiny_config(tiny_source, ROOT).model_dump(mode="json")


@pytest.fixture(scope="module")
def first(api: Api, config: dict[str, Any]) -> str:
    """The pipeline, run by the worker: id of the run."""
    return api.run("pipeline/demo", {"config": config})


def test_the_store_holds_what_a_local_run_leaves(first: str, store: Store, finished: Finished):
    assert digests(store) == digests(finished.store)


def test_the_run_was_the_workers_and_every_stage_is_in_postgresql(first: str, api: Api):
    run = api(f"flow_runs/{first}")
    assert (run["work_pool_name"], run["work_queue_name"]) == ("tinywave", "default")
    flow_runs = api("flow_runs/filter", {"flow_runs": {"tags": {"all_": []}}})
    names = {run["name"].partition(" ")[0] for run in flow_runs if run["state"]["type"] == "COMPLETED"}
    assert names >= {"pipeline", *STAGES}


def test_a_second_run_computes_nothing(first: str, api: Api, config: dict[str, Any], store: Store):
    before = digests(store)
    api.run("pipeline/demo", {"config": config})
    assert digests(store) == before
    rows = [StageRow.model_validate(row) for row in store.log("runs").records()[-1]["rows"]]
    assert {row.stage: row.computed for row in rows} == dict.fromkeys(STAGES, 0)


def test_stages_wait_in_the_queue_of_what_they_need(stack: Stack, api: Api):
    queues = {name: api(f"deployments/name/{name}/demo")["work_queue_name"] for name in ("pipeline", *STAGES)}
    gpu = {"adaptation", "logit_caching", "distillation"}
    assert queues == {"pipeline": "default"} | {stage: "gpu" if stage in gpu else "cpu" for stage in STAGES}


def test_deployments_name_a_module_and_fetch_no_code(stack: Stack, api: Api):
    deployment = api("deployments/name/distillation/demo")
    assert deployment["entrypoint"] == "flows.distillation.distillation"
    assert not deployment["pull_steps"]


def test_without_the_password_nothing_but_health_is_answered(stack: Stack):
    url = stack.api.removesuffix("/api")
    asked = [each for each in operations(url) if each not in OPEN]
    for stranger in ({}, password("tinywave:guess"), {"Host": "evil.example"}, {"Origin": "null"}):
        assert statuses(url, asked if not stranger else asked[::20], stranger) == {401}
    for origin in (None, "https://evil.example"):
        said = {socket_says(url, path, login="tinywave:guess", origin=origin) for path in SOCKETS}
        assert said == {"1008"}  # a policy is violated
    assert socket_says(url, "/api/events/out", login=stack.login) == "auth_success"


def test_a_page_of_another_gets_no_leave_to_ask(stack: Stack):
    answer = preflight(stack.api.removesuffix("/api"))
    assert answer.status_code == 400 and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("settings", "arguments", "expected"),
    [
        (
            {"PREFECT_API_URL": "http://127.0.0.1:9/api"},
            [],
            "the Prefect server at http://127.0.0.1:9/api does not answer",
        ),
        ({"PREFECT_API_AUTH_STRING": "tinywave:wrong"}, [], "refuses us (status 401): set PREFECT_API_AUTH_STRING"),
        (
            {},
            ["--image", "tinywave"],
            "the work pool tinywave has the type process: --image is for pools that start containers",
        ),
        ({}, ["--image", "tinywave", "--pool", "none"], "the work pool none is not there"),
    ],
    ids=["server", "password", "type", "pool"],
)
def test_a_deploy_that_cannot_be_is_one_line(
    stack: Stack, settings: dict[str, str], arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
):
    from prefect.settings import temporary_settings
    from prefect.settings.legacy import Settings, _get_settings_fields

    wanted = {name: value for name, value in stack.client.items() if name.startswith("PREFECT_")} | settings
    with temporary_settings({_get_settings_fields(Settings)[name]: value for name, value in wanted.items()}):
        assert main(["deploy", *arguments]) == 2
    assert expected in capsys.readouterr().err

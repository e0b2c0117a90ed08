"""The set of docker-compose.yml, natively: server and services on PostgreSQL and Redis, an S3 store, and a process worker
that runs the pipeline's deployment. What it leaves in the store is what a local run leaves."""

from typing import Any

import pytest

from flows.cli import main
from infra.native.stack import Stack
from tests.conftest import Finished
from tests.fixtures.strangers import OPEN, SOCKETS, operations, password, preflight, socket_says, statuses
from tests.fixtures.tiny import digests
from tests.infra.conftest import Api
from tinywave_core.config.pipeline import STAGES
from tinywave_core.run.record import StageRow
from tinywave_core.storage.store import Store

pytestmark = pytest.mark.timeout(900)  # eight processes start one after the other: minutes, on a busy machine


@pytest.fixture(scope="module")
def first(api: Api, config: dict[str, Any]) -> str:
    """The pipeline, run by the worker: id of the run."""
    return api.run("pipeline/pipeline-store-demo", config)


def test_the_store_holds_what_a_local_run_leaves(first: str, store: Store, finished: Finished):
    assert digests(store) == digests(finished.store)


def test_the_run_was_the_workers_and_every_stage_is_in_postgresql(first: str, api: Api):
    run = api(f"flow_runs/{first}")
    assert (run["work_pool_name"], run["work_queue_name"]) == ("tinywave", "default")
    flow_runs = api("flow_runs/filter", {"flow_runs": {"tags": {"all_": []}}})
    names = {run["name"].partition(" ")[0] for run in flow_runs if run["state"]["type"] == "COMPLETED"}
    assert names >= {"pipeline", *STAGES}


@pytest.mark.nightly  # a worker's run is 25 s of a core; that nothing is computed twice on S3 is test_s3.py's as well
def test_a_second_run_computes_nothing(first: str, api: Api, config: dict[str, Any], store: Store):
    before = digests(store)
    api.run("pipeline/pipeline-store-demo", config)
    assert digests(store) == before
    rows = [StageRow.model_validate(row) for row in store.log("runs").records()[-1]["rows"]]
    assert {row.stage: row.computed for row in rows} == dict.fromkeys(STAGES, 0)


def test_stages_wait_in_the_queue_of_what_they_need(stack: Stack, api: Api):
    queues = {
        name: api(f"deployments/name/{name}/{name}-store-demo")["work_queue_name"] for name in ("pipeline", *STAGES)
    }
    gpu = {"adaptation", "logit_caching", "distillation"}
    assert queues == {"pipeline": "default"} | {stage: "gpu" if stage in gpu else "cpu" for stage in STAGES}


def test_deployments_name_a_module_and_fetch_no_code(stack: Stack, api: Api):
    deployment = api("deployments/name/distillation/distillation-store-demo")
    assert deployment["entrypoint"] == "flows.forms.distillation"
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

"""The set of docker-compose.yml, natively: server and services on PostgreSQL and Redis, an S3 store, and a process worker with the
pipeline's deployments; once for each module."""

import json
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from flows.forms import values_of
from infra.native.stack import ROOT, Stack, StackError, find_postgres, find_redis
from tests.fixtures.strangers import password
from tests.fixtures.tiny import tiny_config
from tinywave_core.config.load import flat
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.storage.store import Store

DONE = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Api:
    """Prefect's REST API, as any client sees it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.headers = password(stack.login) | {"Content-Type": "application/json"}

    def __call__(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.stack.api}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers=self.headers,
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def start(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Ask for a run of a deployment: its id."""
        found = self(f"deployments/name/{deployment}")
        return str(self(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"])

    def end(self, run: str, patience_s: float = 300, states: tuple[str, ...] = DONE) -> dict[str, Any]:
        """Wait until a run ends, or is in one of these states: its state."""
        started = time.monotonic()
        while time.monotonic() < started + patience_s:
            if failed := self.stack.failed():
                pytest.fail(f"{failed} ended:\n{self.stack.said(failed)}")
            with suppress(OSError):  # a server that is being restarted
                state: dict[str, Any] = self(f"flow_runs/{run}")["state"]
                if state["type"] in states:
                    return state
            time.sleep(0.2)
        pytest.fail(f"the run did not end in {patience_s} s:\n{self.stack.said('worker', 8000)}")

    def run(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Ask for a run of a deployment and wait until it is complete: its id."""
        run = self.start(deployment, parameters)
        state = self.end(run)
        assert state["type"] == "COMPLETED", f"{state}\n{self.stack.said('worker', 8000)}"
        return run


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
        # Prefect's shortest heartbeat, in place of three minutes.
        worker = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
        with Stack(folder, worker_environment=worker, patience_s=300) as started:
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
    return filled_in(tiny_config(tiny_source, ROOT))


def filled_in(config: PipelineConfig) -> dict[str, Any]:
    """A deployment's form with every field filled in."""
    return values_of("demo", flat(config.model_dump(mode="json")))

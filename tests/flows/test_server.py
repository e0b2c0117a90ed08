"""The Prefect servers that `tinywave serve` and `tinywave run` start obey nobody but the person who started them."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import httpx
import pytest

from flows.server import local_server
from tests.fixtures.strangers import OPEN, SOCKETS, operations, password, preflight, socket_says, statuses
from tests.fixtures.tiny import CLIPS, copy_clips
from tinywave_core.errors import ConfigError

PATIENCE_S = 240
CANARY = "canary-3f9c1e7b"
SECRETS = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN"), CANARY)
SECRETS["DATABASE_URL"] = f"postgresql://tinywave:{CANARY}@127.0.0.1/prefect"


@dataclass(frozen=True)
class Served:
    """A server and the password that it was started with."""

    url: str
    login: str
    page: str = ""
    """The address that is printed."""


# tinywave serve ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("prefect")
    own = {"PREFECT_HOME": str(home), "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui")}
    others = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with mock.patch.dict(os.environ, others | own | {"PREFECT_SERVER_API_PORT": "0"}, clear=True):
        with local_server() as page:
            url = os.environ["PREFECT_API_URL"].removesuffix("/api")
            yield Served(url, os.environ["PREFECT_API_AUTH_STRING"], page)


@pytest.fixture(scope="module")
def everything(served: Served) -> list[tuple[str, str]]:
    return operations(served.url)


@pytest.fixture(scope="module")
def families(everything: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """An operation of each part of the API, health included, and what is not the API."""
    found = {(method, path.split("/")[2]): (method, path) for method, path in everything}
    return [*found.values(), ("GET", "/"), ("GET", "/ui-settings"), ("GET", "/docs"), ("GET", "/sign-in")]


def test_without_the_password_nothing_but_health_is_answered(served: Served, everything: list[tuple[str, str]]):
    asked = [each for each in everything if each not in OPEN]
    assert statuses(served.url, asked, {}) == {401}
    assert statuses(served.url, asked[:5], password("tinywave:guess")) == {401}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:4200"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
    ids=["host", "longer host", "rebound", "origin", "null", "another port", "image", "script", "frame"],
)
def test_a_page_of_another_is_refused_even_with_the_password(
    served: Served, families: list[tuple[str, str]], headers: dict[str, str]
):
    assert statuses(served.url, families, headers | password(served.login)) == {403}


def test_a_page_of_another_gets_no_leave_to_ask(served: Served):
    for origin in ("https://evil.example", "null"):
        answer = preflight(served.url, origin)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("path", SOCKETS)
def test_a_websocket_is_the_owners_only(served: Served, path: str):
    port = served.url.rpartition(":")[2]
    assert socket_says(served.url, path, login=served.login, origin="https://evil.example") == "403"
    assert socket_says(served.url, path, login=served.login, origin="null") == "403"
    assert socket_says(served.url, path, login=served.login, host=f"evil.example:{port}") == "403"
    assert socket_says(served.url, path, login="tinywave:guess") == "1008"
    assert socket_says(served.url, path, login=served.login) == "auth_success"


def test_who_has_the_password_may_ask_by_every_name_of_this_machine(served: Served):
    port = served.url.rpartition(":")[2]
    for name in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost:8000", f"[::1]:{port}"):
        own = {"Host": name, "Origin": f"http://{name}", "Sec-Fetch-Site": "same-origin"} | password(served.login)
        assert httpx.post(f"{served.url}/api/flows/filter", headers=own, json={}).json() == []


def test_a_link_of_another_page_may_be_followed(served: Served):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    answer = httpx.get(served.url, headers=link, follow_redirects=True)
    assert answer.status_code == 200 and "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_the_printed_address_holds_a_password_that_nobody_guesses(served: Served):
    assert re.fullmatch(rf"{served.url}/sign-in#tinywave:[\w-]{{32}}", served.page)
    assert served.page.endswith(served.login)
    assert served.login not in httpx.get(served.page).text  # what is behind the # goes nowhere


def test_a_port_that_is_taken_is_said_before_anything_is_sent_there(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("PREFECT_SERVER_API_PORT", str(port))
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} .*: set PREFECT_SERVER_API_PORT to a free port"):
            with local_server():
                pass
        taken.setblocking(False)
        with pytest.raises(BlockingIOError):
            taken.accept()


# tinywave run --------------------------------------------------------------------------------------------------------


def embedded_server(run: "subprocess.Popen[str]") -> Served | None:
    """The server among a run's children, and the password in its environment, which only its owner can read."""
    try:
        children = [
            pid for task in Path(f"/proc/{run.pid}/task").glob("*/children") for pid in task.read_text().split()
        ]
    except OSError:  # a thread of it has ended
        return None
    for pid in children:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        except OSError:  # it has ended
            continue
        if "--port" in words:
            variables = dict(variable.partition("=")[::2] for variable in environment if variable)
            port = words[words.index("--port") + 1]
            return Served(f"http://127.0.0.1:{port}", variables["PREFECT_SERVER_API_AUTH_STRING"])
    return None


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="this system shows no processes in /proc: run the tests on Linux"
)
def test_the_server_of_a_run_obeys_that_run_only_and_no_secret_is_kept_anywhere(
    everything: list[tuple[str, str]], tmp_path: Path
):
    source = copy_clips(tmp_path / "speech", CLIPS[:2])
    own = {"PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONUNBUFFERED": "1"} | SECRETS
    others = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-m", "flows.cli", "run", "ingestion", "--source", str(source)]
    with open(tmp_path / "said", "w+") as said:
        run = subprocess.Popen(
            [*command, "--root", str(tmp_path / "store")], env=others | own, stdout=said, stderr=said, text=True
        )
        deadline = time.monotonic() + PATIENCE_S
        while (server := embedded_server(run)) is None:
            assert run.poll() is None and time.monotonic() < deadline, Path(said.name).read_text()
            time.sleep(0.01)
        run.send_signal(signal.SIGSTOP)  # the server stays while we ask it
        try:
            while not healthy(server.url):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            asked = [each for each in everything if each not in OPEN]
            assert statuses(server.url, asked, {}) == {401}
            assert not [name for name in preflight(server.url).headers if name == "access-control-allow-origin"]
            assert [socket_says(server.url, path, login="tinywave:guess") for path in SOCKETS] == ["1008"] * len(
                SOCKETS
            )
            assert statuses(server.url, [("POST", "/api/flows/filter")], password(server.login)) == {200}
        finally:
            run.send_signal(signal.SIGCONT)
        assert run.wait(PATIENCE_S) == 0, Path(said.name).read_text()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    secrets = (server.login.partition(":")[2].encode(), CANARY.encode())
    assert not [path for path in files if any(secret in path.read_bytes() for secret in secrets)]

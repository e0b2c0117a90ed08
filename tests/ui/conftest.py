"""`tinywave serve` with the Prefect server that it starts, and a browser: the machine's Chromium, driven by Playwright."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright

from tests.fixtures.tiny import SETTINGS, copy_clips

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ELSEWHERE = "rebound.example"
"""A foreign name that leads to this machine, as whoever owns it can arrange."""
RESOLVES = f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--autoplay-policy=no-user-gesture-required"]
PATIENCE_S = 300  # server and runner together took 190 s to start on two cores with a load of eight


SHOTS = os.environ.get("TINYWAVE_SCREENSHOTS")
"""A folder where the tests leave pictures of what they see."""


def shot(page: Page, name: str) -> None:
    if SHOTS:
        size = page.viewport_size or {"width": 0}
        page.screenshot(path=f"{SHOTS}/{name}-{size['width']}.png")


@dataclass(frozen=True)
class Served:
    """What runs."""

    url: str
    """Of the server: its pages; its API is below /api."""
    page: str
    """The address that is printed."""
    login: str
    store: Path
    log: Path


@pytest.fixture(scope="session")
def chromium_path() -> str:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium on this machine: install chromium (apt-get install chromium) or Google Chrome")
    return path


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path, args=[*FLAGS, RESOLVES])
        context = chromium.new_context(viewport={"width": 1400, "height": 1000})
        context.set_default_timeout(60_000)
        yield context
        chromium.close()


@pytest.fixture(scope="module")
def served(browser: BrowserContext, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Needs the browser first: without one nothing is started."""
    folder = tmp_path_factory.mktemp("served")
    source = copy_clips(folder / "speech")
    (source / "notes.wav").write_text("this is no audio")
    environment = os.environ | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_API_PORT": "0",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(folder / "static"),
        # Prefect's ten seconds between two looks for a run are long for a test.
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    }
    flags = ["--preset", "demo", "--source", str(source), "--root", str(folder / "store"), *_flags(SETTINGS)]
    with ExitStack() as stack:
        log = folder / "serve.log"
        _start(stack, log, environment, "flows.cli", "serve", *flags)
        # Said once all deployments are registered.
        _wait(lambda: "Prefect UI: " in log.read_text(), log)
        found = re.search(r"Prefect UI: ((http://\S+)/sign-in#(\S+))", log.read_text())
        assert found
        page, url, login = found.groups()
        yield Served(url, page, login, folder / "store", log)


def _flags(settings: Mapping[str, Any], prefix: str = "--") -> list[str]:
    """Nested settings as the command line takes them."""
    found: list[str] = []
    for name, value in settings.items():
        found += _flags(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}", str(value)]
    return found


def _start(stack: ExitStack, log: Path, environment: dict[str, str], module: str, *arguments: str) -> None:
    """A Python module as a process that ends with `stack`, its children too."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    stack.callback(_stop, process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """SIGINT as from Ctrl-C, then kill what is left of its session."""
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(15)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(15)


def _wait(ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        if time.monotonic() > deadline:
            pytest.fail(f"{log.name} after {PATIENCE_S} s:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.2)

"""`tinywave serve`: a local Prefect server, if none is configured, and a deployment of every flow."""

import os
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from flows import environment

PORT = 4200


def serve(preset: str, settings: dict[str, str]) -> None:
    """Serve the pipeline and every stage until Ctrl-C; the preset and settings are the form's defaults."""
    environment.prepare(quiet=False)
    with ExitStack() as stack:
        if "PREFECT_API_URL" not in os.environ:
            stack.callback(_start_server().terminate)
        from prefect import serve as prefect_serve
        from prefect.deployments.runner import RunnerDeployment

        from flows.pipeline import STAGE_FLOWS, pipeline
        from tinywave_core.config.load import load_config

        config = load_config(preset, settings)
        config = config.model_copy(update={"source": _whole(config.source), "root": _whole(config.root)})
        defaults = {"config": config.model_dump(mode="json")}
        deployments = [
            # `to_deployment` is a coroutine only where an event loop runs; here none does.
            cast(
                RunnerDeployment,
                each.to_deployment(name=preset, parameters=defaults, tags=["tinywave"], concurrency_limit=1),
            )
            for each in (pipeline, *STAGE_FLOWS)
        ]
        print(
            f"Prefect UI: {_ui_address()}  (deployments: pipeline/{preset} and one per stage; Ctrl-C stops)", flush=True
        )
        prefect_serve(*deployments, pause_on_shutdown=False)


def _whole(path: str | None) -> str | None:
    """A local path as the form should show it, wherever it is read; URLs and nothing stay as they are."""
    return path if path is None or "://" in path else str(Path(path).resolve())


def _ui_address() -> str:
    return os.environ["PREFECT_API_URL"].removesuffix("/api")


def _start_server() -> subprocess.Popen[bytes]:
    url = f"http://127.0.0.1:{PORT}"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(PORT)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    os.environ["PREFECT_API_URL"] = f"{url}/api"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/api/health", timeout=2) as answer:
                if answer.status == 200:
                    return server
        except OSError:
            time.sleep(0.5)
    server.terminate()
    raise SystemExit(
        f"error: the Prefect server did not come up on port {PORT} within 120 s; is the port taken? "
        "Set PREFECT_API_URL to use a server that runs already"
    )

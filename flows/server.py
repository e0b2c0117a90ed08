"""The Prefect server that `tinywave serve` starts, for the person who started it only.

Whoever may use Prefect's API may run commands on this machine. So the API asks for a password that is made at each start, and a guard
in front of it refuses pages of others and foreign names (infra/decisions/0025-prefect-guard.md). The page /sign-in takes the password
from the part of the printed address behind `#`, which no browser sends to any server, and keeps it where Prefect's pages look for it.

    python -m flows.server 7      # on the listening socket with the file descriptor 7
"""

import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flows import environment
from tinywave_core.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

PORT = 4200
PATIENCE_S = 120
# The pages hold the password: nothing of another server is loaded and nothing sent to one (Prefect's report to Amplitude), and no page
# of another has them in a frame. Their scripts are Prefect's, written for a page that allows them all this.
HEADERS = {
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
SIGN_IN = "/sign-in"
# A password that the server does not take is not kept: another site may open this page with anything behind the #.
_PAGE = """<!doctype html><meta charset="utf-8"><title>TinyWave</title><script>
const login = btoa(decodeURIComponent(location.hash.slice(1)));
fetch("/api/admin/version", {headers: {Authorization: "Basic " + login}})
  .then(answer => answer.ok && localStorage.setItem("prefect-password", login))
  .finally(() => location.replace("/"));
</script>"""


@contextmanager
def local_server() -> Iterator[str]:
    """A server that ends with this context: the address that opens its pages. Prefect finds it by the environment,
    which it is to be told to read again if it was imported before."""
    port = os.environ.get("PREFECT_SERVER_API_PORT", str(PORT))
    try:
        listening = socket.create_server(("127.0.0.1", int(port)))
    except (OSError, OverflowError, ValueError) as error:
        raise ConfigError(
            f"the Prefect server cannot listen on 127.0.0.1:{port} ({error}): set PREFECT_SERVER_API_PORT to a free port, or "
            "PREFECT_API_URL to use a server that runs already"
        ) from error
    # Listened on from here: nobody else can answer at that address while the server starts, and be given the password.
    with listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        login = os.environ.get("PREFECT_SERVER_API_AUTH_STRING") or environment.new_login()
        own = environment.OWN_PAGES_ONLY | {
            "PREFECT_SERVER_API_AUTH_STRING": login,
            # Whatever the browser calls the server (localhost, the end of a tunnel), its pages ask the same one.
            "PREFECT_SERVER_UI_API_URL": "/api",
        }
        # -P: a folder `flows` where the person happens to be is not ours.
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.server", str(listening.fileno())],
            env=os.environ | own,
            stdout=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
        )
    try:
        _wait(server, url)
        os.environ |= {"PREFECT_API_URL": f"{url}/api", "PREFECT_API_AUTH_STRING": login}
        yield f"{url}{SIGN_IN}#{urllib.parse.quote(login, safe=':')}"
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:  # a page that is still open can hold it up
            server.kill()
            server.wait()


def _wait(server: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/api/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    problem = "did not answer" if server.poll() is None else f"ended with status {server.returncode}"
    raise SystemExit(f"error: the Prefect server at {url} {problem} within {PATIENCE_S} s; what it said is above")


def app() -> "FastAPI":
    """Prefect's app behind the guard, and the page that signs in."""
    from prefect.server.api.server import create_app
    from starlette.routing import Route

    from tinywave_core.serving.guard import Guard

    prefect = create_app(final=True)
    prefect.router.routes.insert(0, Route(SIGN_IN, _sign_in))  # before Prefect's own, which take all the rest
    prefect.add_middleware(Guard, headers=HEADERS)  # the last one added is asked first
    return prefect


async def _sign_in(_: "Request") -> "Response":
    from starlette.responses import HTMLResponse

    return HTMLResponse(_PAGE, headers={"cache-control": "no-store"})


def main(descriptor: int) -> None:
    """Serve until told to stop."""
    import uvicorn

    with socket.socket(fileno=descriptor) as listening:
        uvicorn.Server(uvicorn.Config(app(), log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""`tinywave ui`: pages about a store, on this machine. Nothing is written to the store."""

import sys

import uvicorn

from flows.listening import listen
from tasks import terminal
from tinywave_core.browsing.app import Browser
from tinywave_core.browsing.holdings import open_store
from tinywave_core.serving.connections import TalkConfig
from tinywave_core.serving.limits import Limits

HOST = "127.0.0.1"


def show_store(root: str, port: int) -> int:
    """Serve the pages until Ctrl-C; StoreError where `root` is no store."""
    app = Browser(open_store(root)).app()
    listening = listen(HOST, port)
    terminal.say(f"Look at it at http://{HOST}:{listening.getsockname()[1]}  (Ctrl-C ends it)", flush=True)
    try:
        uvicorn.Server(TalkConfig(app, Limits(), timeout_graceful_shutdown=1)).run(sockets=[listening])
    except KeyboardInterrupt:
        terminal.say("\nstopped", file=sys.stderr)
        return 130
    return 0

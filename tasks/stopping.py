"""Whether this process was asked to stop: a thread cannot be interrupted, so its step looks here as it progresses."""

import contextlib
import threading
from collections.abc import Iterator

requested = threading.Event()


@contextlib.contextmanager
def on_sigterm() -> Iterator[None]:
    """Steps hear of SIGTERM too: it is how Prefect cancels a run, with 30 s before it kills.

    To be entered last, so that nothing waits for the steps before they know. The signal itself is left to Prefect's handler: where
    another one is installed Prefect takes a cancelled run for a crashed one.
    """
    from prefect.exceptions import TerminationSignal  # the command line imports this module before Prefect is set up

    try:
        yield
    except TerminationSignal:
        requested.set()
        raise

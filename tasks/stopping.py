"""Whether this process was asked to stop: a thread cannot be interrupted, so its step looks here as it progresses."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

requested = threading.Event()


@contextlib.contextmanager
def on_sigterm() -> Iterator[None]:
    """Steps hear of SIGTERM too: it is how Prefect cancels a run, with 30 s before it kills. Outside the main thread,
    which alone gets signals, this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        requested.set()
        if callable(before):
            before(number, frame)
        else:
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

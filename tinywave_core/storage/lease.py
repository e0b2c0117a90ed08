"""A lease on a store: one run at a time, on every filesystem, also when its holder is stopped or cannot be reached.

`.lease/000001.json`, `.lease/000002.json`, … are created if absent. The newest is the holder's, and its number fences: before each
write the holder looks whether the next number is there, and is refused if it is. While it works it changes `.lease/NNNNNN.beat`.
Who comes later watches that file: a change means that the holder lives; none during a whole term by the watcher's own monotonic
clock means that it may be taken over. No two machines' clocks are ever compared, and nothing is decided from a listing. Records
are never deleted, for a number that came free could be taken twice. See infra/decisions/0028-lease.md.
"""

import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinywave_core.errors import DamagedArtifactError, StoreBusyError, StoreError

if TYPE_CHECKING:
    from tinywave_core.storage.store import Store

FOLDER = ".lease"  # hidden: a source may lie around the store
_ENDED = b"ended"


@dataclass(frozen=True)
class Pace:
    """How often a holder gives a sign of life, how long it may be silent, and the clock of the watcher."""

    beat_s: float = 2.0
    # A PUT to S3 may take its minute (decision 14): a shorter term would cost a living run its lease.
    term_s: float = 60.0
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Lease:
    """The right to write to a store; `number` shuts out all earlier holders."""

    store: "Store"
    number: int
    flock: int | None
    beats: int = 0

    def beat(self) -> None:
        """Give a sign of life; StoreError when another run has taken over."""
        check(self.store, self.number)
        self.beats += 1
        self.store.replace(_name(self.number, "beat"), b"%d" % self.beats)

    # Without it the next run would have to watch for a whole term.
    def end(self) -> None:
        """End the lease, so that the next run starts at once; if the network fails it waits for one term."""
        with contextlib.suppress(StoreError, OSError):
            check(self.store, self.number)
            self.store.replace(_name(self.number, "beat"), _ENDED)
        if self.flock is not None:
            os.close(self.flock)
            self.flock = None


@contextlib.contextmanager
def keep_alive(lease: Lease, pace: Pace) -> Iterator[None]:
    """Give signs of life from a thread, and end the lease at the end."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(pace.beat_s):
            # A sign that fails is missed by nobody but who watches; each write finds out for itself who has the store.
            with contextlib.suppress(Exception):
                lease.beat()

    # Daemon: a run that ends by an exception elsewhere must not hang on its sign of life.
    thread = threading.Thread(target=beat, daemon=True, name="tinywave lease")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(pace.beat_s)
        lease.end()


def take(store: "Store", holder: str, pace: Pace) -> Lease:
    """The lease with the next number; StoreBusyError, which names the holder, while one lives."""
    while True:
        newest = _newest(store)
        if newest and not _is_over(store, newest, pace):
            continue
        number = newest + 1
        # Before the record: whoever sees the record finds the lock held, or knows that its process is gone.
        flock = _flock(store, number)
        record = {"flock": flock is not None, "holder": holder, "host": socket.gethostname(), "term_s": pace.term_s}
        try:
            store.create_record(_name(number, "json"), record)
        except FileExistsError:  # another was faster
            if flock is not None:
                os.close(flock)
            continue
        lease = Lease(store, number, flock)
        # A first sign at once: whoever watches next has something to compare with.
        lease.beat()
        _sweep(store, newest)
        return lease


def check(store: "Store", number: int) -> None:
    """StoreError if the lease of this number was taken over."""
    # By name and not by a listing: object stores list late, and the next number is enough to be fenced off.
    later = _record(store, number + 1)
    if later is not None:
        raise StoreError(
            f"{store.url} was taken over by {_holder(later)}, since this run (lease {number}) gave no sign of life for "
            f"{_record_term(later):g} s: it was stopped, or could not reach the store. Nothing of it is written any more: "
            "wait for the other run to end, and run again; finished work is kept"
        )


def _is_over(store: "Store", number: int, pace: Pace) -> bool:
    """Whether the lease may be taken over: True after a term of silence, False if another took it over; StoreBusyError at a sign of life."""
    record = _record(store, number) or {}
    first = _beat(store, number)
    # The usual cases, a run that ended or was killed here, must not cost the next run a minute.
    if first == _ENDED or _died_here(store, number, record):
        return True
    watch_started, term_s, has_warned = pace.now(), _record_term(record, pace.term_s), False
    while True:
        pace.sleep(pace.beat_s / 4)
        # A monotonic clock of one machine: setting the time, or another machine's clock, cannot end a lease.
        silent_s = pace.now() - watch_started  # before the look: a watcher that was stopped looks once more
        beat = _beat(store, number)
        if beat == _ENDED:
            return True
        # Somebody else took over meanwhile: there is a newer lease to watch.
        if _record(store, number + 1) is not None:
            return False
        if beat != first:
            raise StoreBusyError(
                f"the store {store.url} is in use by {_holder(record)}; two runs on one store at a time would do the same "
                "work twice: wait for it to end, or pass another --root"
            )
        if silent_s >= term_s:
            return True
        if silent_s > 3 * pace.beat_s and not has_warned:
            has_warned = True
            logging.getLogger(__name__).warning(
                "the store %s is held by %s, which gives no sign of life; this run goes on if there is none for %g s",
                store.url,
                _holder(record),
                term_s,
            )


def _newest(store: "Store") -> int:
    """The greatest number, 0 without one: the records have no gap, so it is found by doubling and halving."""
    # Records are never deleted, so a store has one for every run it ever had: counting up would be a request for each.
    above = 1
    while _record(store, above) is not None:
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (above + below) // 2
        if _record(store, middle) is None:
            above = middle
        else:
            below = middle
    return below


def _record(store: "Store", number: int) -> dict[str, Any] | None:
    """The record of a lease; empty for a damaged one, which counts all the same; None where there is none."""
    try:
        return store.read_record(_name(number, "json"))
    except FileNotFoundError:
        return None
    except DamagedArtifactError:
        # A flipped bit in a lease must not let two runs in: the number is taken, whoever had it.
        return {}


def _holder(record: dict[str, Any]) -> str:
    return str(record.get("holder", "another process"))


def _record_term(record: dict[str, Any], default: float = Pace.term_s) -> float:
    return float(record.get("term_s", default))


def _beat(store: "Store", number: int) -> bytes:
    try:
        return store.read(_name(number, "beat"))
    except FileNotFoundError:
        return b""


def _sweep(store: "Store", number: int) -> None:
    """Delete signs and locks of ended leases, from the newest down to the first that has none."""
    # Only signs and locks go; a record that went would free its number for a process that slept (decision 28).
    while number and _beat(store, number):
        store.delete(_name(number, "beat"))
        _lock_file(store, number).unlink(missing_ok=True)
        number -= 1


def _name(number: int, kind: str) -> str:
    return f"{FOLDER}/{number:06d}.{kind}"


# On the holder's own machine: the kernel knows at once whether its process is there -------------------------------


def _lock_file(store: "Store", number: int) -> Path:
    return Path(store.root, _name(number, "lock")) if store.local else store.scratch(FOLDER) / f"{number:06d}.lock"


def _flock(store: "Store", number: int) -> int | None:
    """A lock that ends with this process, taken before the record is there; None where another process tries as well."""
    path = _lock_file(store, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # The kernel frees it however the process ends, kill -9 included.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _died_here(store: "Store", number: int, record: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is gone: a stopped one still has its lock."""
    # A flock says nothing across machines: network filesystems may grant it to each of them.
    if not record.get("flock") or record.get("host") != socket.gethostname():
        return False
    try:
        with _lock_file(store, number).open(encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or no such file: another container's
        return False
    return True

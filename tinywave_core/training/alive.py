"""Signs of life between the machines of one training: one that falls silent (its power, the network) is known by name, and in a stated time.

Collectives do not tell: a connection to a machine without power stays open, and its partners would wait for the timeout of a collective
(launch.py), in which the reading of inputs must fit. So one process of each machine counts up its number in torchrun's store on the first
machine, and looks whether the numbers of the others change. Two threads do it, since a call to a store whose machine is gone does not
return. Looks are counted and no clock is read: a machine that was stopped for a while blames no other one.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch.distributed as dist

LOOKS = 6
"""In a row without a change, after which a machine counts as lost; a machine gives a sign as often as it looks."""
_ENDED = 1 << 40  # a number that counts mean nothing above: this machine is done, and others may still be writing


class Signs:
    """What one machine knows of the others."""

    def __init__(self, store: dist.Store, machine: int, machines: int) -> None:
        self._store, self._machine = store, machine
        self._others = [other for other in range(machines) if other != machine]
        self._counts = dict.fromkeys(self._others, -1)  # as the store said last
        self._looked_at, self._silent = dict(self._counts), dict.fromkeys(self._others, 0)
        store.set(f"name/{machine}", socket.gethostname())

    def beat(self) -> None:
        """Give a sign of life and fetch those of the others; does not return while the first machine is silent."""
        self._store.add(f"beats/{self._machine}", 1)
        for other in self._others:
            self._counts[other] = self._store.add(f"beats/{other}", 0)

    def look(self) -> int | None:
        """A machine that was silent for LOOKS looks; where the store is silent, the first one, which has it."""
        for other in self._others:
            count = self._counts[other]
            is_silent = count == self._looked_at[other] and count < _ENDED
            self._silent[other] = self._silent[other] + 1 if is_silent else 0
            self._looked_at[other] = count
        return next((other for other in self._others if self._silent[other] >= LOOKS), None)

    def name_of(self, machine: int) -> str:
        """For people; the first machine is asked for no name, since it has the store."""
        key = f"name/{machine}"
        known = machine > 0 and self._store.check([key])
        return f"machine {machine} ({self._store.get(key).decode()})" if known else f"machine {machine}"

    def end(self) -> None:
        """Nothing is to be expected of this machine any more."""
        self._store.add(f"beats/{self._machine}", _ENDED)


@contextlib.contextmanager
def watching(timeout_s: float, give_up: Callable[[str], None]) -> Iterator[None]:
    """In a process of torchrun: watch over the other machines, and call `give_up` from a thread with what is to be told of a lost one."""
    machines = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    if machines == 1 or os.environ["LOCAL_RANK"] != "0":
        yield
        return
    # A connection of its own: that of the process group is held by whoever waits.
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))
    signs = Signs(dist.PrefixStore("alive", store), int(os.environ["GROUP_RANK"]), machines)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(timeout_s / LOOKS):
            with contextlib.suppress(RuntimeError):  # no sign of the first machine: its number does not change
                signs.beat()
        # However it ends: a process that can say so is no silent machine, and another one may still be writing.
        with contextlib.suppress(RuntimeError):
            signs.end()

    def look() -> None:
        while not done.wait(timeout_s / LOOKS):
            if (lost := signs.look()) is not None:
                give_up(told(signs.name_of(lost), timeout_s))
                return

    signs.beat()
    beats, looks = (
        threading.Thread(target=work, name=f"machines: {work.__name__}", daemon=True) for work in (beat, look)
    )
    beats.start()
    looks.start()
    try:
        yield
    finally:
        done.set()
        beats.join(timeout_s)


def told(machine: str, timeout_s: float) -> str:
    """What a person is to know of a lost machine."""
    return (
        f"{machine} gave no sign of life for {timeout_s:g} s: it lost its power or its network, or it hangs. The other machines have "
        "ended the training, and nothing is lost but the steps since the last checkpoint: start tinywave_core.training.join there "
        "again, or lower --runtime.training_nodes, and run the same command"
    )

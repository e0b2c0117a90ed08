"""Machines that watch over one another, over a real store of torch.distributed; looks are counted, so nothing here waits for a clock."""

import socket
import threading
from datetime import timedelta
from itertools import product

import pytest
import torch.distributed as dist

from tinywave_core.training.alive import LOOKS, Signs, watching


@pytest.fixture
def first() -> dist.TCPStore:
    """The store of the first machine."""
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))


def joined(first: dist.TCPStore) -> dist.TCPStore:
    return dist.TCPStore(
        "127.0.0.1", first.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=60)
    )


def test_the_machine_that_falls_silent_is_named_by_all_others_and_by_no_look_earlier(first: dist.TCPStore):
    signs = [Signs(joined(first), machine, 3) for machine in range(3)]
    for _, each in product(range(2 * LOOKS), signs):
        each.beat()
        assert each.look() is None
    found: dict[int, list[int | None]] = {0: [], 2: []}
    for _, machine in product(range(LOOKS + 1), found):
        signs[machine].beat()
        found[machine].append(signs[machine].look())
    # Machine 0 had its last look before machine 1 gave its last sign.
    assert found == {0: [None] * LOOKS + [1], 2: [None] * (LOOKS - 1) + [1, 1]}
    assert signs[0].name_of(1) == f"machine 1 ({socket.gethostname()})"


def test_a_machine_that_comes_back_is_not_lost(first: dist.TCPStore):
    one, other = (Signs(joined(first), machine, 2) for machine in range(2))
    for number in range(3 * LOOKS):
        if number % (LOOKS - 1) == 0:
            other.beat()
        one.beat()
        assert one.look() is None


def test_where_the_store_is_silent_the_first_machine_is_lost(first: dist.TCPStore):
    """Machine 2 gives no sign that could be seen either."""
    signs = Signs(joined(first), 1, 3)
    signs.beat()
    found = [signs.look() for _ in range(LOOKS + 1)]  # no beat comes back
    assert found == [None] * LOOKS + [0]
    assert signs.name_of(0) == "machine 0"


def test_a_machine_that_has_ended_is_not_lost(first: dist.TCPStore):
    one, other = (Signs(joined(first), machine, 2) for machine in range(2))
    other.beat()
    other.end()
    for _ in range(2 * LOOKS):
        one.beat()
        assert one.look() is None


@pytest.fixture
def second_of_two(first: dist.TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun tells a process where it is."""
    about = {"GROUP_WORLD_SIZE": "2", "GROUP_RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (about | {"MASTER_PORT": str(first.port)}).items():
        monkeypatch.setenv(name, value)


def watched() -> str:
    """What a process is told of a lost machine, as soon as it is."""
    given_up, words = threading.Event(), list[str]()
    with watching(0.1, lambda text: (words.append(text), given_up.set())):
        assert given_up.wait(60)
    return words[0]


@pytest.mark.usefixtures("second_of_two")
def test_a_process_gives_up_with_words_that_name_the_machine():
    assert watched().startswith("machine 0 gave no sign of life for 0.1 s")


@pytest.mark.usefixtures("second_of_two")
def test_a_process_whose_store_is_gone_gives_up_too(first: dist.TCPStore, monkeypatch: pytest.MonkeyPatch):
    beat = Signs.beat

    def gone(self: Signs) -> None:
        beat(self)
        monkeypatch.setattr(Signs, "beat", lambda _: (_ for _ in ()).throw(dist.DistNetworkError("reset")))

    monkeypatch.setattr(Signs, "beat", gone)
    assert watched().startswith("machine 0 gave no sign")


@pytest.mark.usefixtures("second_of_two")
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_process_that_ends_says_so_whatever_ends_it(first: dist.TCPStore, error: type[BaseException] | None):
    try:
        with watching(60, pytest.fail):
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert dist.PrefixStore("alive", first).add("beats/1", 0) > 1 << 40


def test_one_process_of_one_machine_watches_over_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GROUP_WORLD_SIZE", raising=False)
    before = threading.active_count()
    with watching(0.1, pytest.fail):
        assert threading.active_count() == before

"""The lease: one holder at a time, taken over after a term of silence, and who was taken for dead writes nothing."""

import pickle
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier

import pytest

from tests.fixtures.faults import flip
from tests.fixtures.small_artifact import commit, write_files
from tests.fixtures.summaries import Anything
from tinywave_core.config.export import ExportConfig
from tinywave_core.errors import StoreBusyError, StoreError
from tinywave_core.steps.base import Step, compute
from tinywave_core.storage.lease import Lease, Pace, take
from tinywave_core.storage.store import Store

BEAT_S, TERM_S = 2.0, 60.0


@dataclass
class Clock:
    """A watcher's clock, which only its waiting moves; `meanwhile` happens in each wait."""

    meanwhile: Callable[[], object] = lambda: None
    seconds: float = field(default=0.0, init=False)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.meanwhile()

    @property
    def pace(self) -> Pace:
        return Pace(BEAT_S, TERM_S, now=lambda: self.seconds, sleep=self.sleep)


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}"


@pytest.fixture
def first(url: str) -> Lease:
    """A holder that is as good as stopped: it never beats unless a test says so."""
    return take(Store(url), "the first run", Clock().pace)


def under(url: str, number: int) -> Store:
    """The store as a process has it that holds this lease."""
    store = Store(url)
    store.inherit(number)
    return store


def test_a_lease_that_ended_is_taken_at_once(url: str, first: Lease):
    first.end()
    clock = Clock()
    assert (first.number, take(Store(url), "the second run", clock.pace).number) == (1, 2)
    assert clock.seconds == 0


def test_a_holder_is_taken_over_after_one_term_without_a_sign_and_not_before(
    url: str, first: Lease, caplog: pytest.LogCaptureFixture
):
    clock = Clock()
    second = take(Store(url), "the second run", clock.pace)
    assert second.number == 2 and clock.seconds == TERM_S
    assert "held by the first run, which gives no sign of life" in caplog.text


def test_a_holder_that_lives_is_named_and_not_taken_over(url: str, first: Lease):
    clock = Clock()
    clock.meanwhile = lambda: clock.seconds >= 50 and first.beat()
    with pytest.raises(StoreBusyError, match=r"in use by the first run; .*pass another --root"):
        take(Store(url), "the second run", clock.pace)
    assert clock.seconds == 50
    under(url, first.number).create("name", b"the holder goes on")


def test_a_watcher_that_was_stopped_for_an_hour_looks_once_more_before_it_takes_over(url: str, first: Lease):
    clock = Clock()

    def an_hour_later() -> None:
        clock.seconds += 3600
        first.beat()

    clock.meanwhile = an_hour_later
    with pytest.raises(StoreBusyError):
        take(Store(url), "the second run", clock.pace)


def test_a_damaged_record_of_a_lease_counts_as_a_holder(url: str, first: Lease):
    flip(first.store, ".lease/000001.json", 30)
    clock = Clock(first.beat)
    with pytest.raises(StoreBusyError, match="another process"):
        take(Store(url), "the second run", clock.pace)
    clock.meanwhile = lambda: None
    assert take(Store(url), "the second run", clock.pace).number == 2


def test_numbers_only_rise_and_what_is_over_leaves_its_record_alone(url: str):
    store = Store(url)
    for number in range(1, 12):
        lease = take(store, "a run", Clock().pace)
        assert lease.number == number
        lease.end()
    left = {path.rpartition("/")[2] for path in store.filesystem.find(f"{store.root}/.lease")}
    assert {name for name in left if name.endswith(".json")} == {f"{n:06d}.json" for n in range(1, 12)}
    assert left - {"000011.beat", "000011.lock"} == {f"{n:06d}.json" for n in range(1, 12)}


WRITES: dict[str, Callable[[Store, Path], object]] = {
    "create": lambda store, _: store.create("new", b""),
    "record": lambda store, _: store.create_record("new.json", {"n": 1}),
    "append": lambda store, _: store.log("runs").append({"n": 2}),
    "replace": lambda store, _: store.replace("old", b"late"),
    "delete": lambda store, _: store.delete("old"),
    "set_aside": lambda store, _: store.set_aside("old"),
    "commit": lambda store, folder: commit(store, write_files(folder)),
}


@pytest.mark.parametrize("write", WRITES)
def test_who_was_taken_for_dead_writes_nothing(url: str, first: Lease, tmp_path: Path, write: str):
    Store(url).create("old", b"as it was")
    Store(url).log("runs").append({"n": 1})
    second = take(Store(url), "the second run", Clock().pace)
    before = contents(url)
    late = under(url, first.number)
    with pytest.raises(StoreError, match=r"taken over by the second run, .*\(lease 1\) .* 60 s.*run again"):
        WRITES[write](late, tmp_path / "output")
    assert contents(url) == before
    WRITES[write](under(url, second.number), tmp_path / "output")
    assert contents(url) != before


def contents(url: str) -> dict[str, bytes]:
    store = Store(url)
    return {path: store.filesystem.cat_file(path) for path in store.filesystem.find(store.root)}


def test_the_first_holder_gives_no_further_signs(url: str, first: Lease):
    second = take(Store(url), "the second run", Clock().pace)
    with pytest.raises(StoreError, match="taken over by the second run"):
        first.beat()
    first.end()
    under(url, second.number).create("name", b"")
    with pytest.raises(StoreBusyError, match="in use by the second run"):
        take(Store(url), "the third run", Clock(second.beat).pace)


def test_a_step_that_ends_after_another_run_took_over_is_not_committed(url: str, first: Lease, tmp_path: Path):
    """Nor does it write where the other is about to commit from."""

    def run(step: Step, output: object) -> Anything:
        number = step.store.lease_number
        if number == 1:
            second = take(Store(url), "the second run", Clock().pace)
            made.append(compute(step_of(under(url, second.number))))
        (output.folder / "who").write_text(f"lease {number}")  # type: ignore[attr-defined]
        return Anything()

    def step_of(store: Store) -> Step:
        return Step(store, "export", "model", 1, run, ExportConfig())

    made: list[object] = []
    with pytest.raises(StoreError, match="taken over by the second run"):
        compute(step_of(under(url, 1)))
    assert Store(url).find(step_of(Store(url)).id).path("who").read_text() == "lease 2"


def test_workers_write_under_the_lease_of_their_run(url: str):
    store = Store(url)
    with store.lock("tinywave pipeline"):
        sent = pickle.dumps(store)
        assert Store(url).lease_number == 1
    assert Store(url).lease_number is None
    assert pickle.loads(sent).lease_number == 1


def test_of_five_who_contend_each_has_a_number_of_its_own_and_only_the_last_may_write(url: str):
    """Clocks run so fast that nobody beats in time, and each in turn is taken over by the next."""
    barrier = Barrier(5)

    def contend(number: int) -> int:
        barrier.wait()
        while True:
            with suppress(StoreError):  # the first sign of another was seen: try again
                return take(Store(url), f"run {number}", Clock().pace).number

    with ThreadPoolExecutor(5) as pool:
        *before, last = sorted(pool.map(contend, range(5)))
    assert len({*before, last}) == 5
    for number in before:
        with pytest.raises(StoreError, match="taken over"):
            under(url, number).create("name", b"late")
    under(url, last).create("name", b"in time")


def test_a_holder_that_was_stopped_goes_on_into_a_refusal(tmp_path: Path):
    """SIGSTOP, a real clock and a short term: the kernel still has its lock, and its machine has not noticed anything."""
    program = textwrap.dedent(f"""
        from tinywave_core.errors import StoreError
        from tinywave_core.storage.lease import Pace
        from tinywave_core.storage.store import Store
        store = Store({str(tmp_path)!r})
        with store.lock("tinywave pipeline", Pace(0.05, 0.5)):
            store.create("one", b"in time")
            print("locked", flush=True)
            input()
            try:
                store.create("two", b"late")
            except StoreError as error:
                print(error, flush=True)
    """)
    store, pace = Store(str(tmp_path)), Pace(0.05, 0.5)
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        try:
            assert holder.stdout.readline() == "locked\n"
            with pytest.raises(StoreBusyError, match=f"process {holder.pid}"), store.lock("too early", pace):
                pass
            holder.send_signal(signal.SIGSTOP)
            with store.lock("tinywave gc", pace):
                holder.send_signal(signal.SIGCONT)
                said = holder.communicate("\n")[0]
                assert re.search(r"taken over by tinywave gc \(process \d+ .*lease 1\) .* 0\.5 s", said)
                store.create("two", b"of the second run")
        finally:
            holder.kill()
    assert store.read("two") == b"of the second run"

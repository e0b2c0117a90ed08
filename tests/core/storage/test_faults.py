"""Writers at once, listings that lag, clocks that jump: what is in the store is the same as without."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, Lock
from typing import Any
from unittest.mock import patch

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.fixtures.faults import WallClock, lagging_listings
from tests.fixtures.small_artifact import commit, write_files
from tests.fixtures.summaries import Anything
from tinywave_core.config.export import ExportConfig
from tinywave_core.errors import DamagedArtifactError
from tinywave_core.steps.base import Output, Step, compute
from tinywave_core.storage.care.census import take_census
from tinywave_core.storage.care.collect import collect, find_garbage
from tinywave_core.storage.care.repair import repair
from tinywave_core.storage.care.verify import verify
from tinywave_core.storage.lease import Pace, take
from tinywave_core.storage.store import Artifact, Log, Store, utc_now

WALL = time.time()
SHARDS = [f"ingestion/{n:032x}" for n in range(6)]


def write_name(step: Step, output: Output) -> Anything:
    (output.folder / "name").write_text(step.params["name"])
    return Anything()


def made(store: Store, name: str, *inputs: Artifact) -> Artifact:
    config, params = ExportConfig(), {"name": name}
    return compute(Step(store, "export", "model", 1, write_name, config, {"from": list(inputs)}, params))


def pin(artifact: Artifact) -> dict[str, Any]:
    return {"artifact": artifact.id, "inputs": {}, "hours": 1.0, "pinned_at": ""}


def appended(log: Log, record: dict[str, Any]) -> int:
    while True:
        with suppress(FileExistsError):
            return log.append(record)


@pytest.mark.parametrize("url", ["{}/store", "memory://five-writers"])
def test_five_writers_commit_each_shard_once_and_number_their_records_without_a_gap(url: str, tmp_path: Path):
    """Nothing but conditional creates keeps them apart."""
    url, barrier, created = url.format(tmp_path), Barrier(5), list[str]()
    create_record, pipe_file, alone = Store.create_record, MemoryFileSystem.pipe_file, Lock()

    def counted(store: Store, name: str, content: Any) -> None:
        create_record(store, name, content)
        created.append(name)

    def piped(*args: Any, **more: Any) -> None:
        """One at a time, as on a disk and on S3: fsspec's own looks, and others may come before it creates."""
        with alone:
            pipe_file(*args, **more)

    def placed(filesystem: MemoryFileSystem, source: str, target: str) -> None:
        """Whole at once, as on a disk and on S3: fsspec's own shows an empty file first."""
        filesystem.pipe_file(target, Path(source).read_bytes())

    def write(writer: int) -> list[int]:
        store, log, numbers = Store(url), Store(url).log("runs"), list[int]()
        barrier.wait()
        for shard in SHARDS:
            assert commit(store, write_files(tmp_path / f"{writer}" / shard), artifact_id=shard).complete
            numbers.append(appended(log, {"writer": writer, "shard": shard}))
        return numbers

    Store(url)
    memory = patch.multiple(MemoryFileSystem, put_file=placed, pipe_file=piped)
    with patch.object(Store, "create_record", counted), memory, ThreadPoolExecutor(5) as pool:
        numbers = [number for each in pool.map(write, range(5)) for number in each]
    assert sorted(numbers) == list(range(1, 31))
    assert sorted(name for name in created if "manifest" in name) == [f"{shard}/manifest.json" for shard in SHARDS]
    records = Store(url).log("runs").records()
    assert {(r["writer"], r["shard"]) for r in records} == {(w, shard) for w in range(5) for shard in SHARDS}
    assert all(Store(url).find(shard).path("data/hello.txt").read_text() == "hello" for shard in SHARDS)


def live_with_lagging_listings(store: Store) -> None:
    """Every listing is three listings old: at first it shows nothing, then older pins than there are."""
    base = made(store, "base")
    store.log("pins/x").append(pin(base))
    with lagging_listings(store, 3):
        for number in range(4):
            pinned = made(store, f"pinned {number}", base)
            store.log("pins/x").append(pin(pinned))
            census = take_census(store)
            found = verify(census)
            assert not [finding for finding in found if not finding.harmless]
            repair(census, found, WALL + 86_400 * 60)
            census = take_census(store)
            collect(census, find_garbage(census, 0, 0.0, WALL + 86_400 * 60))
            assert store.find(pinned.id).complete and store.find(base.id).complete
            assert all(artifact.complete for artifact in store.find_all([pinned.id, base.id] * 3))
    assert [record["artifact"] for record in store.log("pins/x").records()][-1] == pinned.id


def lose_what_a_listing_still_shows(store: Store) -> None:
    """A file is gone, the listing of before has it: nothing is made from what the listing says, and the next look knows."""
    base = made(store, "base")
    with lagging_listings(store, 1):
        assert all(artifact.complete for artifact in store.find_all([base.id] * 4))
        store.delete(f"{base.id}/name")
        for taken in store.find_all([base.id] * 4):
            if taken.complete:
                with pytest.raises(DamagedArtifactError, match=r"/name is gone from .*run its stage again"):
                    taken.path("name")
        assert not store.find(base.id).complete
        assert made(store, "base").path("name").read_text() == "base"


@pytest.mark.parametrize("url", ["{}/store", "memory://lagging"])
def test_what_a_lagging_listing_hides_is_neither_collected_nor_moved_away_nor_made_again(url: str, tmp_path: Path):
    live_with_lagging_listings(Store(url.format(tmp_path)))


@pytest.mark.parametrize("url", ["{}/store", "memory://lagging-behind"])
def test_what_a_lagging_listing_still_shows_is_never_read(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # else a copy of the last run would do
    lose_what_a_listing_still_shows(Store(url.format(tmp_path)))


@pytest.mark.parametrize("url", ["{}/store", "memory://jumping"])
def test_a_clock_that_jumps_changes_neither_order_nor_terms_nor_what_is_collected(url: str, tmp_path: Path):
    """400 days back and an hour forward, between any two steps."""
    store, wall, waited = Store(url.format(tmp_path)), WallClock(), list[float]()
    results = list[Artifact]()
    with wall.shown():
        for number in range(6):
            wall.jump()
            results.append(made(store, f"result {number}"))
            wall.jump()
            run = {"number": number, "outputs": {"model": results[-1].id}, "finished_at": utc_now()}
            store.log("runs").append(run)
        take(store, "a run that is stopped", Pace())
        waiter = Pace(now=lambda: sum(waited), sleep=lambda seconds: (waited.append(seconds), wall.jump())[0])
        assert take(store, "the next run", waiter).number == 2
        assert sum(waited) == waiter.term_s
        aside = {store.set_aside(made(store, "aside").id) for _ in range(3)}
        assert len(aside) == 3
        assert [record["number"] for record in store.log("runs").records()] == [0, 1, 2, 3, 4, 5]
        census = take_census(store)
        assert not find_garbage(census, 0, 3600.0, WALL - 86_400 * 9000).artifacts
        collect(census, find_garbage(census, 2, 0.0, WALL + 86_400 * 900))
    assert [artifact.id for artifact in results if store.find(artifact.id).complete] == [a.id for a in results[-2:]]

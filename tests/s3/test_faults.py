"""A store behind an S3 server that fails: every call ends, what is written is whole or absent, and errors are clear."""

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from tests.fixtures.fault_proxy import ALWAYS, FaultProxy
from tests.fixtures.small_artifact import ID, SMALLEST_PART, commit, write_files
from tinywave_core.audio.source import Source
from tinywave_core.errors import DamagedArtifactError, SourceError, StoreError
from tinywave_core.storage import s3 as deadlines
from tinywave_core.storage.care.census import take_census
from tinywave_core.storage.care.repair import repair
from tinywave_core.storage.care.verify import verify
from tinywave_core.storage.s3 import S3, Patience
from tinywave_core.storage.store import Store

PATIENCE = Patience(answer_s=1.0, slow_answer_s=1.0, bytes_per_s=50e6, tries=4, pause_s=0.01)


@pytest.fixture(scope="module")
def wire(s3: Any) -> Iterator[FaultProxy]:
    """What stands between the stores of this module and the server; `s3` goes past it."""
    proxy = FaultProxy(s3.meta.endpoint_url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        patch.setattr(S3, "patience", PATIENCE)
        patch.setitem(deadlines.OPTIONS["config_kwargs"], "read_timeout", 1)
        patch.setattr(deadlines, "PART_BYTES", SMALLEST_PART)
        yield proxy
        S3.clear_instance_cache()
    proxy.close()


@pytest.fixture
def proxy(wire: FaultProxy) -> Iterator[FaultProxy]:
    yield wire
    wire.reset()


@pytest.fixture
def store(proxy: FaultProxy, request: pytest.FixtureRequest) -> Store:
    return Store(f"s3://tiny-store/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}")


@pytest.fixture
def two_tries(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3, "patience", replace(PATIENCE, answer_s=0.4, slow_answer_s=0.4, tries=2))


CALLS: dict[str, tuple[str, Callable[[Store], object]]] = {
    "create": ("^PUT .*name", lambda store: store.create("name", b"one")),
    "replace": ("^PUT .*name", lambda store: store.replace("name", b"one")),
    "read": ("^GET .*store.json", lambda store: store.read("store.json")),
    "exists": ("^HEAD ", lambda store: store.exists("store.json")),
    "list": ("^GET .*list-type", lambda store: store.artifact_ids()),
    "remove": ("^(POST|DELETE) ", lambda store: store.discard("store.json")),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_to_a_server_that_accepts_and_stays_silent_ends_with_a_clear_error(
    proxy: FaultProxy, store: Store, call: str, two_tries: None
):
    requests, run = CALLS[call]
    proxy.add("mute", requests, ALWAYS)
    begun = time.monotonic()
    with pytest.raises(
        StoreError, match=r"s3://tiny-store.* failed 2 times in 1 s, .*no answer within 0\.4 s.*run again"
    ):
        run(store)
    assert time.monotonic() - begun < 3


def test_a_write_that_is_read_but_never_answered_succeeds_when_the_second_try_goes_through(
    proxy: FaultProxy, store: Store
):
    proxy.add("stall", "^PUT .*report")
    store.replace("report.html", b"whole")
    assert store.read("report.html") == b"whole"
    assert proxy.count("PUT .*report.* -> ") == 2


def test_a_large_upload_goes_on_after_a_part_and_its_completion_met_silence(
    proxy: FaultProxy, store: Store, tmp_path: Path, s3: Any
):
    proxy.add("mute", "^PUT .*partNumber=2")
    proxy.add("stall", r"^POST .*large\.bin\?uploadId")
    artifact = commit(store, write_files(tmp_path, size=3 * SMALLEST_PART))
    assert artifact.path("large.bin").stat().st_size == 3 * SMALLEST_PART
    assert not s3.list_multipart_uploads(Bucket="tiny-store").get("Uploads")


def test_deadlines_grow_with_the_bytes():
    patience = Patience()
    assert patience.deadline_s("head_object", 0) == 60
    assert patience.deadline_s("put_object", 25_000_000) == 310
    assert patience.deadline_s("complete_multipart_upload", 0) == 600


@pytest.mark.parametrize("kind", ["busy", "reset"])
def test_three_faults_in_a_row_are_waited_out(proxy: FaultProxy, store: Store, tmp_path: Path, kind: str):
    proxy.add(kind, "^PUT .*hello.txt", 3)
    proxy.add(kind, "^PUT .*manifest.json", 3)
    assert commit(store, write_files(tmp_path)).path("data/hello.txt").read_text() == "hello"
    assert proxy.count(f"-> {kind}") == 6


def test_a_server_that_is_always_busy_is_said_with_where_and_how_often(proxy: FaultProxy, store: Store):
    proxy.add("busy", "^PUT .*name", ALWAYS)
    with pytest.raises(StoreError, match=rf"/name: put_object of 3 bytes failed 4 times .*try again.*{proxy.url}"):
        store.create("name", b"one")
    assert proxy.count("PUT .*name") == 4


def test_a_refusal_is_not_tried_again(proxy: FaultProxy, store: Store):
    store.create("name", b"one")
    with pytest.raises(FileExistsError):
        store.create("name", b"two")
    assert proxy.count("PUT .*name") == 2


@pytest.mark.parametrize("size", [3, 2 * SMALLEST_PART])
def test_a_create_whose_answer_was_lost_knows_its_own_write(proxy: FaultProxy, store: Store, size: int):
    """The second try finds the object of the first: small in one request, large in several."""
    proxy.add("lose", r"^(PUT .*name$|PUT .*name\?x-id|POST .*name\?uploadId)")
    store.create("name", b"x" * size)
    assert proxy.count("-> lose") == 1
    assert store.read("name") == b"x" * size


@pytest.mark.parametrize("size", [3, 2 * SMALLEST_PART])
def test_a_create_whose_first_try_failed_does_not_take_another_writers_object_for_its_own(
    proxy: FaultProxy, store: Store, s3: Any, size: int
):
    proxy.add("busy", r"^(PUT .*name$|PUT .*name\?x-id|POST .*name\?uploadId)")
    s3.put_object(Bucket="tiny-store", Key=f"{store.root.partition('/')[2]}/name", Body=b"y" * size)
    with pytest.raises(FileExistsError):
        store.create("name", b"x" * size)
    assert store.read("name") == b"y" * size


@pytest.mark.parametrize("kind", ["cut", "hold"])
def test_a_body_that_breaks_off_is_read_on(proxy: FaultProxy, store: Store, tmp_path: Path, kind: str):
    artifact = commit(store, write_files(tmp_path, "hello " * 1000))
    proxy.add(kind, "^GET .*hello.txt")
    assert artifact.path("data/hello.txt").read_text() == "hello " * 1000
    assert proxy.count(f"-> {kind}") == 1


def test_a_body_that_always_breaks_off_ends_with_a_clear_error(proxy: FaultProxy, store: Store):
    store.create("name", b"hello " * 1000)
    proxy.add("cut", "^GET .*name", ALWAYS)
    with pytest.raises(StoreError, match=r"/name breaks off while it is read .*check the network"):
        store.read("name")


def test_a_short_body_that_looks_whole_is_noticed_by_its_digest(proxy: FaultProxy, store: Store, tmp_path: Path):
    artifact = commit(store, write_files(tmp_path))
    proxy.add("shorten", "^GET .*hello.txt")
    with pytest.raises(DamagedArtifactError, match=r"it has 2 bytes and .*its manifest says 5"):
        artifact.path("data/hello.txt")
    assert artifact.path("data/hello.txt").read_text() == "hello"


def test_a_short_manifest_that_looks_whole_is_no_manifest(proxy: FaultProxy, store: Store, tmp_path: Path):
    commit(store, write_files(tmp_path))
    proxy.add("shorten", "^GET .*manifest.json")
    with pytest.raises(DamagedArtifactError, match=r"manifest\.json is damaged: it does not end with its digest"):
        store.find(ID)
    assert store.find(ID).complete


def test_repair_moves_nothing_when_the_server_falls_silent(
    proxy: FaultProxy, store: Store, tmp_path: Path, two_tries: None
):
    """An error of the network is no damage."""
    commit(store, write_files(tmp_path))
    proxy.add("mute", "^GET .*manifest.json", ALWAYS)
    with pytest.raises(StoreError, match="no answer within"):
        take_census(store)


def test_a_silent_source_is_said_in_one_line(proxy: FaultProxy, s3: Any, two_tries: None):
    s3.put_object(Bucket="tiny-speech", Key="silent/a.wav", Body=b"RIFF")
    proxy.add("mute", "^GET .*list-type", ALWAYS)
    with pytest.raises(SourceError, match=r"--source s3://tiny-speech/silent cannot be read: .*no answer within"):
        Source("s3://tiny-speech/silent").listing()


def test_many_writers_of_one_name_have_exactly_one_winner(proxy: FaultProxy, store: Store):
    barrier = Barrier(6)

    def write(number: int) -> int | None:
        barrier.wait()
        try:
            store.create("name", b"%d" % number)
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(6) as pool:
        (winner,) = [number for number in pool.map(write, range(6)) if number is not None]
    assert store.read("name") == b"%d" % winner


class Slow(Store):
    """A store in which another run commits between this one's files and its manifest."""

    def overtaken_by(self, folder: Path) -> "Slow":
        self.other = folder
        return self

    def create(self, name: str, data: bytes) -> None:
        if name.endswith("manifest.json"):
            commit(Store(self.url), self.other, "2025-05-05T05:05:05Z")
        super().create(name, data)


def test_a_commit_that_another_run_overtook_with_the_same_bytes_is_fine(
    proxy: FaultProxy, store: Store, tmp_path: Path
):
    ours, theirs = write_files(tmp_path / "ours"), write_files(tmp_path / "theirs")
    artifact = commit(Slow(store.url).overtaken_by(theirs), ours)
    assert artifact.manifest is not None
    assert artifact.manifest.created_at == "2025-05-05T05:05:05Z"
    assert (proxy.count("PUT .*manifest.json.* -> 200"), proxy.count("PUT .*manifest.json.* -> 412")) == (1, 1)


def test_a_commit_that_another_run_overtook_with_other_bytes_names_both(
    proxy: FaultProxy, store: Store, tmp_path: Path
):
    ours, theirs = write_files(tmp_path / "ours"), write_files(tmp_path / "theirs", "hallo")
    with pytest.raises(
        StoreError,
        match=r"different bytes in data/hello\.txt: .*2025-05-05T05:05:05Z .*this one at 2026-01-01T00:00:00Z",
    ):
        commit(Slow(store.url).overtaken_by(theirs), ours)
    assert store.find(ID).path("data/hello.txt").read_text() == "hallo"
    assert verify(take_census(store)) != []  # the test's fingerprint is not that of its settings


def test_a_kill_in_an_upload_leaves_nothing_that_reads_as_whole_and_repair_sweeps_it(
    proxy: FaultProxy, store: Store, tmp_path: Path, s3: Any
):
    folder = write_files(tmp_path, size=3 * SMALLEST_PART)
    stalled = proxy.add("stall", "^PUT .*partNumber=3", ALWAYS)
    command = [sys.executable, "-m", "tests.fixtures.small_artifact", store.url, str(folder)]
    child = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    assert stalled.reached.wait(60)
    child.send_signal(signal.SIGKILL)
    child.wait()
    proxy.reset()
    assert not store.find(ID).complete
    assert not store.exists(f"{ID}/large.bin")
    (upload,) = s3.list_multipart_uploads(Bucket="tiny-store")["Uploads"]
    assert upload["Key"].endswith(f"{ID}/large.bin")
    census = take_census(store)
    begun = upload["Initiated"].timestamp()  # moto's are all of one day
    repair(census, [], now=begun + 23 * 3600)
    assert len(s3.list_multipart_uploads(Bucket="tiny-store")["Uploads"]) == 1  # perhaps of a run that goes on
    repair(census, [], now=begun + 25 * 3600)
    assert not s3.list_multipart_uploads(Bucket="tiny-store").get("Uploads")
    assert commit(store, folder).path("large.bin").stat().st_size == 3 * SMALLEST_PART

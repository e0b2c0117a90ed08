"""The store: whole or absent, checked on read, one winner, clear words when it cannot be used."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fixtures.summaries import Anything
from tinywave_core.config.export import ExportConfig
from tinywave_core.errors import DamagedArtifactError, SchemaVersionError, StoreBusyError, StoreError, StoreFullError
from tinywave_core.steps.base import Output, Step, compute
from tinywave_core.storage.records import seal, unseal
from tinywave_core.storage.store import NotYetComputedError, Store


def write_hello(step: Step, output: Output) -> Anything:
    (output.folder / "data").mkdir()
    (output.folder / "data" / "hello.txt").write_text("hello")
    return Anything(words=1)


def step_in(store: Store, run=write_hello, **params) -> Step:
    return Step(store, "export", "model", 1, run, ExportConfig(), params=params)


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path) -> Store:
    return Store(str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}")


def test_an_artifact_is_read_back_with_its_summary(store):
    artifact = compute(step_in(store))
    assert artifact.path("data/hello.txt").read_text() == "hello"
    assert artifact.summary == {"words": 1}


def test_a_second_computation_runs_nothing(store):
    compute(step_in(store))
    assert compute(step_in(store, run=lambda *_: pytest.fail("ran again"))).complete


def test_a_folder_without_a_manifest_does_not_exist(store):
    artifact = compute(step_in(store))
    store.filesystem.rm(f"{store.root}/{artifact.id}/manifest.json")
    assert not store.find(artifact.id).complete


def test_a_planned_artifact_has_no_summary_to_read(store):
    with pytest.raises(NotYetComputedError, match="run export first"):
        _ = step_in(store).find().summary


def test_a_lost_file_makes_the_artifact_absent_and_a_run_makes_it_again(store):
    artifact = compute(step_in(store))
    store.filesystem.rm(f"{store.root}/{artifact.id}/data/hello.txt")
    assert not store.find(artifact.id).complete
    assert compute(step_in(store)).path("data/hello.txt").read_text() == "hello"


def test_one_flipped_bit_is_found_on_read(tmp_path):
    artifact = compute(step_in(Store(str(tmp_path))))
    path = tmp_path / artifact.id / "data" / "hello.txt"
    path.write_bytes(b"hellm")
    with pytest.raises(DamagedArtifactError, match="is damaged.*tinywave repair --root"):
        artifact.path("data/hello.txt")


def test_files_are_created_once_only(store):
    store.create("catalog/a.json", b"first")
    with pytest.raises(FileExistsError):
        store.create("catalog/a.json", b"second")
    assert store.read("catalog/a.json") == b"first"


def test_threads_that_fetch_the_same_file_at_once_never_see_it_half_written(tmp_path, monkeypatch):
    store = Store(f"memory://{tmp_path}")  # copies of another session's folder may still lie on this machine
    shutil.rmtree(store.scratch("read"), ignore_errors=True)
    artifact = compute(step_in(store))
    both, fetch = threading.Barrier(2, timeout=20), store.filesystem.get_file
    alone = threading.Lock()  # files in memory have one place from which all threads read

    def begun_by_both(name: str, path: str) -> None:
        with open(path, "wb"):  # as a download does: there, and empty
            both.wait()
        with alone:
            fetch(name, path)
        both.wait()

    monkeypatch.setattr(store.filesystem, "get_file", begun_by_both)
    with ThreadPoolExecutor(2) as pool:
        read = [pool.submit(lambda: artifact.path("data/hello.txt").read_text()) for _ in range(2)]
        assert [each.result() for each in read] == ["hello", "hello"]


def test_a_log_numbers_its_records_and_refuses_a_late_writer(store):
    log, late = store.log("runs"), store.log("runs")
    assert (log.append({"n": 1}), log.append({"n": 2})) == (1, 2)
    assert late.latest() == {"n": 2}
    store.create_record("runs/000003.json", {"n": 3})
    with pytest.raises(FileExistsError):
        store.create("runs/000003.json", b"{}")
    assert [record["n"] for record in store.log("runs").records()] == [1, 2, 3]


def test_half_written_output_of_a_killed_run_is_not_adopted(tmp_path):
    store = Store(str(tmp_path))
    stale = store.work_folder(step_in(store).id) / "output"
    stale.mkdir(parents=True)
    (stale / "half.bin").write_bytes(b"rubbish")
    assert compute(step_in(store)).files == ["data/hello.txt"]


def test_resume_state_survives_a_failed_run_and_is_gone_after_a_good_one(tmp_path):
    store = Store(str(tmp_path))

    def fail_once(step, output):
        if (output.resume / "seen").exists():
            return write_hello(step, output)
        (output.resume / "seen").touch()
        raise RuntimeError("first time")

    with pytest.raises(RuntimeError):
        compute(step_in(store, run=fail_once))
    compute(step_in(store, run=fail_once))
    assert not store.work_folder(step_in(store).id).exists()


def test_a_store_of_a_newer_version_is_refused(tmp_path):
    Store(str(tmp_path))
    (tmp_path / "store.json").write_bytes(seal({"format": "tinywave-store", "version": 99}))
    with pytest.raises(SchemaVersionError, match="version 99.*reads up to 2.*update TinyWave"):
        Store(str(tmp_path))


def test_an_artifact_of_a_newer_version_is_refused(tmp_path):
    store = Store(str(tmp_path))
    artifact = compute(step_in(store))
    path = tmp_path / artifact.id / "manifest.json"
    path.write_bytes(seal({**unseal(path.read_bytes()), "store_version": 3}))
    with pytest.raises(SchemaVersionError, match="written with store version 3"):
        store.find(artifact.id)


def test_a_file_where_the_store_should_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="file"):
        Store(str(tmp_path / "file"))


def test_a_read_only_disk_is_said_in_one_line():
    with pytest.raises(StoreError, match="cannot be written.*pass another --root"):
        Store("/proc/tinywave-store")


def test_a_second_process_is_told_who_holds_the_store(tmp_path):
    store = Store(str(tmp_path))
    program = textwrap.dedent(f"""
        from tinywave_core.storage.store import Store
        with Store({str(tmp_path)!r}).lock("tinywave pipeline"):
            print("locked", flush=True)
            input()
    """)
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        with (
            pytest.raises(StoreBusyError, match=rf"in use by tinywave pipeline \(process {holder.pid}"),
            store.lock("x"),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with store.lock("the kernel frees the lock of a killed run"):
            pass
    finally:
        holder.kill()
        holder.communicate()


def test_a_full_disk_is_said_whatever_the_library_called_it(tmp_path):
    """A real file system of 2 MiB in a user namespace; where there are none, a limit on file sizes stands in."""
    program = textwrap.dedent("""
        import sys, torch
        from tinywave_core.config.export import ExportConfig
        from tinywave_core.errors import StoreFullError
        from tinywave_core.steps.base import Step, Summary, compute
        from tinywave_core.storage.store import Store

        def run(step, output):
            torch.save(torch.zeros(4_000_000), output.folder / "big.pt")  # says RuntimeError, not ENOSPC
            return Summary()

        try:
            compute(Step(Store(sys.argv[1]), "export", "model", 1, run, ExportConfig()))
        except StoreFullError as error:
            print("full:", error)
    """)
    namespace = "unshare --user --map-root-user --mount"
    small_disk = f"mount -t tmpfs -o size=2M tmpfs {tmp_path}"
    if subprocess.run(f"{namespace} {small_disk}", shell=True, capture_output=True).returncode:
        namespace, small_disk = "", "ulimit -f 4096"
        # The disk itself has room, so any disk counts as full.
        program = f"import sys, tinywave_core.storage.store as s; s.FULL_DISK_BYTES = sys.maxsize\n{program}"
    run = f'{small_disk} && exec {sys.executable} -c "$0" {tmp_path}/store'
    done = subprocess.run([*namespace.split(), "sh", "-c", run, program], capture_output=True, text=True)
    assert "is full" in done.stdout and "make room" in done.stdout, done.stderr


def test_an_error_with_room_left_stays_what_it_is(tmp_path):
    store = Store(str(tmp_path))

    def run(step, output):
        raise OSError("not about space")

    with pytest.raises(OSError, match="not about space") as caught:
        compute(step_in(store, run=run))
    assert not isinstance(caught.value, StoreFullError)


def test_names_below_the_root_never_leave_it(tmp_path):
    assert os.path.commonpath([Store(str(tmp_path)).work_folder("export/abc"), tmp_path]) == str(tmp_path)

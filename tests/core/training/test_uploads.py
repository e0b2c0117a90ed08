"""Checkpoints in a store elsewhere: the first machine may be lost at any moment, and another one goes on from what is whole there."""

import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.core.training.test_checkpoint import loaded as loaded_here
from tests.core.training.test_checkpoint import model, saved
from tests.fixtures.summaries import Anything
from tests.fixtures.training import RUNTIME, Stop, run, stop_at
from tinywave_core.config.export import ExportConfig
from tinywave_core.errors import StoreError
from tinywave_core.steps.base import Output, Step, compute
from tinywave_core.storage.care.census import take_census
from tinywave_core.storage.care.collect import collect, find_garbage
from tinywave_core.storage.care.forget import Traces, forget
from tinywave_core.storage.care.repair import repair
from tinywave_core.storage.care.verify import verify
from tinywave_core.storage.records import seal
from tinywave_core.storage.store import Store
from tinywave_core.storage.uploads import UploadedCheckpoints
from tinywave_core.training.checkpoint import load_checkpoint
from tinywave_core.training.uploader import Uploader

DAY_S = 86_400
STEP = "distillation/0123abcd"


@pytest.fixture
def uploads(tmp_path: Path) -> UploadedCheckpoints:
    found = UploadedCheckpoints.of(Store(f"memory://{tmp_path.name}"), STEP)
    assert found
    return found


def uploaded(uploads: UploadedCheckpoints, folder: Path, step: int) -> str:
    """A checkpoint of that step in the store alone; its name below the root."""
    saved(folder, step)
    uploads.put(folder / f"step-{step:08d}")
    shutil.rmtree(folder)
    return f"{uploads.folder}/{next(name for name in uploads._listed() if name.startswith(f'step-{step:08d}-'))}"


def steps(uploads: UploadedCheckpoints) -> list[int]:
    """Those that are whole in the store, the newest first."""
    return [int(name.split("-")[1]) for name in uploads.newer_than(-1)]


def loaded(folder: Path, uploads: UploadedCheckpoints) -> int:
    """The step that training would go on from, checked as those of one machine are; 0 from the start."""
    weight, optimizer = model(0.0)
    state = load_checkpoint(folder, {"weight": weight}, optimizer, uploads)
    assert state is None or (torch.equal(weight, torch.full((64,), float(state.step))) and loaded_here(folder))
    return state.step if state else 0


def test_a_run_whose_machine_is_lost_goes_on_from_the_upload_bit_by_bit(tmp_path: Path, uploads: UploadedCheckpoints):
    curve, weights = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "lost", on_step=stop_at(7), uploads=uploads)
    assert steps(uploads) == [6, 4]  # the two newest, and never the start
    shutil.rmtree(tmp_path / "lost")
    done: list[int] = []
    again, resumed = run(tmp_path / "another", on_step=done.append, uploads=uploads)
    assert (done, again) == ([7, 8, 9], curve)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_a_local_store_has_no_uploads(tmp_path: Path):
    assert UploadedCheckpoints.of(Store(str(tmp_path)), STEP) is None


def test_an_upload_that_ends_at_any_file_is_taken_for_none(
    tmp_path: Path, uploads: UploadedCheckpoints, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    uploaded(uploads, tmp_path / "first", 1)
    saved(tmp_path / "first", 2)
    checkpoint, send = tmp_path / "first" / "step-00000002", Store.upload
    count = len(list(checkpoint.iterdir()))
    for files in range(count):
        sent: list[str] = []

        def sends(store: Store, source: Path, name: str, sent=sent, files=files) -> None:
            if len(sent) == files:
                raise Stop
            sent.append(source.name)
            send(store, source, name)

        with monkeypatch.context() as patched:
            patched.setattr(Store, "upload", sends)
            with pytest.raises(Stop):
                uploads.put(checkpoint)
        assert loaded(tmp_path / str(files), uploads) == 1
        assert not caplog.text, "half an upload is not even fetched"
    uploads.put(checkpoint)
    assert loaded(tmp_path / "another", uploads) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "curves.json", "state.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_upload_is_passed_over_and_told(
    tmp_path: Path, uploads: UploadedCheckpoints, name: str, damage: str, caplog: pytest.LogCaptureFixture
):
    for step in (1, 2):
        newest = uploaded(uploads, tmp_path / "first", step)
    path = f"{uploads.store.root}/{newest}/{name}"
    data = uploads.store.filesystem.cat_file(path)
    uploads.store.filesystem.rm(path)
    if damage != "gone":
        uploads.store.filesystem.pipe_file(path, data[:-1] + (bytes([data[-1] ^ 4]) if damage == "flipped" else b""))
    assert loaded(tmp_path / "another", uploads) == 1
    # Without its state nobody takes it for an upload.
    assert ("is passed over" in caplog.text) == ((name, damage) != ("state.json", "gone"))


def test_the_newest_of_machine_and_store_is_used_and_only_that_is_fetched(
    tmp_path: Path, uploads: UploadedCheckpoints, monkeypatch: pytest.MonkeyPatch
):
    fetched: list[str] = []
    fetch = UploadedCheckpoints.fetch
    monkeypatch.setattr(
        UploadedCheckpoints, "fetch", lambda self, name, folder: fetched.append(name) or fetch(self, name, folder)
    )
    for step in (1, 2):
        uploaded(uploads, tmp_path / "first", step)
    saved(tmp_path / "another", 2)
    assert loaded(tmp_path / "another", uploads) == 2 and not fetched
    saved(tmp_path / "third", 1)
    assert loaded(tmp_path / "third", uploads) == 2
    assert [name.split("-")[1] for name in fetched] == ["00000002"]


def test_what_goes_beyond_a_new_checkpoint_is_dropped_and_not_the_new_one(tmp_path: Path, uploads: UploadedCheckpoints):
    """Two that are damaged, and a run that began again: here and in the store the new ones are those that count."""
    for step in (8, 9):
        newest = uploaded(uploads, tmp_path / "first", step)
        uploads.store.filesystem.rm(f"{uploads.store.root}/{newest}/curves.json")
    assert loaded(tmp_path / "another", uploads) == 0
    for step in (8, 9):
        saved(tmp_path / "another", step)
        os.truncate(tmp_path / "another" / f"step-{step:08d}" / "curves.json", 0)
    saved(tmp_path / "another", 1)
    uploads.put(tmp_path / "another" / "step-00000001")
    assert loaded_here(tmp_path / "another") == 1 and steps(uploads) == [1]


class Network:
    """A store that waits before it takes the checkpoint of one step, or fails at it."""

    def __init__(self, at: int, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.reached, self.goes_on = threading.Event(), threading.Event()
        send = Store.upload

        def slow(store: Store, source: Path, name: str) -> None:
            if source.parent.name == f"step-{at:08d}":
                self.reached.set()
                if error:
                    raise error
                assert self.goes_on.wait(60)
            send(store, source, name)

        monkeypatch.setattr(Store, "upload", slow)


def test_training_goes_on_while_one_is_uploaded_and_then_the_newest_follows(
    tmp_path: Path, uploads: UploadedCheckpoints, monkeypatch: pytest.MonkeyPatch
):
    network, whole, sent = Network(2, monkeypatch), run(tmp_path / "whole")[0], list[str]()
    put = UploadedCheckpoints.put
    monkeypatch.setattr(
        UploadedCheckpoints, "put", lambda self, path, *rest: sent.append(path.name) or put(self, path, *rest)
    )

    def after_step_8(done: int) -> None:
        if done == 2:
            assert network.reached.wait(60)
        if done == 8:
            # 4 is on disk when 6 is written, and 6 when 8 is: 8 may still be in writing.
            here = {path.name for path in (tmp_path / "cut").glob("step-*")}
            assert {"step-00000002", "step-00000006"} <= here and not steps(uploads)
            raise Stop

    def finish(self: Uploader, finish=Uploader.finish) -> None:
        """The network comes back when the run waits for it: then step 8 is on disk."""
        network.goes_on.set()
        finish(self)

    monkeypatch.setattr(Uploader, "finish", finish)
    with pytest.raises(Stop):
        run(tmp_path / "cut", on_step=after_step_8, uploads=uploads)
    assert sent == ["step-00000002", "step-00000008"] and steps(uploads) == [8, 2]
    shutil.rmtree(tmp_path / "cut")
    assert run(tmp_path / "cut", uploads=uploads)[0] == whole


def test_an_upload_that_fails_stops_nothing_and_is_told(
    tmp_path: Path, uploads: UploadedCheckpoints, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    network = Network(4, monkeypatch, ConnectionError("the network is down"))
    notes: dict[int, str] = {}

    def progress(done: int, _: int, note: str = "") -> None:
        if done == 5:
            assert network.reached.wait(60)
            for thread in threading.enumerate():
                if thread.name == "checkpoint upload":
                    thread.join()
        notes[done] = note

    seldom = RUNTIME.model_copy(update={"checkpoint_every": 4})
    with pytest.raises(Stop):
        run(tmp_path, runtime=seldom, on_step=stop_at(8), progress=progress, uploads=uploads)
    assert notes[7].endswith(", step-00000004 is NOT in the store: the network is down")
    assert "step-00000004 could not be uploaded; training goes on" in caplog.text
    assert steps(uploads) == [8]


def test_a_run_that_was_taken_for_dead_uploads_nothing(tmp_path: Path, uploads: UploadedCheckpoints):
    saved(tmp_path, 1)
    for number in (1, 2):
        uploads.store.create_record(f".lease/{number:06d}.json", {"holder": "another run", "term_s": 60.0})
    uploads.store.inherit(1)
    with pytest.raises(StoreError, match="taken over by another run"):
        uploads.put(tmp_path / "step-00000001")
    assert not uploads._listed()


def trained(step: Step, output: Output) -> Anything:
    saved(output.resume, 1)
    assert output.uploads
    output.uploads.put(output.resume / "step-00000001")
    (output.folder / "model").write_text("trained")
    return Anything()


def step_in(store: Store) -> Step:
    return Step(store, "export", "model", 1, trained, ExportConfig())


def test_a_step_that_is_done_leaves_no_upload(uploads: UploadedCheckpoints):
    step = step_in(uploads.store)
    compute(step)
    assert not UploadedCheckpoints(step.store, step.id)._listed() and verify(take_census(step.store)) == []


def test_gc_removes_uploads_of_steps_that_are_done_or_idle_for_a_month_and_no_others(
    tmp_path: Path, uploads: UploadedCheckpoints
):
    done = replace(uploads, artifact_id=compute(step_in(uploads.store)).id)
    for each in (uploads, done):
        uploaded(each, tmp_path / "first", 1)
    census = take_census(uploads.store)
    assert [f.what for f in verify(census)] == ["unfinished work"] * 2
    garbage = find_garbage(census, keep=1, grace_s=7 * DAY_S)
    assert garbage.leftovers.keys() == {done.folder} and garbage.bytes > 500
    collect(census, garbage)
    assert (steps(uploads), steps(done)) == ([1], [])
    census = take_census(uploads.store)
    for days, kept in ((29, []), (31, [uploads.folder])):
        assert list(find_garbage(census, 1, 7 * DAY_S, time.time() + days * DAY_S).leftovers) == kept
    repair(census, verify(census), time.time() + 31 * DAY_S)
    assert steps(uploads) == []


def test_verify_finds_a_damaged_upload_and_repair_deletes_it_alone(tmp_path: Path, uploads: UploadedCheckpoints):
    for step in (1, 2):
        newest = uploaded(uploads, tmp_path / "first", step)
    for name, data in (("model.safetensors", b"other"), ("state.json", seal({"sha256": {}})[:-1])):
        uploads.store.filesystem.pipe_file(f"{uploads.store.root}/{newest}/{name}", data)
        found = verify(census := take_census(uploads.store))
        assert [(f.where, f.what) for f in found if not f.harmless] == [(newest, "bad checkpoint")]
    repair(census, found)
    assert steps(uploads) == [1] and loaded(tmp_path / "another", uploads) == 1


def test_forget_removes_all_uploads(tmp_path: Path, uploads: UploadedCheckpoints):
    uploaded(uploads, tmp_path, 1)
    forget(take_census(uploads.store), Traces(("ab" * 32,), (), (), (), (), 0))
    assert steps(uploads) == []

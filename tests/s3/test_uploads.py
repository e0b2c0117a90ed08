"""A training step whose store is on S3 and whose machine is lost: another one goes on from what it uploaded, and requests are those of the plan."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import Finished
from tests.fixtures.training import Stop
from tinywave_core.costs import scale
from tinywave_core.steps.base import Step, compute
from tinywave_core.storage import s3 as s3_module
from tinywave_core.storage.care.census import take_census
from tinywave_core.storage.s3 import S3
from tinywave_core.storage.store import Store
from tinywave_core.storage.uploads import UploadedCheckpoints


def on_s3(finished: Finished, s3: Any, name: str) -> Step:
    """The control's step of the finished run in a store on S3 that has its inputs alone; a checkpoint after each step."""
    (step,) = [step for step in finished.computed.of("distillation") if step.part == "control"]
    needed = [artifact.id for artifacts in step.inputs.values() for artifact in artifacts]
    for path in Path(finished.store.root).rglob("*"):
        key = path.relative_to(finished.store.root).as_posix()
        if path.is_file() and key.startswith((*needed, "store.json")):
            s3.upload_file(str(path), "tiny-store", f"{name}/{key}")
    store = Store(f"s3://tiny-store/{name}")
    inputs = {name: [store.find(a.id) for a in artifacts] for name, artifacts in step.inputs.items()}
    return replace(step, store=store, inputs=inputs, runtime=step.runtime.model_copy(update={"checkpoint_every": 1}))


def test_another_machine_goes_on_from_the_upload_with_the_same_losses_and_digests(s3: Any, finished: Finished):
    step = on_s3(finished, s3, "uploads")

    def lose_the_machine(done: int, *_: object) -> None:
        if done == 4:
            raise Stop

    with pytest.raises(Stop):
        compute(step, lose_the_machine)
    shutil.rmtree(step.store.scratch("work"))
    told: list[int] = []
    again = Store(step.store.url)
    made = compute(replace(step, store=again), lambda done, *_: told.append(done))
    assert told[0] == 5
    expected = finished.store.find(step.id)
    assert made.manifest and expected.manifest and made.manifest.files == expected.manifest.files
    losses, wanted = (pq.read_table(a.path("curves.parquet"))["loss"].to_pylist() for a in (made, expected))
    assert losses == wanted
    assert not take_census(again).work


def test_requests_of_an_upload_are_those_that_a_plan_counts(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert scale.PART_BYTES == s3_module.PART_BYTES
    for module in (scale, s3_module):
        monkeypatch.setattr(module, "PART_BYTES", 5 << 20)  # the least that S3 takes
    seen: list[str] = []
    call = S3._call_s3

    async def counted(self: S3, method: str, *arguments: Any, **options: Any) -> Any:
        seen.append(method)
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(S3, "_call_s3", counted)
    store = Store("s3://tiny-store/counted")
    store.inherit(1)
    for step in (1, 2, 3):  # with the third one, the first goes
        checkpoint = tmp_path / f"step-{step:08d}"
        checkpoint.mkdir()
        sizes = {"model": 1, "optimizer": 11 << 20 if step == 3 else 1, "best": 1, "curves": 1, "state.json": 1}
        for name, size in sizes.items():
            (checkpoint / name).write_bytes(os.urandom(1) * size)
        seen.clear()
        UploadedCheckpoints(store, "distillation/counted").put(checkpoint)
    assert len(seen) == pytest.approx(scale.upload_requests(sum(sizes.values())), abs=2)

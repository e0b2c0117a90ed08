"""The store against a model of it, a few dicts: artifacts and records are written, the machine dies, bits flip, care is taken.

At every step holds: what was committed reads back as it was or raises one clear error; nothing half-written is read as whole;
`verify` names every place with a flipped bit and no other; after repair and writing again all is whole.
"""

import hashlib
import os
import shutil
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fixtures.faults import dying_at, flip
from tests.fixtures.summaries import Anything
from tinywave_core.config.export import ExportConfig
from tinywave_core.config.ingestion import IngestionConfig
from tinywave_core.errors import DamagedArtifactError
from tinywave_core.steps.base import Output, Step, compute
from tinywave_core.storage.care.census import LOGS, dependants, lineage, take_census
from tinywave_core.storage.care.collect import collect, find_garbage
from tinywave_core.storage.care.forget import find_traces, forget
from tinywave_core.storage.care.repair import flip_back, repair
from tinywave_core.storage.care.verify import DAMAGE, verify
from tinywave_core.storage.forgotten import forgotten
from tinywave_core.storage.shards import write_table
from tinywave_core.storage.store import ABOUT, Artifact, Log, Store

# `make break-store` asks for many more.
EXAMPLES = int(os.environ.get("TINYWAVE_STORE_EXAMPLES", "20"))
NAMES = ("a", "b", "c", "d")
RECORDINGS = ("one.wav", "two.wav")
PINS, CATALOG = ("pins/x", "pins/y"), "catalog/speech"
deaths = st.none() | st.integers(0, 12)
numbers = count()
Record = dict[str, Any]


def digest_of(recording: str) -> str:
    return hashlib.sha256(recording.encode()).hexdigest()


def write_model(step: Step, output: Output) -> Anything:
    (output.folder / "data").mkdir()
    for name in ("one", "two"):
        (output.folder / "data" / name).write_text(f"{step.params['name']}, {name}")
    return Anything(name=step.params["name"], half=0.5)


def write_shard(step: Step, output: Output) -> Anything:
    (file,) = step.params["files"]
    row = {"path": file["path"], "sha256": file["sha256"], "recording_id": file["sha256"][:32]}
    write_table(pa.Table.from_pylist([row]), output.folder / "files.parquet")
    return Anything()


class StoreMachine(RuleBasedStateMachine):
    """What is known of the store: `steps` ever asked for, `whole` ones with their bytes, `logs`, and `damaged` files."""

    url: ClassVar[str]

    @initialize()
    def create(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="tinywave-model-")
        self.store = Store(self.url.format(folder=self.folder, number=next(numbers)))
        self.steps: dict[str, Step] = {}
        self.whole: dict[str, dict[str, bytes]] = {}
        self.logs: dict[str, list[Record]] = {}
        self.damaged: set[str] = set()
        self.gone: set[str] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)
        self.store.delete("")
        shutil.rmtree(self.store.work_folder("any/any").parent.parent, ignore_errors=True)

    # What happens ------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), source=st.none() | st.integers(0, 9), death=deaths)
    def put(self, name: str, source: int | None, death: int | None) -> None:
        whole = sorted(self.whole)
        inputs = [] if source is None or not whole else [self.artifact(whole[source % len(whole)])]
        self._compute(self.step_of(name, inputs), death)

    @rule(recording=st.sampled_from(RECORDINGS), death=deaths)
    def ingest(self, recording: str, death: int | None) -> None:
        if digest_of(recording) in self.gone or self._damaged_logs():
            return
        step = self.shard_of(recording)
        self._compute(step, death)
        listed = [i for record in self.logs.get(CATALOG, []) for i in record["shards"]]
        if step.id in self.whole and step.id not in listed:
            file = {"path": recording, "bytes": 1, "stamp": "", "sha256": digest_of(recording), "shard": 0}
            self._append(CATALOG, {"files": [file], "shards": [step.id]}, None)

    @rule(log=st.sampled_from(PINS), which=st.integers(0, 9), death=deaths)
    def pin(self, log: str, which: int, death: int | None) -> None:
        if self.whole:
            artifact = sorted(self.whole)[which % len(self.whole)]
            self._append(log, {"artifact": artifact, "inputs": {}, "hours": 0.25, "pinned_at": "2026"}, death)

    @rule(death=deaths)
    def note_run(self, death: int | None) -> None:
        self._append("runs", {"artifacts": {}, "number": len(self.logs.get("runs", []))}, death)

    @rule(file=st.integers(0, 999), bit=st.integers(0, 99_999))
    def flip_a_bit(self, file: int, bit: int) -> None:
        if files := [name for name in self._files() if name not in self.damaged]:
            name = files[file % len(files)]
            flip(self.store, name, bit)
            self.damaged.add(name)

    @rule(death=deaths)
    def flip_back(self, death: int | None) -> None:
        """Of records each flipped bit is put right, also at the second try; files of artifacts stay as they are."""
        with dying_at(death):
            flip_back(take_census(self._reopened()))
        flip_back(take_census(self._reopened()))
        self.damaged = {
            name for name in self.damaged if name.startswith(("export/", "ingestion/")) and not name.endswith(".json")
        }

    @rule(death=deaths)
    def mend(self, death: int | None) -> None:
        with dying_at(death):
            self._repair()
        self._repair()
        lost = {i for i in self.whole if any(name.startswith(f"{i}/") for name in self.damaged)}
        for log, records in self.logs.items():
            left = [r for n, r in enumerate(records, 1) if f"{log}/{n:06d}.json" not in self.damaged]
            found = self._log(log).records()
            assert _in_order(left, found)
            if log.startswith("pins/"):
                assert found[-1:] == left[-1:]
            self.logs[log] = found
        self.whole = {i: files for i, files in self.whole.items() if i not in lost}
        self.damaged.clear()
        self.gone = set(forgotten(self.store))  # fewer if their record was lost: repair says so
        assert {finding.what for finding in self._wrong()} <= {
            "dangling input",
            "lost pin",
            "lost shard",
            "removed by forget",
        }

    @precondition(lambda self: self.steps)
    @rule()
    def write_all_again(self) -> None:
        """Repair, and the run after it."""
        self.mend(None)
        for step in self.steps.values():
            self._compute(step, None)
        assert set(self.steps) == set(self.whole)
        assert {finding.what for finding in self._wrong()} <= {"lost pin"}

    @rule(keep=st.integers(0, 2), death=deaths)
    def gc(self, keep: int, death: int | None) -> None:
        if any(name.endswith(".json") and name != ABOUT for name in self.damaged):
            with pytest.raises(DamagedArtifactError, match="nothing was removed"):
                find_garbage(take_census(self.store), keep, 0.0)
            return
        census = take_census(self.store)
        pinned = [records[-1]["artifact"] for log, records in self.logs.items() if log in PINS and records]
        needed = lineage(census.artifacts, [*pinned, *self._shards()])
        for each in (death, None):
            census = take_census(self.store)
            with dying_at(each):
                collect(census, find_garbage(census, keep, 0.0, time.time() + 1))
        left = set(take_census(self.store).artifacts)
        assert needed <= left
        self._drop(set(self.whole) - left)

    @precondition(lambda self: not self.damaged)
    @rule(recording=st.sampled_from(RECORDINGS), death=deaths)
    def forget(self, recording: str, death: int | None) -> None:
        shard = self.shard_of(recording).id
        digest = digest_of(recording)
        if digest in self.gone or not (shard in self.whole or shard in self._shards()):
            return
        census = take_census(self.store)
        reached = dependants(census.artifacts, [shard])
        with dying_at(death):
            forget(census, find_traces(census, digest))
        census = take_census(self.store)
        forget(census, find_traces(census, digest))
        self.gone.add(digest)
        assert forgotten(self.store) == self.gone
        assert not reached & set(take_census(self.store).artifacts)
        self._drop(reached)
        for step in self.steps.values():  # nor does a run ask again for what never came to be of it
            if {artifact.id for artifacts in step.inputs.values() for artifact in artifacts} & reached:
                reached.add(step.id)
        self.steps = {i: step for i, step in self.steps.items() if i not in reached}
        self._look_at_logs()

    # What holds --------------------------------------------------------------------------------------------------

    @invariant()
    def verify_finds_every_flipped_bit_and_nothing_else(self) -> None:
        wrong = self._wrong()
        assert not [finding for finding in wrong if finding.what == "foreign file"]
        found = {finding.where for finding in wrong if finding.what in (*DAMAGE, "bad record")}
        assert found == {name if self._is_record(name) else "/".join(name.split("/")[:2]) for name in self.damaged}

    @invariant()
    def what_is_read_is_what_was_written(self) -> None:
        store = self._reopened()
        for artifact, files in self.whole.items():
            damaged = [name for name in self.damaged if name.startswith(f"{artifact}/")]
            if damaged:
                with pytest.raises(DamagedArtifactError, match=f"{artifact}/.*tinywave repair --root"):
                    store.find(artifact).path("")
            else:
                found = store.find(artifact)
                assert {name: found.path(name).read_bytes() for name in found.files} == files
                assert found.summary == self.steps[artifact].run(self.steps[artifact], self._output()).model_dump()
        for artifact in self.steps.keys() - self.whole.keys():
            assert not store.find(artifact).complete

    @invariant()
    def logs_are_read_as_they_were_written(self) -> None:
        for log, records in self.logs.items():
            if any(name.startswith(f"{log}/") for name in self.damaged):
                with pytest.raises(DamagedArtifactError, match=f"{log}/.*tinywave repair --root"):
                    self._log(log).records()
            else:
                assert self._log(log).records() == records

    @invariant()
    def a_store_that_does_not_say_what_it_is_is_not_opened(self) -> None:
        if ABOUT in self.damaged:
            with pytest.raises(DamagedArtifactError, match=f"{ABOUT} is damaged.*tinywave repair --root"):
                Store(self.store.url)

    # Means -------------------------------------------------------------------------------------------------------

    def step_of(self, name: str, inputs: list[Artifact]) -> Step:
        return Step(self.store, "export", "model", 1, write_model, ExportConfig(), {"from": inputs}, {"name": name})

    def shard_of(self, recording: str) -> Step:
        files = [{"sha256": digest_of(recording), "path": recording}]
        return Step(self.store, "ingestion", "shard", 1, write_shard, IngestionConfig(), {}, {"files": files})

    def artifact(self, artifact_id: str) -> Artifact:
        stage, _, digest = artifact_id.partition("/")
        return Artifact(self.store, stage, "", digest)

    def _compute(self, step: Step, death: int | None) -> None:
        """A step of a run: from what is damaged it raises, and else it is whole, or absent where the machine died."""
        if f"{step.id}/manifest.json" in self.damaged:
            with pytest.raises(DamagedArtifactError, match=f"{step.id}/manifest.json is damaged"):
                compute(step)
            return
        self.steps.setdefault(step.id, step)
        with dying_at(death):
            compute(step)
        found = self._reopened().find(step.id)
        if death is None:
            assert found.complete
        if found.complete and step.id not in self.whole:
            self.whole[step.id] = {name: found.path(name).read_bytes() for name in found.files}
            assert self.whole[step.id] == self._contents(step)

    def _contents(self, step: Step) -> dict[str, bytes]:
        output = self._output()
        step.run(step, output)
        paths = [path for path in output.folder.rglob("*") if path.is_file()]
        return {path.relative_to(output.folder).as_posix(): path.read_bytes() for path in paths}

    def _output(self) -> Output:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        return Output(folder, folder, ExportConfig())  # type: ignore[arg-type]

    def _append(self, log: str, record: Record, death: int | None) -> None:
        if any(name.startswith(f"{log}/") for name in self.damaged):
            with pytest.raises(DamagedArtifactError):
                self._log(log).append(record)
            return
        with dying_at(death):
            self._log(log).append(record)
        records = self.logs.setdefault(log, [])
        found = self._log(log).records()
        assert found in ([*records, record], records) and (death is not None or found != records)
        self.logs[log] = found

    def _repair(self) -> None:
        census = take_census(self._reopened())
        repair(census, verify(census), time.time() + 2 * 86_400)

    def _wrong(self) -> list[Any]:
        return [finding for finding in verify(take_census(self._reopened())) if not finding.harmless]

    def _drop(self, artifacts: set[str]) -> None:
        self.whole = {i: files for i, files in self.whole.items() if i not in artifacts}
        self.damaged = {name for name in self.damaged if "/".join(name.split("/")[:2]) not in artifacts}

    def _look_at_logs(self) -> None:
        """After `forget`, which rewrites them."""
        for log in (*PINS, CATALOG):
            before = self.logs.get(log, [])
            self.logs[log] = self._log(log).records()
            if log in PINS:
                assert self.logs[log] == [record for record in before if record["artifact"] in self.whole]
        self.logs["forgotten"] = self._log("forgotten").records()

    def _shards(self) -> set[str]:
        files = [(r["shards"][f["shard"]], f) for r in self.logs.get(CATALOG, []) for f in r["files"]]
        return {shard for shard, _ in files}

    def _damaged_logs(self) -> bool:
        return any(name.partition("/")[0] in LOGS for name in self.damaged)

    def _is_record(self, name: str) -> bool:
        return name == ABOUT or name.partition("/")[0] in LOGS

    def _files(self) -> list[str]:
        """What a reader relies on: files of whole artifacts with their manifests, records, store.json."""
        files = [f"{i}/{name}" for i, held in self.whole.items() for name in (*held, "manifest.json")]
        records = [f"{log}/{n:06d}.json" for log, held in self.logs.items() for n in range(1, len(held) + 1)]
        return [ABOUT, *sorted(files + records)]

    def _log(self, name: str) -> Log:
        return self._reopened().log(name)

    def _reopened(self) -> Store:
        """As another process has it: nothing is remembered."""
        store = Store(self.store.url, create=False, mend=True)
        shutil.rmtree(store.scratch("read"), ignore_errors=True)
        return store


def _in_order(some: list[Record], records: list[Record]) -> bool:
    rest = iter(records)
    return all(any(each == record for record in rest) for each in some)


@pytest.mark.parametrize("url", ["{folder}/store", "memory://model-{number}"])
def test_the_store_does_what_its_model_does(url: str):
    machine = type("Machine", (StoreMachine,), {"url": url})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=EXAMPLES, stateful_step_count=20, derandomize=EXAMPLES <= 100)
    )

"""Care of a store: damage is found and only it is made again, what is needed is never collected, what is forgotten is gone."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Finished
from tests.fixtures.summaries import Anything
from tests.fixtures.tiny import CLIPS, copy_clips, copy_store, digests, run_tiny
from tinywave_core.config.export import ExportConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import DamagedArtifactError, MissingInputError
from tinywave_core.run.pipeline import run_pipeline
from tinywave_core.stages.ingestion.corpus import scan
from tinywave_core.steps.base import Output, Step, compute
from tinywave_core.storage.care.census import dependants, take_census
from tinywave_core.storage.care.collect import Garbage, collect, find_garbage
from tinywave_core.storage.care.forget import find_traces, forget
from tinywave_core.storage.care.repair import STALE_WORK_S, Action, repair
from tinywave_core.storage.care.verify import Finding, verify
from tinywave_core.storage.forgotten import forgotten
from tinywave_core.storage.records import seal, unseal
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact, Store

LATER_S = 7200.0
numbers = count()


def write_two(step: Step, output: Output) -> Anything:
    (output.folder / "data").mkdir()
    for name in ("one", "two"):
        (output.folder / "data" / name).write_text(f"{step.params['name']}, {name}")
    return Anything()


def made(store: Store, name: str, inputs: Sequence[Artifact] = (), minute: int = 0) -> Artifact:
    """An artifact of two small files, made `minute` minutes after the new year."""
    step = Step(store, "export", "model", 1, write_two, ExportConfig(), {"from": list(inputs)}, {"name": name})
    with patch("tinywave_core.steps.base.utc_now", lambda: f"2026-01-01T00:{minute:02d}:00Z"):
        return compute(step)


def findings(store: Store) -> list[Finding]:
    return verify(take_census(store))


def kinds(store: Store) -> dict[str, list[str]]:
    """What is found, by where."""
    found: dict[str, list[str]] = {}
    for finding in findings(store):
        found.setdefault(finding.where, []).append(finding.what)
    return found


def mend(store: Store, later_s: float = LATER_S) -> list[Action]:
    census = take_census(store)
    return repair(census, verify(census), time.time() + later_s)


def garbage(store: Store, keep: int = 1, grace_s: float = 3600.0, later_s: float = LATER_S) -> Garbage:
    return find_garbage(take_census(store), keep, grace_s, time.time() + later_s)


@contextmanager
def stopping_after(deletions: int) -> Iterator[None]:
    """Ctrl-C before deletion number `deletions` + 1 of a local store."""
    from fsspec.implementations.local import LocalFileSystem

    rm, left = LocalFileSystem.rm, count(deletions, -1)

    def stop_or_rm(*arguments, **options):
        if next(left) == 0:
            raise KeyboardInterrupt
        return rm(*arguments, **options)

    with patch.object(LocalFileSystem, "rm", stop_or_rm):
        yield


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path) -> Store:
    return Store(str(tmp_path / "store") if request.param == "local" else f"memory://care-{next(numbers)}")


@pytest.fixture
def local(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def config(finished: Finished, tmp_path: Path) -> PipelineConfig:
    return copy_store(finished.config, tmp_path / "store")


# Verify ----------------------------------------------------------------------------------------------------------


def test_a_sound_store_has_no_findings(store):
    made(store, "b", [made(store, "a")])
    assert findings(store) == []


def test_a_run_of_the_whole_pipeline_has_no_findings(finished):
    assert findings(finished.store) == []


DAMAGE = {
    "wrong digest": lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
    "wrong size": lambda path: path.write_bytes(path.read_bytes()[1:]),
    "missing file": Path.unlink,
    "foreign file": lambda path: path.with_name("three").write_bytes(b"who is this"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_a_file_is_found_where_it_is(local, kind):
    damaged, sound = made(local, "a"), made(local, "b")
    DAMAGE[kind](Path(local.root, damaged.id, "data", "one"))
    assert kinds(local) == {damaged.id: [kind]}
    assert sound.path("data/one").read_text() == "b, one"


@pytest.mark.parametrize("change", [lambda text: text[:50], lambda text: text.replace('"name": "a"', '"name": "c"')])
def test_a_manifest_that_is_cut_or_altered_is_found(local, change):
    path = Path(local.root, made(local, "a").id, "manifest.json")
    path.write_text(change(path.read_text()))
    assert list(kinds(local).values()) == [["bad manifest"]]


def test_a_manifest_of_a_newer_version_is_named_and_left_alone(local):
    path = Path(local.root, made(local, "a").id, "manifest.json")
    path.write_bytes(seal({**unseal(path.read_bytes()), "store_version": 3}))
    assert list(kinds(local).values()) == [["newer manifest"]]
    assert mend(local) == []
    assert path.exists()


def test_an_input_that_is_gone_is_found_at_what_was_made_from_it(local):
    first = made(local, "a")
    second = made(local, "b", [first])
    local.discard(first.id)
    assert [(f.where, f.what, f.detail) for f in findings(local)] == [(second.id, "dangling input", first.id)]


def test_a_folder_without_a_manifest_and_unfinished_work_are_harmless(local):
    Path(local.root, made(local, "a").id, "manifest.json").unlink()
    (local.work_folder("export/abc") / "output").mkdir(parents=True)
    assert [(f.what, f.harmless) for f in findings(local)] == [("unfinished work", True), ("half-written", True)]


def test_every_byte_is_heard_of(local):
    made(local, "a")
    heard: list[tuple[int, int]] = []
    verify(take_census(local), lambda done, total: heard.append((done, total)))
    assert heard == [(6, 12), (12, 12)]


# Repair ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["corpus", "teacher", "student"])
def test_one_flipped_byte_is_found_and_only_that_artifact_is_made_again_with_the_same_ids(finished, config, part):
    artifact = finished.outputs[part]
    store, name = Store(config.root), max(artifact.manifest.files, key=lambda file: file.bytes).name
    path = Path(config.root, artifact.id, name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert kinds(store) == {artifact.id: ["wrong digest"]}
    mend(store)
    assert mend(store) == []
    outputs, computed = run_tiny(config)
    assert computed.parts() == [f"{artifact.stage}/{part}"]
    assert outputs == finished.outputs and digests(store) == digests(finished.store)
    assert findings(store) == []


def test_nothing_damaged_is_read_as_whole_after_repair_and_nothing_sound_is_touched(store):
    damaged, sound = made(store, "a"), made(store, "b")
    store.filesystem.pipe_file(f"{store.root}/{damaged.id}/data/one", b"a, onE")
    (done,) = mend(store)
    assert done.where == damaged.id
    assert not store.find(damaged.id).complete and store.artifact_ids() == [sound.id]
    assert digests(store).keys() == {sound.id}
    assert made(store, "a").path("data/one").read_text() == "a, one"


def test_a_foreign_file_is_moved_away_and_its_artifact_stays(store):
    artifact = made(store, "a")
    store.filesystem.pipe_file(f"{store.root}/{artifact.id}/data/three", b"who is this")
    assert kinds(store) == {artifact.id: ["foreign file"]}
    mend(store)
    assert findings(store) == [] and store.find(artifact.id).complete


def test_work_without_a_checkpoint_is_swept_and_a_checkpoint_is_kept_for_a_month(local):
    for name in ("dead", "resumable"):
        (local.work_folder(f"export/{name}") / "output").mkdir(parents=True)
    (local.work_folder("export/resumable") / "resume").mkdir()
    (local.work_folder("export/resumable") / "resume" / "step-7").touch()
    mend(local)
    assert os.listdir(Path(local.root, ".work")) == ["export-resumable"]
    mend(local, later_s=STALE_WORK_S + 60)
    assert os.listdir(Path(local.root, ".work")) == []


def test_a_lost_record_in_the_middle_of_a_log_hides_nothing_after_repair(local):
    log = local.log("runs")
    for number in range(3):
        log.append({"artifacts": {}, "number": number})
    Path(local.root, "runs", "000002.json").write_text("{")
    assert kinds(local) == {"runs/000002.json": ["bad record"]}
    mend(local)
    assert [record.get("number") for record in local.log("runs").records()] == [0, None, 2]
    assert findings(local) == []


def test_a_lost_start_of_a_teacher_is_that_of_the_next_record_or_decided_again(local):
    log = local.log("starts/speech-1")
    for teacher in ("base", "fresh"):
        log.append({"teacher": teacher})
    first, last = (Path(local.root, "starts", "speech-1", f"00000{number}.json") for number in (1, 2))
    first.write_text("{")
    assert kinds(local) == {"starts/speech-1/000001.json": ["bad record"]}
    mend(local)
    assert [record["teacher"] for record in Store(local.root).log(log.name).records()] == ["fresh", "fresh"]
    last.write_text("{")
    (action,) = mend(local)
    assert "lost is from where the teacher of that corpus starts" in action.what
    assert [record["teacher"] for record in Store(local.root).log(log.name).records()] == ["fresh"]
    assert findings(local) == []


def test_a_lost_catalog_is_written_anew_from_the_shards(finished, config):
    (record,) = Path(config.root).glob("catalog/*/000001.json")
    record.write_bytes(b"\0" * 100)
    store = Store(config.root)
    assert list(kinds(store).values()) == [["bad record"]]
    mend(store)
    assert findings(store) == []
    outputs, computed = run_tiny(config)
    assert not computed.ran and outputs == finished.outputs


def test_a_catalog_written_anew_has_the_shards_of_its_own_corpus(finished, config):
    store = Store(config.root)
    (log,) = Path(config.root).glob("catalog/*")
    own = store.log(f"catalog/{log.name}").latest()["shards"]
    other = config.model_copy(update={"ingestion": config.ingestion.model_copy(update={"corpus": "other"})})
    run_pipeline(other, store, until="ingestion")
    (log / "000001.json").write_bytes(b"nothing")
    mend(store)
    assert store.log(f"catalog/{log.name}").latest()["shards"] == own


def test_a_lost_pin_is_taken_from_the_next_fit(finished, config):
    store = Store(config.root)
    for log in Path(config.root, "pins").iterdir():
        shutil.copyfile(log / "000001.json", log / "000002.json")
        (log / "000001.json").write_text("nothing")
    mend(store)
    outputs, computed = run_tiny(config)
    assert not computed.ran and outputs == finished.outputs
    assert digests(store) == digests(finished.store)


# Garbage collection ------------------------------------------------------------------------------------------------


def by_hand(parents: list[set[int]], roots: set[int]) -> set[int]:
    """Roots and all that they came from."""
    return roots.union(*(by_hand(parents, parents[root]) for root in roots)) if roots else set()


@st.composite
def dags(draw: st.DrawFn) -> list[set[int]]:
    size = draw(st.integers(1, 7))
    return [draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set() for i in range(size)]


@settings(max_examples=25)
@given(dags(), st.data())
def test_gc_keeps_exactly_the_lineage_of_pins_and_newest_results(parents: list[set[int]], data: st.DataObject):
    store = Store(f"memory://care-{next(numbers)}")
    keep, pinned = data.draw(st.integers(0, 3)), data.draw(st.sets(st.sampled_from(range(len(parents))), max_size=2))
    artifacts: list[Artifact] = []
    for number, inputs in enumerate(parents):
        artifacts.append(made(store, str(number), [artifacts[i] for i in sorted(inputs)], minute=number))
    for number in pinned:
        pin = {"artifact": artifacts[number].id, "inputs": {}, "hours": 1.0, "pinned_at": ""}
        store.log(f"pins/{number}").append(pin)
    finals = [i for i in range(len(parents)) if not any(i in inputs for inputs in parents)]
    needed = by_hand(parents, pinned | set(finals[-keep:] if keep else []))
    found = garbage(store, keep)
    collect(take_census(store), found)
    assert {i for i, a in enumerate(artifacts) if store.find(a.id).complete} == needed
    assert findings(store) == [] and found.kept == len(needed)


def test_gc_stopped_after_any_deletion_leaves_a_sound_store_and_the_next_one_finishes(tmp_path):
    first = Store(str(tmp_path / "first"))
    a = made(first, "a")
    b = made(first, "b", [a])
    made(first, "d", [b, made(first, "c", [a])])
    kept = made(first, "kept", [a], minute=1)
    for deletions in range(6):
        store = Store(shutil.copytree(first.root, tmp_path / str(deletions)).as_posix())
        found = garbage(store)
        with stopping_after(deletions), pytest.raises(KeyboardInterrupt):
            collect(take_census(store), found)
        assert all(finding.harmless for finding in findings(store))
        collect(take_census(store), garbage(store))
        assert digests(store).keys() == {a.id, kept.id} and findings(store) == []


def test_gc_leaves_what_is_younger_than_the_grace_period_and_what_that_needs(store):
    old = made(store, "a")
    compute(Step(store, "export", "model", 1, write_two, ExportConfig(), {"from": [old]}, {"name": "young"}))
    assert not garbage(store, keep=0, later_s=60).artifacts
    assert len(garbage(store, keep=0).artifacts) == 2


def test_gc_counts_what_one_run_came_to_as_one_result(local):
    runs = [[made(local, f"{number}{kind}", minute=number) for kind in "ab"] for number in range(3)]
    for number, outputs in enumerate(runs):
        named = {artifact.id: artifact.id for artifact in outputs}
        local.log("runs").append({"artifacts": {}, "outputs": named, "finished_at": f"2026-02-0{number + 1}T00:00:00Z"})
    assert {folder.id for folder in garbage(local, keep=2).artifacts} == {artifact.id for artifact in runs[0]}


def test_gc_counts_what_was_seen_of_labels_as_no_result_and_keeps_the_newest(local):
    def seen(minute: int) -> Artifact:
        step = Step(local, "ingestion", "labels", 1, write_two, ExportConfig(), params={"name": str(minute)})
        with patch("tinywave_core.steps.base.utc_now", lambda: f"2026-01-01T00:{minute:02d}:00Z"):
            return compute(step)

    made(local, "the result", minute=0)
    old, _ = seen(1), seen(2)
    assert [folder.id for folder in garbage(local, keep=1).artifacts] == [old.id]


def test_gc_of_a_pipelines_store_keeps_the_corpus_the_pins_and_a_cached_run(finished, config):
    store = Store(config.root)
    made(store, "nobody needs it")
    # Without a record of a run each of its ends counts for itself: samples, cached logits, the gap.
    assert len(garbage(store, keep=3).artifacts) == 1
    collect(take_census(store), garbage(store, keep=3))
    assert digests(store) == digests(finished.store)
    collect(take_census(store), garbage(store, keep=0))
    assert findings(store) == []
    outputs, _ = run_tiny(config.model_copy(update={"source": None}))
    assert outputs | {"labels": finished.outputs["labels"]} == finished.outputs  # no source, no labels of it


def test_what_is_published_is_kept_missed_when_it_is_gone_and_forgotten_with_the_rest(finished, config):
    store, outputs = Store(config.root), finished.outputs
    record = {"model": outputs["model"].id, "student": outputs["student"].id, "replaces": None}
    store.log("published").append(record)
    goes = {folder.id for folder in garbage(store, keep=0).artifacts}
    assert outputs["model"].id not in goes and outputs["samples"].id in goes
    store.discard(outputs["samples"].id)
    store.discard(outputs["model"].id)
    assert kinds(store) == {"published": ["lost model"]}
    forget(take_census(store), find_traces(take_census(store), CLIPS[3]))
    assert store.log("published").records() == []


def test_gc_removes_nothing_while_a_manifest_cannot_be_read(local):
    Path(local.root, made(local, "a").id, "manifest.json").write_text("{")
    with pytest.raises(DamagedArtifactError, match="nothing was removed: run `tinywave repair` first"):
        garbage(local)


def test_what_repair_set_aside_goes_after_the_grace_period(local):
    Path(local.root, made(local, "a").id, "data", "one").unlink()
    mend(local)
    assert not garbage(local, later_s=60).leftovers
    collect(take_census(local), garbage(local))
    assert os.listdir(Path(local.root, ".damaged")) == []


# Forget ------------------------------------------------------------------------------------------------------------


def heard_by(store: Store, digest: str) -> set[str]:
    """Artifacts with a recording in their lineage, from the shards' own tables."""
    census = take_census(store)
    shards = [
        i for i, f in census.artifacts.items() if f.manifest and (f.stage, f.manifest.part) == ("ingestion", "shard")
    ]
    holding = [
        i for i in shards if digest in read_table(store.find(i).path("files.parquet"), ["sha256"])["sha256"].to_pylist()
    ]
    return dependants(census.artifacts, holding)


def mentions(store: Store, text: str) -> list[str]:
    """Files below the root that hold a text as it is."""
    files = [path for path in Path(store.root).rglob("*") if path.is_file()]
    return [path.relative_to(store.root).as_posix() for path in files if text.encode() in path.read_bytes()]


def test_after_forgetting_and_a_run_nothing_has_the_recording_in_its_lineage(config):
    store, name = Store(config.root), Path(CLIPS[3]).name
    heard = find_traces(take_census(store), name)
    (digest,) = heard.digests
    assert {folder.id for folder in heard.artifacts} == heard_by(store, digest)
    forget(take_census(store), heard)
    # The recordings that lay beside it are not lost: nothing is wrong, and the next run takes them again.
    assert {(finding.what, finding.harmless) for finding in findings(store)} == {("removed by forget", True)}
    outputs, _ = run_tiny(config)
    assert heard_by(store, digest) == set() and mentions(store, name) == []
    assert outputs["corpus"].summary["files"]["accepted"] == len(CLIPS) - 1
    rows = read_table(outputs["corpus"].path("files.parquet")).to_pylist()
    (row,) = [row for row in rows if row["reason"] == "forgotten"]
    assert (row["sha256"], row["path"], row["status"]) == (digest, "", "rejected")
    assert (scan(config, store).found, scan(config, store).forgotten) == (len(CLIPS), 1)
    again, computed = run_tiny(config)  # the source still has it
    assert not computed.ran and again == outputs and findings(store) == []


def test_forgetting_leaves_shards_without_the_recording_alone(config):
    store = Store(config.root)
    heard = find_traces(take_census(store), CLIPS[3])
    others = {i: files for i, files in digests(store).items() if i not in {folder.id for folder in heard.artifacts}}
    forget(take_census(store), heard)
    assert digests(store) == others


def test_what_tells_of_labels_by_the_name_of_a_recording_is_forgotten_with_it(config, tmp_path):
    source = copy_clips(tmp_path / "speech", CLIPS[:3])
    beside = source / CLIPS[0].replace(".wav", ".txt")
    beside.write_text("\u00e9t\u00e9", encoding="latin-1")
    config = config.model_copy(update={"source": str(source), "root": str(tmp_path / "other")})
    outputs, _ = run_tiny(config, until="ingestion")
    store = Store(config.root)
    assert outputs["labels"].summary["problems"][0]["kind"] == "not UTF-8"
    heard = find_traces(take_census(store), CLIPS[0])
    assert outputs["labels"].id in {folder.id for folder in heard.artifacts}
    forget(take_census(store), heard)
    run_tiny(config, until="ingestion")
    assert mentions(store, beside.stem) == []


@pytest.mark.parametrize("deletions", [0, 2, 9, 30])
def test_forgetting_that_was_stopped_is_safe_to_run_on_and_to_finish(config, deletions):
    store = Store(config.root)
    heard = find_traces(take_census(store), CLIPS[3])
    with stopping_after(deletions), pytest.raises(KeyboardInterrupt):
        forget(take_census(store), heard)
    run_tiny(config, until="ingestion")
    corpus, _ = run_tiny(config, until="ingestion")
    assert corpus["corpus"].id not in heard_by(store, heard.digests[0])
    forget(take_census(store), find_traces(take_census(store), heard.digests[0]))
    assert heard_by(store, heard.digests[0]) == set()
    assert mentions(store, Path(CLIPS[3]).name) == []
    assert store.find(corpus["corpus"].id).complete


def test_the_same_samples_in_another_file_are_the_same_recording(finished, tmp_path):
    import soundfile

    source = shutil.copytree(str(finished.config.source), tmp_path / "source")
    samples, rate = soundfile.read(source / CLIPS[0], dtype="int16")
    soundfile.write(source / "lossless.flac", samples, rate)
    config = finished.config.model_copy(update={"source": str(source), "root": str(tmp_path / "store")})
    run_tiny(config, until="ingestion")
    store = Store(config.root)
    heard = find_traces(take_census(store), CLIPS[0])
    assert sorted(heard.paths) == [CLIPS[0], "lossless.flac"]
    forget(take_census(store), heard)
    outputs, _ = run_tiny(config, until="ingestion")
    assert outputs["corpus"].summary["reasons"]["forgotten"] == 2
    assert forgotten(store) == set(heard.digests)


def test_reports_of_what_heard_it_go_too(config):
    store = Store(config.root)
    heard = find_traces(take_census(store), CLIPS[3])
    for number, artifact in enumerate([heard.artifacts[0].id, "export/other"]):
        store.replace(f"reports/{number}.html", b"sound")
        store.log("runs").append({"artifacts": {"part": [artifact]}, "report": store.url_of(f"reports/{number}.html")})
    forget(take_census(store), find_traces(take_census(store), CLIPS[3]))
    assert os.listdir(Path(store.root, "reports")) == ["1.html"]


def test_a_name_that_means_nothing_or_too_much_is_refused(finished, tmp_path):
    census = take_census(finished.store)
    with pytest.raises(MissingInputError, match="no recording in .* is called 'nobody.wav'"):
        find_traces(census, "nobody.wav")
    for folder in ("a", "b"):
        (tmp_path / "source" / folder).mkdir(parents=True)
    for clip, folder in zip(CLIPS[1:3], ("a", "b"), strict=True):
        shutil.copyfile(Path(str(finished.config.source), clip), tmp_path / "source" / folder / "same.opus")
    config = finished.config.model_copy(update={"source": str(tmp_path / "source"), "root": str(tmp_path / "store")})
    run_tiny(config, until="ingestion")
    with pytest.raises(MissingInputError, match="2 recordings are called 'same.opus'; name one of"):
        find_traces(take_census(Store(config.root)), "same.opus")


def test_a_pin_that_did_not_hear_it_stays(local):
    first, second = made(local, "first"), made(local, "second")
    log = local.log("pins/key")
    for artifact in (first, second):
        log.append({"artifact": artifact.id, "inputs": {}, "hours": 1.0})
    from tinywave_core.storage.care.forget import _rewrite

    census = take_census(local)
    _rewrite(local, census.logs["pins/key"], census.logs["pins/key"].readable[1:])
    assert [record["artifact"] for record in local.log("pins/key").records()] == [second.id]
    assert json.loads(Path(local.root, "pins/key/000001.json").read_text())["artifact"] == second.id

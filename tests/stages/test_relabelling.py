"""Labels that come after their recordings are taken: they cost what shows or uses them, and nothing is decoded or tokenized again."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished
from tests.fixtures.tiny import CLIPS, copy_clips, copy_store, run_tiny, tiny_config
from tinywave_core.audio.cutting import split_of
from tinywave_core.audio.utterances import AUDIO_FILE, FILES_FILE, UTTERANCES_FILE
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.ingestion.stage import facts
from tinywave_core.storage.schemas import TOKENS_FILE
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact

LJSPEECH, READER = CLIPS[0], CLIPS[4]


@pytest.fixture
def known(finished: Finished, tmp_path: Path) -> PipelineConfig:
    """The finished store, and its source in a folder that may be written to."""
    source = copy_clips(tmp_path / "source")
    return copy_store(finished.config, tmp_path / "store").model_copy(update={"source": str(source)})


def label(config: PipelineConfig, **columns: dict[str, str]) -> None:
    """A manifest with these columns, each with values by path."""
    paths = sorted({path for values in columns.values() for path in values})
    with (Path(str(config.source)) / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", *columns])
        rows.writerows([path, *(values.get(path, "") for values in columns.values())] for path in paths)


def rows(corpus: Artifact, name: str) -> list[dict[str, Any]]:
    shards = corpus.store.find_all(corpus.summary["shards"])
    return [row for shard in shards for row in read_table(shard.path(name)).to_pylist()]


def by_path(corpus: Artifact, name: str = UTTERANCES_FILE) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in rows(corpus, name)}


def a_name(config: PipelineConfig, split: str) -> str:
    """A speaker that falls on this side of the split."""
    return next(name for n in range(1000) if split_of(config.ingestion, name := f"voice-{n}", "") == split)


def of_shard(artifact: Artifact, name: str, drop: list[str]) -> Any:
    return read_table(artifact.path(name)).drop_columns(drop)


def test_transcripts_that_come_later_are_taken_and_train_nothing_anew(finished: Finished, known: PipelineConfig):
    label(known, transcript={LJSPEECH: "in being comparatively modern.", READER: "a text of its own"})
    outputs, computed = run_tiny(known)
    found = by_path(outputs["corpus"])
    assert found[LJSPEECH]["transcript"] == "in being comparatively modern."
    assert found[READER]["transcript"] == "a text of its own"
    assert outputs["corpus"].summary["transcribed_utterances"] == 2
    ran = Counter(computed.parts())
    assert ran.keys() & {"ingestion/shard", "tokenization/codebooks", "logit_caching/shard"} == set()
    assert not [part for part in ran if part.startswith(("adaptation", "distillation"))]
    assert ran["ingestion/relabelled"] == ran["tokenization/shard"] >= 1
    for name in ("teacher", "student", "control"):
        assert outputs[name].id == finished.outputs[name].id
    assert "2 have another transcript than when they were taken" in dict(facts(outputs))["labels that came later"]


def test_a_relabelled_shard_has_the_sound_and_the_tokens_that_it_had(finished: Finished, known: PipelineConfig):
    trained = next(p for p, row in by_path(finished.outputs["corpus"]).items() if row["split"] == "train")
    label(known, transcript={trained: "words"}, speaker={trained: a_name(known, "train")})
    outputs, _ = run_tiny(known, "tokenization")
    before, after = finished.outputs, outputs
    for name, drop in ((AUDIO_FILE, ["speaker", "transcript"]), (FILES_FILE, ["speaker"])):
        old, new = (o["corpus"].store.find_all(o["corpus"].summary["shards"]) for o in (before, after))
        assert [a.id for a in old] != [a.id for a in new]
        assert [of_shard(a, name, drop) for a in old] == [of_shard(a, name, drop) for a in new]
    old, new = (o["tokens"].store.find_all([s["id"] for s in o["tokens"].summary["shards"]]) for o in (before, after))
    assert [of_shard(a, TOKENS_FILE, ["speaker", "transcript"]) for a in old] == [
        of_shard(a, TOKENS_FILE, ["speaker", "transcript"]) for a in new
    ]
    named = {row["speaker"]: row["transcript"] for a in new for row in read_table(a.path(TOKENS_FILE)).to_pylist()}
    assert named[a_name(known, "train")] == "words"


def test_the_next_run_with_the_same_labels_computes_nothing(known: PipelineConfig):
    label(known, transcript={READER: "words"})
    first, _ = run_tiny(known, "tokenization")
    again, computed = run_tiny(known, "tokenization")
    assert computed.ran == []
    assert again["tokens"].id == first["tokens"].id
    assert len(again["corpus"].store.log(labels_log(again["corpus"])).records()) == 1


def labels_log(corpus: Artifact) -> str:
    (folder,) = (Path(corpus.store.root) / "labels").iterdir()
    return f"labels/{folder.name}"


def test_a_speaker_that_comes_later_brings_all_recordings_to_one_side(known: PipelineConfig):
    before = by_path(run_tiny(known, "ingestion")[0]["corpus"])
    trained = [path for path in CLIPS if before[path]["split"] == "train"]
    held_out = [path for path in CLIPS if before[path]["split"] == "held_out"]
    name = a_name(known, "held_out")
    label(known, speaker={trained[0]: name, held_out[0]: name})
    outputs, computed = run_tiny(known)
    found = by_path(outputs["corpus"])
    assert {found[path]["split"] for path in (trained[0], held_out[0])} == {"held_out"}
    sides: dict[str, set[str]] = {}
    for row in found.values():
        sides.setdefault(row["speaker"], set()).add(row["split"])
    assert all(len(of_speaker) == 1 for of_speaker in sides.values())
    # What heard the recording that is held out now is not gone on with; sound and codebooks stay.
    assert {"adaptation/teacher", "distillation/student", "distillation/control"} <= set(computed.parts())
    assert not {"ingestion/shard", "tokenization/codebooks"} & set(computed.parts())
    told = dict(facts(outputs))["labels that came later"]
    assert "1 that were trained on are held out by their speaker now: teacher and student are trained anew" in told


def test_a_recording_that_was_held_out_is_trained_on_without_a_new_teacher(finished: Finished, known: PipelineConfig):
    before = by_path(run_tiny(known, "ingestion")[0]["corpus"])
    path = next(path for path in CLIPS if before[path]["split"] == "held_out")
    label(known, speaker={path: a_name(known, "train")})
    outputs, _ = run_tiny(known, "adaptation")
    assert outputs["corpus"].summary["relabelled"] == {
        "speakers": 1,
        "transcripts": 0,
        "to_train": 1,
        "to_held_out": 0,
        "heard": "",
    }
    assert outputs["teacher"].id == finished.outputs["teacher"].id


def test_a_label_that_is_gone_holds_and_one_that_comes_back_to_the_first_is_the_first(
    finished: Finished, known: PipelineConfig
):
    manifest = Path(str(known.source)) / "manifest.csv"
    label(known, transcript={READER: "words"}, speaker={READER: a_name(known, "train")})
    labelled, _ = run_tiny(known, "ingestion")
    label(known, transcript={READER: ""}, speaker={READER: ""})
    assert run_tiny(known, "ingestion")[0]["corpus"].id != finished.outputs["corpus"].id
    manifest.unlink()
    without, _ = run_tiny(known, "ingestion")
    assert by_path(without["corpus"])[READER]["transcript"] == "words"
    own = by_path(finished.outputs["corpus"])[READER]["speaker"]
    assert by_path(labelled["corpus"])[READER]["speaker"] != own
    label(known, speaker={READER: own})
    back = by_path(run_tiny(known, "ingestion")[0]["corpus"])[READER]
    assert (back["speaker"], back["transcript"]) == (own, "words")


def test_what_was_once_trained_on_is_not_held_out_again_before_the_same_teacher(known: PipelineConfig):
    before = by_path(run_tiny(known, "ingestion")[0]["corpus"])
    path = next(path for path in CLIPS if before[path]["split"] == "held_out")
    corpora = []
    for side in ("train", "held_out"):
        label(known, speaker={path: a_name(known, side)})
        corpora.append(run_tiny(known, "ingestion")[0]["corpus"])
    assert [corpus.summary["relabelled"]["to_held_out"] for corpus in corpora] == [0, 1]
    # Also where it has its first label again: that it was trained on in between is not forgotten.
    label(known, speaker={path: before[path]["speaker"]})
    assert run_tiny(known, "ingestion")[0]["corpus"].summary["relabelled"]["to_held_out"] == 1


def test_new_labels_of_a_source_without_any_known_recording_change_nothing(tmp_path: Path):
    config = tiny_config(copy_clips(tmp_path / "source", CLIPS[:6]), tmp_path / "store")
    label(config, transcript={CLIPS[1]: "words"})
    outputs, computed = run_tiny(config, "ingestion")
    assert "ingestion/relabelled" not in computed.parts()
    assert "relabelled" not in outputs["corpus"].summary
    assert by_path(outputs["corpus"])[CLIPS[1]]["transcript"] == "words"

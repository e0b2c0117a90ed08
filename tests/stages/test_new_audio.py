"""New audio costs its own work: old shards stay, what was fitted is pinned, and what builds on the corpus is made anew."""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished
from tests.fixtures.tiny import (
    CLIPS,
    NEW_CLIP,
    NEW_HELD_OUT_CLIP,
    Computed,
    copy_clips,
    copy_store,
    digests,
    run_tiny,
    tiny_config,
)
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.ingestion.corpus import scan
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact, Store

AFTER_THE_TEACHER = [
    "logit_caching/logits",
    "distillation/student",
    "distillation/control",
    "evaluation/scores",
    "evaluation/probe_scores",
    "evaluation/gap",
    "export/model",
    "generation/samples",
]


@pytest.fixture
def grown(finished: Finished, tmp_path: Path) -> PipelineConfig:
    """The finished store, and its source with one more reader in it."""
    source = copy_clips(tmp_path / "source", (*CLIPS, NEW_CLIP))
    return copy_store(finished.config, tmp_path / "store").model_copy(update={"source": str(source)})


def with_refresh(config: PipelineConfig, **refresh: Any) -> PipelineConfig:
    return config.model_copy(update={"refresh": config.refresh.model_copy(update=refresh)})


def rows(corpus: Artifact, name: str) -> list[dict[str, Any]]:
    shards = [corpus.store.find(shard) for shard in corpus.summary["shards"]]
    return [row for shard in shards for row in read_table(shard.path(name)).to_pylist()]


def test_one_more_file_costs_its_own_shard_and_what_builds_on_the_corpus(finished: Finished, grown: PipelineConfig):
    outputs, computed = run_tiny(grown)
    assert computed.parts() == [
        "ingestion/shard",
        "ingestion/corpus",
        "ingestion/labels",
        "tokenization/shard",
        "tokenization/tokens",
        "logit_caching/shard",
        *AFTER_THE_TEACHER,
    ]
    assert outputs["tokens"].summary["tokenizer"] == finished.outputs["tokens"].summary["tokenizer"]
    assert outputs["teacher"] == finished.outputs["teacher"]
    assert outputs["corpus"].summary["utterances"] == finished.outputs["corpus"].summary["utterances"] + 1
    assert outputs["student"].summary["train_sequences"] == finished.outputs["student"].summary["train_sequences"] + 1


def test_new_training_speech_that_no_student_heard_evaluates_nothing_again(finished: Finished, grown: PipelineConfig):
    """The floors are counted from what the student was trained on, not from all that is there."""
    outputs, computed = run_tiny(with_refresh(grown, student="pinned"), until="evaluation")
    assert outputs["scores"] == finished.outputs["scores"]
    assert not [part for part in computed.parts() if part.startswith("evaluation/")]


def test_old_artifacts_are_not_touched(finished: Finished, grown: PipelineConfig):
    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for i in old for path in Path(grown.root, i).rglob("*")}

    old = digests(finished.store)
    before = written()
    run_tiny(grown)
    assert written() == before
    assert digests(Store(grown.root)).items() > old.items()


def test_new_held_out_speech_costs_no_training(finished: Finished, tmp_path: Path):
    source = copy_clips(tmp_path / "source", (*CLIPS, NEW_HELD_OUT_CLIP))
    config = copy_store(finished.config, tmp_path / "store").model_copy(update={"source": str(source)})
    outputs, computed = run_tiny(config)
    assert computed.parts() == [
        "ingestion/shard",
        "ingestion/corpus",
        "ingestion/labels",
        "tokenization/shard",
        "tokenization/tokens",
        "evaluation/scores",
        "evaluation/probes",
        "evaluation/probe_scores",
        "evaluation/gap",
        "export/model",
        "generation/samples",
    ]
    assert outputs["student"] == finished.outputs["student"]


def test_files_that_move_or_are_renamed_or_copied_change_nothing(finished: Finished, tmp_path: Path):
    source = copy_clips(tmp_path / "elsewhere")
    (source / CLIPS[0]).rename(source / "renamed.wav")
    shutil.copyfile(source / CLIPS[1], source / "copy.opus")
    config = copy_store(finished.config, tmp_path / "store").model_copy(update={"source": str(source)})
    outputs, computed = run_tiny(config)
    assert computed.parts() == ["ingestion/labels"]  # what the source says of speakers today, which nothing builds on
    assert outputs | {"labels": finished.outputs["labels"]} == finished.outputs
    assert scan(config, Store(config.root)).hashed == 0  # and the next look reads none of them


def test_what_is_new_is_told_by_content_whatever_the_times_of_files_say(grown: PipelineConfig):
    """Its files are from 1970 and from 2100, the new one as well."""
    for number, path in enumerate(sorted(Path(str(grown.source)).rglob("*.*"))):
        os.utime(path, (number % 2 * 4.1e9,) * 2)
    today = scan(grown, Store(grown.root))
    assert (today.new, today.known) == (1, 12)
    assert [file.file.path for group in today.groups for file in group] == [NEW_CLIP]


def test_files_that_are_gone_from_the_source_stay_in_the_corpus(finished: Finished, grown: PipelineConfig):
    for clip in CLIPS[:6]:
        Path(str(grown.source), clip).unlink()
    Path(str(grown.source), NEW_CLIP).unlink()
    outputs, computed = run_tiny(grown)
    assert computed.parts() == ["ingestion/labels"]  # what the source says of speakers today, which nothing builds on
    assert outputs | {"labels": finished.outputs["labels"]} == finished.outputs


@pytest.mark.parametrize(("fraction", "refitted"), [(0.05, True), (0.5, False)])
def test_growth_fits_again_when_the_corpus_grew_by_more_than_the_set_fraction(
    grown: PipelineConfig, fraction: float, refitted: bool
):
    config = with_refresh(grown, codebooks="growth", teacher="growth", growth_fraction=fraction)
    _, computed = run_tiny(config, until="adaptation")
    assert ("tokenization/codebooks" in computed.parts()) is refitted
    assert ("adaptation/teacher" in computed.parts()) is refitted
    _, again = run_tiny(config, until="adaptation")
    assert not again.ran


def test_a_later_run_goes_on_with_what_a_refit_pinned(grown: PipelineConfig):
    refitted, _ = run_tiny(with_refresh(grown, codebooks="always", teacher="always"), until="adaptation")
    pinned, computed = run_tiny(grown, until="adaptation")
    assert not computed.ran
    assert pinned == refitted


def test_always_gives_the_bytes_of_a_run_from_scratch(tmp_path: Path):
    """In shards of one file each, so that the shards are the same; only their order in the corpus is another."""
    early, late = CLIPS[3:7], (*CLIPS[1:3], NEW_CLIP)
    settings = {
        "ingestion": {"shard_megabytes": 0.001},
        "refresh": {"codebooks": "always", "teacher": "always"},
    }
    source = copy_clips(tmp_path / "source", early)
    grown = tiny_config(source, tmp_path / "grown", **settings)
    run_tiny(grown, until="tokenization")
    copy_clips(source, late)
    in_two = run_tiny(grown)
    in_one = run_tiny(tiny_config(source, tmp_path / "scratch", **settings))
    first, second = (run[0]["corpus"].summary["shards"] for run in (in_two, in_one))
    assert sorted(first) == sorted(second) and first != second
    assert bytes_of(in_two) == bytes_of(in_one)


def bytes_of(run: tuple[Outputs, Computed]) -> dict[str, Any]:
    """Digests of all files by part; of export without the model card, which names the artifacts it came from."""
    outputs, computed = run
    codebooks = next(step for step in computed.steps if step.part == "codebooks").find()
    return {
        artifact.part: {f.name: f.sha256 for f in artifact.manifest.files if f.name not in NAMES_ITS_INPUTS}
        for artifact in (codebooks, *outputs.values())
        if artifact.manifest is not None and artifact.part != "corpus"
    }


NAMES_ITS_INPUTS = ("model/README.md", "model/speech.json")


def test_no_recording_and_no_speaker_is_on_both_sides(finished: Finished, grown: PipelineConfig):
    before = sides(rows(finished.outputs["corpus"], "utterances.parquet"), "recording_id")
    outputs, _ = run_tiny(grown, until="ingestion")
    after = rows(outputs["corpus"], "utterances.parquet")
    assert {len(found) for found in sides(after, "recording_id").values()} == {1}
    assert {len(found) for speaker, found in sides(after, "speaker").items() if speaker} == {1}
    assert sides(after, "recording_id").items() > before.items()


def sides(utterances: Iterable[dict[str, Any]], column: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in utterances:
        found[row[column]].add(row["split"])
    return dict(found)


def test_a_student_leads_back_to_every_file_that_it_learned_from(grown: PipelineConfig):
    outputs, _ = run_tiny(grown, until="distillation")
    seen, ahead = set(), [outputs["student"]]
    while ahead:
        artifact = ahead.pop()
        assert artifact.manifest is not None
        seen.add(artifact.id)
        ahead += [outputs["student"].store.find(i) for ids in artifact.manifest.inputs.values() for i in ids]
    shards = [Store(grown.root).find(i) for i in seen if i.startswith("ingestion/")]
    paths = {row["path"] for shard in shards for row in read_table(shard.path("files.parquet")).to_pylist()}
    assert paths == {*CLIPS, NEW_CLIP}

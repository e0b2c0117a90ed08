"""A small folder starts from the base: decided once, with its codebooks, and never where it has heard held-out speech."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.fixtures.tiny import (
    CLIPS,
    EXAMPLES,
    NEW_CLIP,
    NEW_HELD_OUT_CLIP,
    TRAINING,
    Computed,
    copy_clips,
    tiny_config,
)
from tinywave_core.base import opening
from tinywave_core.base.opening import open_base
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import teacher_parameters
from tinywave_core.errors import ConfigError, LeakError
from tinywave_core.run.pipeline import Look, build_stage, run_pipeline
from tinywave_core.run.preflight import check_run
from tinywave_core.run.start import choose_start, expected_start, possible_configs
from tinywave_core.stages.adaptation.summary import TeacherSummary
from tinywave_core.stages.tokenization.stage import facts
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.steps.base import Outputs, compute_all
from tinywave_core.steps.inputs import corpus_key
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Store, sha256_of

# What `make base` holds out of the example speech, the base has not heard: two readers of CLIPS.
SETTINGS: dict[str, Any] = {
    "ingestion": {"held_out_fraction": 0.12},
    "tokenization": {"units": {"clusters": 100}, "pitch": {"clusters": 32}, "style": {"clusters": 16}},
    "adaptation": {"teacher": "auto", "fresh": {"layers": 6, "width": 128, "heads": 4, "intermediate": 352}},
}
FEW = (*CLIPS[5:7], *CLIPS[9:11])
"""Two readers that the base has heard, and the two that it has not, who are held out."""
MORE = (CLIPS[0], CLIPS[8], CLIPS[11], NEW_CLIP)
"""Others that it has heard: enough speech for codebooks of a fresh start."""


def config_of(source: Path, root: Path, **adaptation: Any) -> PipelineConfig:
    settings = {**SETTINGS, "adaptation": SETTINGS["adaptation"] | adaptation}
    return tiny_config(source, root, **settings)


def ingested(config: PipelineConfig) -> tuple[Store, Outputs]:
    store = Store(config.root)
    return store, run_pipeline(config, store, compute_all, "ingestion")


def decisions(config: PipelineConfig) -> list[tuple[str, str]]:
    records = Store(config.root).log(f"starts/{corpus_key(config)}").records()
    return [(record["teacher"], record["why"]) for record in records]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_clips(tmp_path_factory.mktemp("few"), FEW)


@pytest.fixture(scope="module")
def from_base(few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineConfig, Outputs, Computed]:
    """A whole run whose start is left to TinyWave."""
    config = config_of(few, tmp_path_factory.mktemp("run") / "store", base_training={**TRAINING, "learning_rate": 3e-4})
    execute = Computed()
    return config, run_pipeline(config, Store(config.root), execute), execute


def test_a_small_folder_starts_from_the_base_and_ends_with_a_model_that_has_its_codebooks(from_base):
    config, outputs, computed = from_base
    assert outputs["teacher"].summary["started_from"] == "base"
    assert outputs["teacher"].summary["layers"] == 6
    assert outputs["student"].summary["layers"] == 2
    for name in ("codebooks.json", "codebooks.safetensors"):
        mine = outputs["model"].path("model") / "speech_tokenizer" / name
        assert sha256_of(mine) == open_base().files[f"codebooks/{name}"]
    ((teacher, why),) = decisions(config)
    assert teacher == "base" and "of training speech, below 2 h" in why
    assert list(outputs["samples"].path().glob("*.wav"))
    assert computed.parts().count("tokenization/codebooks") == 1


def test_the_adapted_base_knows_more_than_a_fresh_teacher_could_in_so_few_steps(from_base):
    summary = TeacherSummary.of(from_base[1]["teacher"])
    assert summary.steps <= TRAINING["steps"]
    assert summary.held_out_nll_after < 4.5  # uniform: 6.0; random weights after six steps hardly below
    assert abs(summary.held_out_nll_before - summary.held_out_nll_after) < 0.3


def test_what_the_base_has_heard_of_the_speech_is_counted_and_said(from_base):
    leaks = TokensSummary.of(from_base[1]["tokens"]).leaks
    assert (leaks.held_out.heard, leaks.held_out.utterances) == (0, 2)
    assert (leaks.train.by_recording, leaks.train.utterances) == (2, 2)
    assert leaks.train.recordings == sorted(FEW[:2])
    said = dict(facts({"tokens": from_base[1]["tokens"]}))
    assert said["heard by the base before"] == "0 of 2 held-out and 2 of 2 training utterances"


def test_a_student_of_the_base_names_whose_recordings_it_comes_from(from_base):
    model = from_base[1]["model"].path("model")
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-4.0" in card
    assert "LibriSpeech (c) 2014 Vassil Panayotov" in card
    assert (model / "LICENSE").read_bytes() == open_base().place("LICENSES").read_bytes()


def test_new_audio_costs_its_own_shard_and_keeps_the_start(from_base, tmp_path: Path):
    config, outputs, _ = from_base
    shutil.copytree(config.root, tmp_path / "store")
    source = copy_clips(tmp_path / "source", (*FEW, NEW_CLIP))
    grown = config.model_copy(update={"root": str(tmp_path / "store"), "source": str(source)})
    execute = Computed()
    after = run_pipeline(grown, Store(grown.root), execute, "adaptation")
    assert execute.parts() == [
        "ingestion/shard",
        "ingestion/corpus",
        "ingestion/labels",
        "tokenization/shard",
        "tokenization/leaks",
        "tokenization/tokens",
    ]
    assert after["teacher"].id == outputs["teacher"].id
    assert decisions(grown) == decisions(config)


# The decision ------------------------------------------------------------------------------------------------------


def test_the_first_decision_is_kept_as_the_corpus_grows(few: Path, tmp_path: Path):
    limit = {"base_below_hours": 10 / 3600}  # the two training clips take 6 s; with the others it is more
    config = config_of(few, tmp_path / "store", **limit)
    store, outputs = ingested(config)
    first = choose_start(config, store, outputs["corpus"])
    assert first.config.adaptation.teacher == "base"
    grown = config.model_copy(update={"source": str(copy_clips(tmp_path / "more"))})
    _, outputs = ingested(grown)
    assert choose_start(grown, store, outputs["corpus"]).config.adaptation.teacher == "fresh"  # nothing was kept yet
    first.keep(store)
    again = choose_start(grown, store, outputs["corpus"])
    assert again.config.adaptation.teacher == "base" and again.why == first.why and not again.is_new
    other_limit = config_of(few, tmp_path / "store", base_below_hours=0)
    assert choose_start(other_limit, store, outputs["corpus"]).config.adaptation.teacher == "fresh"


def test_who_only_looks_decides_the_same_and_writes_nothing(few: Path, tmp_path: Path):
    config = config_of(few, tmp_path / "store")
    store, outputs = ingested(config)
    look = Look()
    build_stage("tokenization", config, store, outputs, look)
    assert {step.params.get("base") for step, _ in look.steps} >= {open_base().digest}
    assert decisions(config) == []
    said = expected_start(config, store, 0.2).sentence
    assert said == "starts from the base: 12.0 min of training speech, below 2 h, unless it has heard what is held out"
    assert expected_start(config, store, 2.0).sentence == "starts fresh: 2.0 h of training speech, not below 2 h"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tokenization": {"units": {"clusters": 20}}}, "tokenization.units.clusters is 20, the base's is 100"),
        ({"adaptation": {"fresh": {"width": 32}}}, "adaptation.fresh.width is 32, the base's is 128"),
    ],
)
def test_auto_is_fresh_where_a_setting_does_not_go_with_the_base(few: Path, tmp_path: Path, settings: dict, why: str):
    values = config_of(few, tmp_path / "store").model_dump()
    for group, changes in settings.items():
        for name, change in changes.items():
            values[group][name] |= change
    start = expected_start(PipelineConfig.model_validate(values), Store(str(tmp_path / "store")), 0.1)
    assert start.sentence == f"starts fresh: {why}"


def test_explicit_base_with_another_setting_is_refused_before_the_run(few: Path, tmp_path: Path):
    config = config_of(few, tmp_path / "store", teacher="base")
    tokenization = config.tokenization.model_copy(update={"tokens": "base"})
    with pytest.raises(ConfigError, match="tokenization.tokens is base, the base's is expressive"):
        check_run(config.model_copy(update={"tokenization": tokenization}))


def test_both_teachers_that_auto_may_take_are_checked_before_the_run(few: Path, tmp_path: Path):
    config = config_of(few, tmp_path / "store")
    check_run(config)
    deep = config.distillation.model_copy(update={"layers": 7})
    with pytest.raises(ConfigError, match="7"):
        check_run(config.model_copy(update={"distillation": deep}))


def test_the_shape_is_the_bases_own_whatever_the_settings_of_a_fresh_one_say(few: Path, tmp_path: Path):
    config = config_of(few, tmp_path / "store")
    by_auto = possible_configs(config)
    assert [each.adaptation.teacher for each in by_auto] == ["base", "fresh"]
    small = {"layers": 4, "width": 32, "heads": 2, "intermediate": 64}
    (explicit,) = possible_configs(config_of(few, tmp_path / "store", teacher="base", fresh=small))
    assert explicit.adaptation.fresh == open_base().shape
    assert teacher_parameters(explicit) == open_base().training["teacher_parameters"]
    assert explicit.adaptation.own_training == explicit.adaptation.base_training


# Leaks -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose labels put a reader that the base has heard on the held-out side."""
    source = copy_clips(tmp_path_factory.mktemp("leaking"), (*FEW, CLIPS[4], *MORE))
    return labelled(source, {CLIPS[4]: "7190"})


def labelled(source: Path, speakers: dict[str, str]) -> Path:
    with (source / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "speaker"), *speakers.items()])
    return source


def test_a_held_out_recording_that_the_base_has_heard_makes_auto_fresh(leaking: Path, tmp_path: Path):
    config = config_of(leaking, tmp_path / "store")
    store, outputs = ingested(config)
    build_stage("tokenization", config, store, outputs, Look())
    execute = Computed()
    build_stage("tokenization", config, store, outputs, execute)
    assert decisions(config) == [("fresh", "the base has heard 1 of the 3 held-out recordings")]
    assert "tokenization/leaks" not in execute.parts()
    assert not any("base" in step.params for step in execute.steps)


def test_a_held_out_recording_that_the_base_has_heard_is_an_error_where_the_base_is_asked_for(
    leaking: Path, tmp_path: Path
):
    config = config_of(leaking, tmp_path / "store", teacher="base")
    store, outputs = ingested(config)
    with pytest.raises(LeakError, match=r"1 of the 3 held-out recordings: .*--adaptation.teacher fresh"):
        build_stage("tokenization", config, store, outputs, compute_all)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of the base, cut by half a second and encoded again, as somebody else's held-out speech."""
    source = copy_clips(tmp_path_factory.mktemp("copied"), (*FEW, *MORE))
    samples, rate = soundfile.read(EXAMPLES / CLIPS[7], dtype="float32")
    noise = np.random.default_rng(0).normal(0, 1e-4, len(samples)).astype(np.float32)
    soundfile.write(source / "copy.ogg", (samples + noise)[rate // 2 :], rate, format="OGG", subtype="OPUS")
    return labelled(source, {"copy.ogg": "7190"})


def test_a_copy_that_was_cut_and_encoded_again_is_found_by_its_sound(copied: Path, tmp_path: Path):
    config = config_of(copied, tmp_path / "store")
    store, outputs = ingested(config)
    assert choose_start(config, store, outputs["corpus"]).config.adaptation.teacher == "base"  # no id tells
    tokens = build_stage("tokenization", config, store, outputs, Computed())["tokens"]
    why = "the base has heard 1 of the 3 held-out utterances (0 by recording, 1 by sound), such as copy.ogg"
    assert decisions(config)[0][0] == "base"
    assert decisions(config)[1:] == [("fresh", why)]
    assert TokensSummary.of(tokens).leaks is None
    assert choose_start(config, store, outputs["corpus"]).sentence == f"starts fresh: {why}"

    explicit = config_of(copied, tmp_path / "store", teacher="base")
    with pytest.raises(
        LeakError, match=r"teacher is base, but the base has heard 1 of the 3 held-out utterances .*Pass"
    ):
        build_stage("tokenization", explicit, store, outputs, compute_all)


def test_every_utterance_has_a_row_that_says_how_it_was_found(copied: Path, tmp_path: Path):
    config = config_of(copied, tmp_path / "store", teacher="base")
    store, outputs = ingested(config)
    execute = Computed()
    with pytest.raises(LeakError):
        build_stage("tokenization", config, store, outputs, execute)
    (leaks,) = (step.find() for step in execute.of("tokenization") if step.part == "leaks")
    rows = read_table(leaks.path("leaks.parquet")).to_pylist()
    by = {(row["split"], row["by"]): row["share"] for row in rows}
    assert by.keys() == {("held_out", None), ("held_out", "sound"), ("train", "recording")}
    assert by["held_out", None] < 0.2 < 0.25 < by["held_out", "sound"]
    assert len(rows) == len(FEW) + len(MORE) + 1


# Identity ----------------------------------------------------------------------------------------------------------


def test_another_base_is_another_tokenizer_and_another_teacher(from_base, tmp_path: Path):
    config, outputs, _ = from_base
    folder = Path(shutil.copytree(opening.RELEASE, tmp_path / "release"))
    elsewhere = config.adaptation.model_copy(update={"base": str(folder)})
    config = config.model_copy(update={"adaptation": elsewhere})
    same = Look()
    run_pipeline(config, Store(config.root), same, "adaptation")
    assert all(artifact.complete for _, artifact in same.steps)  # where it lies is no part of what it is
    rewrite(folder, "teacher/generation_config.json", (folder / "teacher/generation_config.json").read_bytes() + b"\n")
    look = Look()
    done = {name: outputs[name] for name in ("corpus", "tokens")}
    build_stage("adaptation", config, Store(config.root), done, look)
    build_stage("tokenization", config, Store(config.root), {"corpus": outputs["corpus"]}, lambda steps: look(steps))
    ids = {step.part: step.id for step, _ in look.steps}
    assert ids["teacher"] != outputs["teacher"].id
    assert ids["codebooks"] != outputs["tokens"].summary["tokenizer"]


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Another file, named by its digest in BASE.json."""
    (folder / name).write_bytes(content)
    about = json.loads((folder / opening.DESCRIPTION).read_text(encoding="utf-8"))
    about["files"][name] = sha256_of(folder / name)
    (folder / opening.DESCRIPTION).write_text(json.dumps(about), encoding="utf-8")


def test_the_settings_of_other_teachers_are_no_part_of_an_adapted_base(from_base):
    config, outputs, _ = from_base
    adaptation = config.adaptation.model_copy(
        update={"base_below_hours": 3.0, "training": config.adaptation.training.model_copy(update={"steps": 77})}
    )
    look = Look()
    explicit = adaptation.model_copy(update={"teacher": "base"})
    build_stage("adaptation", config.model_copy(update={"adaptation": explicit}), Store(config.root), outputs, look)
    assert [step.id for step, _ in look.steps] == [outputs["teacher"].id]


def test_held_out_readers_of_the_example_speech_are_unknown_to_the_base():
    heard = {row["path"] for row in json.loads((opening.RELEASE / "recordings.json").read_text(encoding="utf-8"))}
    assert {CLIPS[9], CLIPS[10], NEW_HELD_OUT_CLIP}.isdisjoint(heard)
    assert set(CLIPS[4:8]) <= heard

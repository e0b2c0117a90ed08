"""Labels by given models: a column per label beside the measures, thresholds on them, and nothing computed twice."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.conftest import Finished
from tests.fixtures.judges import write_classifier
from tests.fixtures.tiny import CLIPS, copy_clips, copy_store, merged, run_tiny, tiny_config
from tests.stages.test_quality import rows
from tinywave_core.audio.utterances import read_utterances
from tinywave_core.config.ingestion import IngestionConfig
from tinywave_core.config.load import check
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import CheckpointError, ConfigError
from tinywave_core.reporting.quality import render_quality
from tinywave_core.stages.ingestion import classes, quality
from tinywave_core.stages.ingestion.measures import measures_steps
from tinywave_core.stages.ingestion.quality_words import plan_lines
from tinywave_core.stages.ingestion.stage import facts
from tinywave_core.stages.ingestion.summary import QualitySummary
from tinywave_core.steps.base import Outputs, compute_all
from tinywave_core.steps.inputs import corpus_key, training_key
from tinywave_core.storage.store import Artifact, NotYetComputedError, Store

LABELS = ("Speech", "Music, <loud>")
LOUD = "music.Music, <loud>"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "music": write_classifier(folder / "music", "Wav2Vec2ForSequenceClassification", LABELS),
        "language": write_classifier(folder / "language", "ASTForAudioClassification", ("de", "en", "fr")),
    }


def given(config: PipelineConfig, models: dict[str, Path], **keep: str) -> PipelineConfig:
    asked = ",".join(f"{name}={folder}" for name, folder in models.items())
    settings = {"ingestion": {"measures": {"classifiers": asked}, "keep": keep}}
    return PipelineConfig.model_validate(merged(config.model_dump(), settings))


@pytest.fixture(scope="module")
def heard(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Three readers in two shards, asked by both models. Its store is shared."""
    folder = tmp_path_factory.mktemp("heard")
    source = copy_clips(folder / "source", CLIPS[4:7])
    config = given(tiny_config(source, folder / "store", ingestion={"shard_megabytes": 0.02}), models)
    outputs, computed = run_tiny(config, "ingestion")
    return Finished(config, Store(config.root), outputs, computed)


def audio(outputs: Outputs) -> list[Artifact]:
    return outputs["corpus"].store.find_all(outputs["corpus"].summary["shards"])


def test_each_label_is_a_column_with_the_numbers_of_the_pipeline(heard: Finished, models: dict[str, Path]):
    assert len(audio(heard.outputs)) > 1
    found = {row["utterance_id"]: row for row in rows(heard.outputs["quality"])}
    assert len(found) == 3
    for name, folder in models.items():
        asked = transformers.pipeline("audio-classification", str(folder), device="cpu")
        for shard in audio(heard.outputs):
            for utterance in read_utterances(shard):
                own, whole = found[utterance.utterance_id], {"raw": utterance.samples, "sampling_rate": 16_000}
                # The window of the second model is shorter than any utterance.
                for each in asked(whole, top_k=None) if name == "music" else ():
                    assert own[f"{name}.{each['label']}"] == pytest.approx(each["score"], rel=1e-7)
                assert sum(own[f"language.{label}"] for label in ("de", "en", "fr")) == pytest.approx(1, abs=1e-6)


def test_neighbours_have_no_say_in_the_numbers_of_an_utterance(
    heard: Finished, models: dict[str, Path], tmp_path: Path
):
    source = copy_clips(tmp_path / "source", CLIPS[5:9])
    config = given(tiny_config(source, tmp_path / "store", ingestion={"shard_megabytes": 10}), models)
    others = {row["utterance_id"]: row for row in rows(run_tiny(config, "ingestion")[0]["quality"])}
    same = [row for row in rows(heard.outputs["quality"]) if row["utterance_id"] in others]
    assert len(same) == 2 and len(others) == 4
    for row in same:
        columns = [name for name in row if "." in name]
        assert len(columns) == 5
        assert [row[name] for name in columns] == [others[row["utterance_id"]][name] for name in columns]


def test_nothing_is_left_out_unless_a_label_has_a_threshold_and_a_threshold_asks_no_model_again(
    heard: Finished, models: dict[str, Path], tmp_path: Path
):
    assert {row["reason"] for row in rows(heard.outputs["quality"])} == {None}
    config = copy_store(heard.config, tmp_path / "store")
    values = sorted(row[LOUD] for row in rows(heard.outputs["quality"]))
    between = (values[1] + values[2]) / 2
    most = given(config, models, most_of=f"{LOUD}={between}")
    (line, *_) = plan_lines(most, heard.outputs["corpus"], more=False)
    assert line.startswith("left out: 1 of 3 utterances") and "1 music (" in line and f"most_of {LOUD} " in line
    outputs, computed = run_tiny(most, "ingestion")
    assert computed.parts() == ["ingestion/quality"]
    (gone,) = [row for row in rows(outputs["quality"]) if row["reason"]]
    assert gone[LOUD] == values[2] and gone["reason"] == "music"
    assert gone["detail"] == f"probability of {LOUD} {values[2]:.2f}, above {between:g}"
    assert quality.left_out(most, outputs["corpus"]) == {gone["utterance_id"]: "music"}
    assert "1 of 3 utterances" in dict(facts(outputs))["left out"]
    least = quality.left_out(given(config, models, least_of=f"{LOUD}={between}"), outputs["corpus"])
    assert len(least) == 2 and gone["utterance_id"] not in least


def test_a_model_that_comes_later_is_asked_alone(heard: Finished, models: dict[str, Path], tmp_path: Path):
    config = copy_store(heard.config, tmp_path / "store")
    third = {
        **models,
        "voices": write_classifier(tmp_path / "voices", "HubertForSequenceClassification", ("one", "two")),
    }
    _, computed = run_tiny(given(config, third), "ingestion")
    assert computed.parts() == ["ingestion/classes"] * len(audio(heard.outputs)) + ["ingestion/quality"]
    renamed = {"song": models["music"], "language": models["language"]}
    outputs, computed = run_tiny(given(config, renamed), "ingestion")
    assert computed.parts() == ["ingestion/quality"] and "song.Speech" in rows(outputs["quality"])[0]


def test_without_models_all_is_as_it_was(heard: Finished, models: dict[str, Path]):
    plain = PipelineConfig.model_validate(
        {**heard.config.model_dump(), "ingestion": {"measures": {"always": True}, "shard_megabytes": 0.02}}
    )
    assert "classifiers" not in plain.ingestion.measures.model_dump()
    assert not {"most_of", "least_of"} & plain.ingestion.keep.model_dump().keys()
    corpus = heard.outputs["corpus"]
    with_models = [step.fingerprint for step in measures_steps(heard.config, corpus)]
    assert [step.fingerprint for step in measures_steps(plain, corpus)] == with_models
    assert classes.classes_steps(plain, corpus) == {}


def test_pages_have_a_histogram_of_each_label_with_its_threshold(
    heard: Finished, models: dict[str, Path], tmp_path: Path
):
    plain = render_quality(heard.outputs["quality"])
    figures = {each.measure: each for each in QualitySummary.of(heard.outputs["quality"]).measured}
    own = {name for name in figures if "." in name}
    assert own == {"music.Speech", LOUD, "language.de", "language.en", "language.fr"}
    assert all(sum(figures[name].counts) == 3 for name in own)
    assert all(f"probability of {name}</figcaption>" in plain for name in own - {LOUD}) and "<loud>" not in plain
    config = given(copy_store(heard.config, tmp_path / "store"), models, least_of="language.fr=0.001")
    page = render_quality(run_tiny(config, "ingestion")[0]["quality"])
    assert page.count("least_of language.fr 0.001</text>") == 1


def test_thresholds_of_another_model_train_others(heard: Finished, models: dict[str, Path], tmp_path: Path):
    tokens = heard.outputs["corpus"]  # any artifact: only its summary is asked
    keep = {"most_of": "music.Speech=0.5"}
    key = training_key(given(heard.config, models, **keep), tokens)
    other = write_classifier(tmp_path / "other", "HubertForSequenceClassification", LABELS)
    assert key != training_key(given(heard.config, {**models, "music": other}, **keep), tokens)
    assert key == training_key(given(heard.config, {"music": models["music"]}, **keep), tokens)
    assert training_key(given(heard.config, models), tokens) == corpus_key(heard.config)


def test_a_plan_says_which_utterances_no_model_has_heard(heard: Finished, models: dict[str, Path], tmp_path: Path):
    third = {
        **models,
        "voices": write_classifier(tmp_path / "voices", "HubertForSequenceClassification", ("one", "two")),
    }
    config = given(heard.config, third, most_of="voices.two=0.5")
    (line, *_) = plan_lines(config, heard.outputs["corpus"], more=False)
    assert line.startswith("left out of 3 utterances that are not measured: known after measuring")
    with pytest.raises(NotYetComputedError):
        quality.left_out(config, heard.outputs["corpus"])


def test_another_model_under_the_planned_path_is_refused(heard: Finished, tmp_path: Path):
    folder = write_classifier(tmp_path / "model")
    steps = classes.classes_steps(given(heard.config, {"late": folder}), heard.outputs["corpus"])["late"]
    write_classifier(folder, "HubertForSequenceClassification")
    with pytest.raises(CheckpointError, match="is not the model that the run was planned with"):
        compute_all(steps)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep": {"most_of": "music.Speech=0.5"}}, "measures.classifiers has no model: add music=DIR"),
        ({"measures": {"classifiers": "music"}}, "expected a name"),
        ({"measures": {"classifiers": "a.b=x"}}, "expected a name"),
        ({"measures": {"classifiers": "a=x,a=y"}}, "no name twice"),
        *(
            ({"measures": {"classifiers": "music=x"}, "keep": {"most_of": bound}}, "a probability of 0 to 1")
            for bound in (
                "music.Speech",
                "Speech=0.5",
                "music.Speech=2",
                "music.Speech=0.5,music.Speech=0.6",
                "music.a=.",
            )
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        check(IngestionConfig, settings)


def test_a_label_that_the_model_has_not_is_told_before_anything_is_decoded(models: dict[str, Path], tmp_path: Path):
    source = copy_clips(tmp_path / "source", CLIPS[:1])
    config = given(tiny_config(source, tmp_path / "store"), models, most_of="music.Speeech=0.5")
    with pytest.raises(
        ConfigError, match="names the label music.Speeech; expected one of music.Music, <loud>, music.Speech"
    ):
        run_tiny(config, "ingestion")
    assert not list(Store(config.root).artifact_ids())


def test_labels_with_commas_and_dots_are_taken_as_they_are():
    settings = {"measures": {"classifiers": "a=x, b = y/z"}, "keep": {"most_of": "a.A, b.c=0.25,b.d = 1"}}
    config = check(IngestionConfig, settings)
    assert config.measures.models == {"a": "x", "b": "y/z"}
    assert config.keep.thresholds == {"most_of a.A, b.c": 0.25, "most_of b.d": 1.0}
    assert json.loads(config.model_dump_json())["keep"]["most_of"] == "a.A, b.c=0.25,b.d = 1"

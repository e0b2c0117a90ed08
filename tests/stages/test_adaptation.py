"""Adaptation of a checkpoint: LoRA and full, merged, refused when it does not fit or gets worse."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import Finished
from tests.fixtures.tiny import Computed, tiny_config
from tinywave_core.errors import ConfigError, MissingInputError, SourceError, TrainingError
from tinywave_core.evals.ngrams import Ngrams
from tinywave_core.models.llama import load_llama
from tinywave_core.run.pipeline import outputs_before, run_pipeline
from tinywave_core.sequences.index import load_sequences
from tinywave_core.stages.adaptation import teacher as adaptation
from tinywave_core.stages.adaptation.summary import TeacherSummary
from tinywave_core.steps.base import compute_all
from tinywave_core.storage.store import Store
from tinywave_core.tokenizers.vocabulary import Vocabulary
from tinywave_core.training.curves import curves_of


@pytest.fixture
def checkpoint(finished: Finished, tmp_path: Path) -> Path:
    """The tiny teacher as if somebody had released it."""
    return Path(shutil.copytree(finished.outputs["teacher"].path("teacher"), tmp_path / "released"))


def adapt(finished: Finished, tmp_path: Path, checkpoint: Path | str, **changes):
    store = Store(str(shutil.copytree(finished.store.root, tmp_path / "store", dirs_exist_ok=True)))
    values = finished.config.model_dump()
    values["root"] = store.root
    values["adaptation"] |= {
        "teacher": str(checkpoint),
        **{k: v for k, v in changes.items() if k not in ("training", "validation")},
    }
    values["validation"] |= changes.get("validation", {})
    values["adaptation"]["training"] |= {"steps": 6, "learning_rate": 2e-3} | changes.get("training", {})
    config = type(finished.config).model_validate(values)
    return adaptation.build(config, outputs_before("adaptation", config, store)["tokens"], compute_all)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_checkpoint_gets_better_on_held_out_speech_and_loads_as_a_plain_llama(finished, tmp_path, checkpoint, method):
    teacher = adapt(finished, tmp_path, checkpoint, method=method)
    assert teacher.summary["held_out_nll_after"] < teacher.summary["held_out_nll_before"]
    before, after = load_llama(checkpoint).state_dict(), load_llama(teacher.path("teacher")).state_dict()
    assert before.keys() == after.keys()  # adapters are merged, none is left
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[name], after[name])


def test_lora_leaves_embeddings_and_norms_as_they_are(finished, tmp_path, checkpoint):
    teacher = adapt(finished, tmp_path, checkpoint, method="lora")
    before, after = load_llama(checkpoint).state_dict(), load_llama(teacher.path("teacher")).state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert torch.equal(before[name], after[name])


@pytest.mark.parametrize("start", ["checkpoint", "fresh"])
def test_a_training_that_makes_the_teacher_worse_stops_the_run_where_no_speech_validates(
    finished, tmp_path, checkpoint, start
):
    with pytest.raises(TrainingError, match=r"worse on held-out speech: .* before, .* after, and no .* Raise"):
        adapt(
            finished,
            tmp_path,
            checkpoint if start == "checkpoint" else start,
            training={"learning_rate": 1.0, "dropout": 0.0, "warmup_steps": 0, "weight_decay": 0.0},
            validation={"fraction": 0},
        )


def test_a_training_that_only_makes_a_checkpoint_worse_keeps_it_as_it_was(finished, tmp_path, checkpoint):
    teacher = adapt(finished, tmp_path, checkpoint, training={"learning_rate": 1.0})
    before, after = load_llama(checkpoint).state_dict(), load_llama(teacher.path("teacher")).state_dict()
    assert TeacherSummary.of(teacher).training.best_step == 0
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_training_that_stops_after_its_tokens_reports_the_steps_that_it_took(finished, tmp_path, checkpoint):
    teacher = adapt(finished, tmp_path, checkpoint, training={"stop_after_tokens": 300})  # 256 in a step
    assert TeacherSummary.of(teacher).steps == len(curves_of(teacher)["loss"]) == 2


def test_passes_over_the_speech_decide_the_steps_and_a_fresh_teacher_drops_out(finished, tmp_path):
    fresh = TeacherSummary.of(adapt(finished, tmp_path, "fresh", training={"steps": 500, "passes": 2}))
    assert fresh.steps <= fresh.training.planned_steps < 50
    assert fresh.training.passes == pytest.approx(2 * fresh.steps / fresh.training.planned_steps, rel=0.2)
    assert fresh.training.dropout == 0.2


def test_a_checkpoint_is_not_dropped_out_unless_that_is_said(finished, tmp_path, checkpoint):
    assert TeacherSummary.of(adapt(finished, tmp_path, checkpoint)).training.dropout == 0
    said = adapt(finished, tmp_path, checkpoint, training={"dropout": 0.1})
    assert TeacherSummary.of(said).training.dropout == 0.1


def test_nothing_that_validates_is_trained_on(finished, tmp_path):
    teacher = TeacherSummary.of(adapt(finished, tmp_path, "fresh"))
    everything = sum(s["train_utterances"] for s in finished.outputs["tokens"].summary["shards"])
    assert teacher.training.validation_sequences > 0
    assert teacher.train_sequences + teacher.training.validation_sequences == everything


def test_a_checkpoint_is_known_by_its_content_not_its_place(finished, tmp_path, checkpoint):
    moved = Path(shutil.copytree(checkpoint, tmp_path / "elsewhere"))
    digests = {adaptation.checkpoint_digest(folder) for folder in (checkpoint, moved)}
    (moved / "config.json").write_text((moved / "config.json").read_text() + "\n")
    assert len(digests) == 1 and adaptation.checkpoint_digest(moved) not in digests


def test_a_folder_that_is_no_checkpoint_is_refused(finished, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match="no config.json"):
        adapt(finished, tmp_path, tmp_path / "empty")


def test_a_tokenizer_with_other_ids_is_refused_before_training(finished, tmp_path, checkpoint):
    path = checkpoint / "tokenizer.json"
    path.write_text(path.read_text().replace('"[Speech]"', '"[Sound]"').replace('"[Text]"', '"[Words]"'))
    with pytest.raises(ConfigError, match=r"gives \[Text\] the id"):
        adapt(finished, tmp_path, checkpoint)


def test_a_corpus_without_held_out_speech_is_refused_before_the_teacher_is_trained(tiny_source, tmp_path):
    config = tiny_config(tiny_source, tmp_path, ingestion={"held_out_fraction": 0.0001})
    ran = Computed()
    with pytest.raises(SourceError, match="nothing is held out: .* 0 held-out utterances.*which holds one out"):
        run_pipeline(config, Store(config.root), ran)
    assert {step.stage for step in ran.steps} == {"ingestion", "tokenization"}


def test_a_teacher_says_what_counts_of_its_training_tokens_reach_on_the_same_speech(finished: Finished):
    summary, tokens = TeacherSummary.of(finished.outputs["teacher"]), finished.outputs["tokens"]
    shards = finished.store.find_all([shard["id"] for shard in tokens.summary["shards"]])
    manifest = finished.outputs["teacher"].manifest
    assert manifest is not None
    held_out, sequences = (load_sequences(shards, split, 128) for split in ("held_out", "train"))
    train, _ = adaptation.training_parts(sequences, manifest.params["validation"])
    ngrams = Ngrams.count([s.ids for s in train], Vocabulary.from_json(tokens.summary["vocabulary"]).tokens)
    nll = -np.concatenate([ngrams.by_order(s.ids) for s in held_out], axis=1).mean(axis=1)
    assert summary.held_out_floor_nll == pytest.approx(nll[1:].min())


def test_what_a_teacher_is_measured_against_makes_no_other_teacher(finished: Finished):
    config = finished.config.model_copy(
        update={"adaptation": finished.config.adaptation.model_copy(update={"floor": "counts"})}
    )
    execute = Computed()
    assert adaptation.build(config, finished.outputs["tokens"], execute).id == finished.outputs["teacher"].id
    assert execute.ran == []

"""Logit shards of a finished run: what they say of themselves, and figures per kind of token worked out again."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import Finished
from tests.fixtures.tiny import Computed, copy_store, run_tiny
from tinywave_core.config.adaptation import AdaptationConfig
from tinywave_core.errors import TrainingError
from tinywave_core.models.llama import load_llama
from tinywave_core.run.pipeline import Look
from tinywave_core.sequences.index import load_sequences
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.stages.adaptation.summary import TeacherSummary
from tinywave_core.stages.logit_caching import logits as logit_caching
from tinywave_core.stages.logit_caching.stage import STAGE
from tinywave_core.stages.logit_caching.summary import LogitShardSummary, LogitsSummary
from tinywave_core.steps.base import Output
from tinywave_core.steps.inputs import training_shards
from tinywave_core.storage.store import Artifact, Store
from tinywave_core.teacher.capture import CapturedSequence
from tinywave_core.teacher.figures import figures_by_kind
from tinywave_core.teacher.logit_cache import Captured, LogitCache, read_about, sample_offsets, sparse_targets
from tinywave_core.tokenizers.vocabulary import Vocabulary


def shards_of(finished: Finished) -> list[Artifact]:
    return [finished.store.find(i, "shard") for i in summary_of(finished).shards]


def summary_of(finished: Finished) -> LogitsSummary:
    return LogitsSummary.of(finished.outputs["logits"])


def sequences_of(finished: Finished) -> list[TokenSequence]:
    return load_sequences(training_shards(finished.outputs["tokens"]), "train", 128)


@pytest.fixture(scope="module")
def probabilities(finished: Finished) -> dict[str, torch.Tensor]:
    """The teacher's distributions [L, V] on every training sequence, each read alone by transformers' own forward."""
    teacher = load_llama(finished.outputs["teacher"].path("teacher")).eval()
    with torch.no_grad():
        return {
            s.id: torch.softmax(teacher(torch.from_numpy(s.ids.astype(np.int64))[None]).logits[0].double(), -1)
            for s in sequences_of(finished)
        }


def test_a_shard_says_what_it_was_captured_from_and_how(finished: Finished):
    teacher, tokens = finished.outputs["teacher"], finished.outputs["tokens"]
    for shard in shards_of(finished):
        about = read_about(shard.path("logits.parquet"))
        assert about["format"] == "tw-logits/2"
        assert (about["entries"], about["temperature"], about["seed"], about["sequence_length"]) == (8, 1.0, 0, 128)
        assert (about["teacher"], about["dtype"]) == (teacher.id, "float32")
        assert about["tokens"] in {s["id"] for s in tokens.summary["shards"]}
        assert (about["vocabulary"], about["vocabulary_tokens"]) == (tokens.summary["vocabulary"], 293)
        assert len(about["teacher_weights"]) == 32 and about["code_version"]


def test_targets_are_those_of_each_sequence_alone_however_it_was_packed(finished: Finished, probabilities):
    """Bit-equal on a CPU, where the teacher reads packed rows of several sequences eight at a time."""
    cache = LogitCache.of_files({shard.id: shard.path("logits.parquet") for shard in shards_of(finished)}, {})
    assert len(cache) == len(probabilities)
    for seq_id, p in probabilities.items():
        ids, weights = sparse_targets(p, 8, torch.from_numpy(sample_offsets(0, seq_id, len(p))))
        assert np.array_equal(cache[seq_id].ids, ids)
        np.testing.assert_allclose(cache[seq_id].weights, weights, rtol=0.03)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_the_same_bytes_come_out_for_any_number_of_rows_at_once(finished: Finished, tmp_path, monkeypatch, rows: int):
    monkeypatch.setattr(logit_caching, "_CAPTURE_ROWS", rows)
    for step in finished.computed.of("logit_caching"):
        if step.part == "shard":
            output = Output(tmp_path / step.fingerprint, tmp_path, step.runtime)
            output.folder.mkdir()
            assert step.run(step, output) == LogitShardSummary.of(step.find())
            made = (output.folder / "logits.parquet").read_bytes()
            assert made == step.find().path("logits.parquet").read_bytes()


def test_figures_per_kind_are_those_of_the_whole_distributions(finished: Finished, probabilities):
    vocabulary = Vocabulary.from_json(finished.outputs["tokens"].summary["vocabulary"])
    rows: dict[int, list[tuple[float, float, float]]] = {}
    for s in sequences_of(finished):
        kinds = vocabulary.kinds(s.ids)
        for position, p in enumerate(probabilities[s.id].numpy()[:-1]):
            following = int(s.ids[position + 1])
            beyond = np.sort(p)[:-8].sum()
            figures = (-np.log(p[following]), -(p * np.log(p)).sum(), beyond)
            rows.setdefault(int(kinds[position + 1]), []).append(figures)
    found = summary_of(finished).kinds
    names = ("text", "marker", "hubert", "pitch", "style")
    assert {names[kind]: len(each) for kind, each in rows.items()} == {k: found[k].tokens for k in found}
    for kind, each in rows.items():
        nll, entropy, beyond = np.mean(each, axis=0)
        about = found[names[kind]].model_dump()
        expected = {"tokens": len(each), "teacher_nll": nll, "entropy": entropy, "mass_beyond_k": beyond}
        assert about == pytest.approx(expected, rel=1e-5)


def test_tokens_at_a_change_of_modality_have_figures_of_their_own():
    """<s> [Speech] [Hu0] [Text] a b [Speech] [Hu1] </s>: four stand at a switch, the text is the letters a and b."""
    vocabulary = Vocabulary(text=259, hubert=4)
    ids = np.array([1, 260, 261, 259, 100, 101, 260, 262, 2], np.uint16)
    logp = -np.arange(1.0, 10.0)
    captured = Captured("0" * 32, ids, np.zeros((9, 2)), np.zeros((9, 2)), target_logp=logp, entropy=-logp)
    found = figures_by_kind([CapturedSequence(captured, np.zeros(9))], [ids], vocabulary)
    assert {kind: figures.tokens for kind, figures in found.items()} == {
        "text": 2,
        "marker": 4,
        "hubert": 2,
        "switch": 4,
    }
    assert found["text"].teacher_nll == (4 + 5) / 2  # position 3 predicts a, position 4 predicts b
    assert found["switch"].teacher_nll == (3 + 4 + 6 + 7) / 4


def test_summaries_of_shards_add_up(finished: Finished):
    made, parts = summary_of(finished), [LogitShardSummary.of(shard) for shard in shards_of(finished)]
    assert made.bytes == sum(shard.path("logits.parquet").stat().st_size for shard in shards_of(finished))
    assert made.tokens == sum(part.tokens for part in parts)
    entropy = sum(part.kinds["hubert"].entropy * part.kinds["hubert"].tokens for part in parts)
    assert made.kinds["hubert"].entropy == pytest.approx(entropy / made.kinds["hubert"].tokens)


def test_more_entries_than_the_vocabulary_has_are_refused(finished: Finished, tmp_path):
    step = next(step for step in finished.computed.of("logit_caching") if step.part == "shard")
    config = step.config.model_copy(update={"entries": 293})
    with pytest.raises(ValueError, match="logit_caching.entries is 293"):
        step.run(replace(step, config=config), Output(tmp_path, tmp_path, step.runtime))


def caching(finished: Finished, floor: str, **summary: float | None) -> Computed:
    """What is asked for when the stage is built on a teacher with such figures, under this setting."""
    made, execute = finished.outputs["teacher"], Computed()
    assert made.manifest is not None
    manifest = made.manifest.model_copy(update={"summary": {**made.summary, **summary}})
    done = finished.outputs | {"teacher": replace(made, manifest=manifest)}
    adaptation = finished.config.adaptation.model_copy(update={"floor": floor})
    config = finished.config.model_copy(update={"adaptation": adaptation})
    STAGE.build(config, finished.store, done, execute)
    return execute


def test_a_teacher_that_is_worse_than_counts_stops_the_run_before_anything_is_cached(
    finished: Finished, tmp_path: Path
):
    """The tiny teacher as it is: a few steps on seconds of speech."""
    summary = TeacherSummary.of(finished.outputs["teacher"])
    after, floor = summary.held_out_nll_after, summary.held_out_floor_nll
    assert after is not None and floor is not None and after > floor
    said = rf"{after:.4f} nats per token on held-out speech, the counts {floor:.4f}.*--adaptation.floor none"
    config = copy_store(finished.config, tmp_path / "store")
    shutil.rmtree(Path(config.root, "logit_caching"))
    judged = config.model_copy(update={"adaptation": config.adaptation.model_copy(update={"floor": "counts"})})
    with pytest.raises(TrainingError, match=said):
        run_tiny(judged)
    assert not Store(config.root).artifact_ids("logit_caching")
    assert run_tiny(config, until="logit_caching")[0]["logits"].complete


@pytest.mark.parametrize(("after", "floor", "goes_on"), [(3.9, 4.0, True), (4.0, 4.0, False), (4.1, 4.0, False)])
def test_a_teacher_must_be_below_the_floor(finished: Finished, after: float, floor: float, goes_on: bool):
    figures = {"held_out_nll_after": after, "held_out_floor_nll": floor}
    if goes_on:
        assert caching(finished, "counts", **figures).steps
    else:
        with pytest.raises(TrainingError, match="no better than a table of counts"):
            caching(finished, "counts", **figures)


def test_without_held_out_speech_no_teacher_is_judged(finished: Finished):
    nothing = {"held_out_nll_after": None, "held_out_floor_nll": None}
    assert caching(finished, "counts", **nothing).steps


def test_a_plan_judges_no_teacher_that_is_not_there_yet(finished: Finished):
    planned = replace(finished.outputs["teacher"], manifest=None)
    config = finished.config.model_copy(update={"adaptation": AdaptationConfig()})
    look = Look()
    STAGE.build(config, finished.store, finished.outputs | {"teacher": planned}, look)
    assert look.steps

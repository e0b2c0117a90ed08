"""Likelihood in the tiny pipeline: what the report says is the sum of what the Parquet says, and what the floors are counted from."""

import hashlib
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Finished
from tests.fixtures.tiny import copy_store
from tinywave_core.errors import MissingInputError
from tinywave_core.evals.comparison import STREAMS
from tinywave_core.evals.figures import MODELS
from tinywave_core.evals.ngrams import Ngrams
from tinywave_core.sequences.index import load_sequences
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.stages.adaptation.teacher import training_parts
from tinywave_core.stages.evaluation import scores as scored
from tinywave_core.stages.evaluation.stage import STAGE
from tinywave_core.stages.evaluation.summary import ScoresSummary
from tinywave_core.steps.base import Output
from tinywave_core.steps.inputs import held_out_shards
from tinywave_core.storage.fingerprint import place_of
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Store
from tinywave_core.tokenizers.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def columns(finished: Finished) -> dict[str, np.ndarray]:
    table = read_table(finished.outputs["scores"].path("utterances.parquet"))
    return {name: np.array(values) for name, values in table.to_pydict().items()}


def test_bits_by_stream_are_those_of_the_utterances(finished: Finished, columns: dict[str, np.ndarray]):
    models = ScoresSummary.of(finished.outputs["scores"]).models
    for name in MODELS:
        for stream in STREAMS:
            bits = columns[f"{name}_{stream}_nll"].sum() / math.log(2) / columns["seconds"].sum()
            assert models[name].by_stream[stream].bits_per_second == pytest.approx(bits)


def test_streams_and_markers_make_up_the_whole(finished: Finished, columns: dict[str, np.ndarray]):
    tokens = sum(columns[f"{stream}_tokens"] for stream in STREAMS)
    markers = columns["tokens"] - tokens
    assert (markers == 2).all()  # [Speech] and </s>: the fresh teacher's convention is the fast one
    for name in MODELS:
        assert (sum(columns[f"{name}_{stream}_nll"] for stream in STREAMS) < columns[f"{name}_nll"]).all()


def test_ratio_to_the_teacher_is_that_of_both_nlls(finished: Finished):
    scores = ScoresSummary.of(finished.outputs["scores"])
    teacher, student, ratio = scores.models["teacher"], scores.models["student"], scores.ratios["student"]
    assert ratio.nll == pytest.approx(student.nll / teacher.nll)
    assert teacher.perplexity and ratio.perplexity == pytest.approx((student.perplexity or 0) / teacher.perplexity)
    assert ratio.nll_interval and ratio.nll_interval[0] <= (ratio.nll or 0) <= ratio.nll_interval[1]


def test_only_what_follows_the_prompt_of_long_utterances_is_a_continuation(
    finished: Finished, columns: dict[str, np.ndarray]
):
    after = ScoresSummary.of(finished.outputs["scores"]).continuation
    long = columns["seconds"] >= 2.5
    assert ((columns["continuation_tokens"] > 0) == long).all()
    assert (columns["continuation_tokens"] < columns["tokens"] - 2).all()
    assert after.utterances == long.sum()
    assert after.seconds == pytest.approx((columns["seconds"][long] - 1.0).sum())
    for name in MODELS:
        nll = columns[f"{name}_continuation_nll"].sum() / columns["continuation_tokens"].sum()
        assert after.models[name].nll == pytest.approx(nll)


def trained_on(finished: Finished) -> list[TokenSequence]:
    manifest = finished.outputs["student"].manifest
    assert manifest is not None
    sequences = load_sequences(finished.store.find_all(manifest.inputs["tokens"]), "train", 128)
    return training_parts(sequences, manifest.params["validation"])[0]


def test_the_floors_are_counted_from_the_students_training_tokens(finished: Finished):
    scores, tokens = ScoresSummary.of(finished.outputs["scores"]), finished.outputs["tokens"]
    ngrams = Ngrams.count(
        [s.ids for s in trained_on(finished)], Vocabulary.from_json(tokens.summary["vocabulary"]).tokens
    )
    held_out = load_sequences(held_out_shards(tokens), "held_out", 128)
    for order, figures in enumerate(scores.floors.counts, start=1):
        nll = -np.concatenate([ngrams.log_probabilities(s.ids, order) for s in held_out]).mean()
        assert figures.nll == pytest.approx(nll)
    assert (
        scores.floors.counted_tokens == sum(len(s.ids) for s in trained_on(finished)) < tokens.summary["train_tokens"]
    )
    assert scores.floors.guessing.nll == pytest.approx(math.log(ngrams.tokens))


def test_the_floors_of_a_student_of_a_share_are_counted_from_its_recordings(finished: Finished):
    step = next(step for step in finished.computed.of("evaluation") if step.part == "scores")
    student = step.input("student")
    assert student.manifest
    manifest = student.manifest.model_copy(update={"config": {**student.manifest.config, "share": 0.5}})
    own = scored._trained_on(replace(step, inputs={**step.inputs, "student": [replace(student, manifest=manifest)]}))
    whole = trained_on(finished)
    assert {s.id for s in own} == {s.id for s in whole if place_of(f"share/{s.recording_id}") < 0.5}
    assert 0 < len(own) < len(whole)


def test_the_difference_from_the_floor_is_that_of_both_figures(finished: Finished):
    scores = ScoresSummary.of(finished.outputs["scores"])
    for name in MODELS:
        nll = scores.models[name].nll
        assert scores.floors.above_counts[name].nll == pytest.approx(nll - scores.floors.floor.nll, abs=1e-6)
        assert scores.floors.above_guessing[name].nll == pytest.approx(nll - scores.floors.guessing.nll, abs=1e-6)


def test_the_line_of_the_terminal_names_the_floor(finished: Finished):
    scores = ScoresSummary.of(finished.outputs["scores"])
    _, out = STAGE.describe(finished.outputs)
    assert f"undistilled control {scores.models['control'].nll:.3f}, counts {scores.floors.floor.nll:.3f}" in out


def test_a_part_of_the_training_tokens_that_was_counted_is_told(finished: Finished):
    scores = ScoresSummary.of(finished.outputs["scores"])
    assert "counted" not in dict(STAGE.facts(finished.outputs))
    more = scores.floors.model_copy(update={"training_tokens": 12_345_678, "counted_tokens": 10_000_000})
    manifest = finished.outputs["scores"].manifest
    assert manifest is not None
    summary = scores.model_copy(update={"floors": more}).model_dump(mode="json", exclude_unset=True)
    artifact = replace(finished.outputs["scores"], manifest=manifest.model_copy(update={"summary": summary}))
    assert (
        dict(STAGE.facts({**finished.outputs, "scores": artifact}))["counted"]
        == "10,000,000 of 12,345,678 training tokens"
    )


def test_of_many_held_out_utterances_some_are_drawn_by_their_ids_alone(finished: Finished, tmp_path: Path):
    """One more is one more: those that were scored before stay."""
    step = next(step for step in finished.computed.of("evaluation") if step.part == "scores")

    def scored(most: int) -> tuple[ScoresSummary, list[str]]:
        output = Output(tmp_path / str(most), tmp_path, step.runtime)
        output.folder.mkdir()
        summary = step.run(replace(step, config=step.config.model_copy(update={"utterances": most})), output)
        return summary, read_table(output.folder / "utterances.parquet")["utterance_id"].to_pylist()

    every = read_table(finished.outputs["scores"].path("utterances.parquet"))["utterance_id"].to_pylist()
    (_, of_two), (three, of_three) = scored(2), scored(3)
    assert set(of_two) < set(of_three) < set(every) and len(set(of_two)) == 2 and len(set(of_three)) == 3
    assert of_three == [i for i in every if i in of_three]  # all pieces, in their order
    assert (three.held_out.utterances, three.held_out.drawn_from) == (3, len(set(every)))
    first = sorted(set(every), key=lambda i: hashlib.sha256(f"scores/0/{i}".encode()).digest())
    assert set(of_two) == set(first[:2])


def test_a_student_whose_training_tokens_are_gone_is_not_measured_against_others(finished: Finished, tmp_path: Path):
    config = copy_store(finished.config, tmp_path / "store")
    step = next(step for step in finished.computed.of("evaluation") if step.part == "scores")
    store = Store(config.root)
    manifest = finished.outputs["student"].manifest
    assert manifest is not None
    gone = manifest.inputs["tokens"][0]
    shutil.rmtree(Path(config.root, gone))
    ids = {name: [a.id for a in artifacts if a.id != gone] for name, artifacts in step.inputs.items()}
    inputs = {name: store.find_all(of_name) for name, of_name in ids.items()}
    output = Output(tmp_path / "out", tmp_path, step.runtime)
    output.folder.mkdir()
    with pytest.raises(MissingInputError, match=r"1 of the \d+ shards .* --refresh.student always"):
        step.run(replace(step, store=store, inputs=inputs), output)

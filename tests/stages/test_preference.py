"""Preference tuning in the tiny pipeline: whose speech it is, who ranks it, what is made of it, and what it leaves alone."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Finished
from tests.fixtures.judges import write_judges, write_rater
from tests.fixtures.small_run import small_run
from tests.fixtures.tiny import CLIPS, NEW_CLIP, Computed, copy_clips, copy_store, run_tiny
from tinywave_core.config.distillation import DistillationConfig
from tinywave_core.config.evaluation import GeneratedConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.preference import PreferenceConfig
from tinywave_core.errors import ConfigError, TrainingError
from tinywave_core.evals.ranking import Verdict
from tinywave_core.models.llama import load_llama
from tinywave_core.reporting.lineage import lineage
from tinywave_core.reporting.page import render_report
from tinywave_core.reporting.preference import preference_section
from tinywave_core.run.pipeline import Look
from tinywave_core.run.preflight import check_plan, check_run
from tinywave_core.run.record import stage_row
from tinywave_core.sequences.index import load_sequences
from tinywave_core.stages.adaptation.teacher import training_parts
from tinywave_core.stages.distillation import pairs as stage_pairs
from tinywave_core.stages.distillation import preferred
from tinywave_core.stages.distillation.judging import judge_of, load_judging
from tinywave_core.stages.distillation.pairs import FILE, SHORT, require_enough, run_pairs, seed_of
from tinywave_core.stages.distillation.stage import STAGE, describe, facts, terms
from tinywave_core.stages.distillation.summary import PairsSummary, StudentSummary
from tinywave_core.stages.evaluation import preference
from tinywave_core.stages.evaluation.preference import before_and_after
from tinywave_core.stages.evaluation.preference_words import comparison_rows, comparison_text, tuned_words
from tinywave_core.stages.evaluation.summary import AgainstSummary, BeforeAndAfter, PreferenceSummary
from tinywave_core.stages.evaluation.words import verdict_of
from tinywave_core.stages.export.model import trained_on
from tinywave_core.steps.base import Output, Outputs, Step
from tinywave_core.steps.reasons import Reason
from tinywave_core.storage.shards import read_table
from tinywave_core.tokenizers.vocabulary import Vocabulary
from tinywave_core.training.curves import curves_of

ASKED = {
    "share": 1.0,
    "prompt_tokens": 16,
    "new_tokens": 12,
    "candidates": 3,
    "pairs_per_prompt": 1,
    "passes": 4.0,
    "top_k": 5,
    "least_gap": 0.0,
    "more_repetition": 1.0,
    "least_pairs": 2,
    "batch_pairs": 2,
    "learning_rate": 2e-2,
}


def asking(config: PipelineConfig, **settings: Any) -> PipelineConfig:
    asked = PreferenceConfig.model_validate(ASKED | settings)
    changed = DistillationConfig.model_validate(config.distillation.model_dump() | {"preference": asked})
    return config.model_copy(update={"distillation": changed})


@pytest.fixture(scope="module")
def ran(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineConfig, Outputs, Computed]:
    """Distillation with the comparison that evaluation makes of it."""
    config = asking(copy_store(finished.config, tmp_path_factory.mktemp("preferred") / "store"))
    outputs, computed = run_tiny(config, until="distillation")
    compared = preference.build(config, outputs["tokens"], outputs["teacher"], outputs, computed)
    return config, {**outputs, **compared}, computed


def step_of(computed: Computed, part: str) -> Step:
    return next(step for step in computed.steps if step.part == part)


def test_the_student_before_and_the_control_are_what_they_were(
    ran: tuple[PipelineConfig, Outputs, Computed], finished: Finished
):
    _, outputs, computed = ran
    assert outputs["distilled"].id == finished.outputs["student"].id
    assert outputs["control"].id == finished.outputs["control"].id
    made = ["distillation/pairs", "distillation/preferred", "evaluation/preference", "evaluation/against"]
    assert computed.parts() == made
    before, after = (load_llama(outputs[name].path("model")).state_dict() for name in ("distilled", "student"))
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
    # Whoever reads what a student is and what it heard reads the same of both.
    told = StudentSummary.of(outputs["student"])
    assert told.model_copy(update={"preference": None}) == StudentSummary.of(outputs["distilled"])
    vocabulary = Vocabulary.from_json(outputs["tokens"].summary["vocabulary"])
    assert trained_on(outputs["student"], vocabulary) == trained_on(outputs["distilled"], vocabulary)
    assert facts(outputs)[0] == facts(finished.outputs)[0]


def test_prompts_begin_what_was_trained_on_or_validates_and_nothing_held_out(
    ran: tuple[PipelineConfig, Outputs, Computed],
):
    step = step_of(ran[2], "pairs")
    length = step.params["sequence_length"]
    every = load_sequences(step.inputs["tokens"], "train", length)
    parts = dict(zip((False, True), training_parts(every, step.params["validation"]), strict=True))
    rows = read_table(ran[1]["pairs"].path(FILE)).to_pylist()
    assert {row["validates"] for row in rows} == {False, True}
    for row in rows:
        own = {sequence.id: sequence.ids for sequence in parts[row["validates"]]}
        assert row["prompt"] == own[row["sequence_id"]][:16].tolist()
    held_out = {s.utterance_id for s in load_sequences(step.inputs["tokens"], "held_out", length)}
    assert held_out and not held_out & {row["utterance_id"] for row in rows}


def test_pairs_are_ranked_by_the_teachers_mean_log_probability_of_as_many_tokens(
    ran: tuple[PipelineConfig, Outputs, Computed],
):
    teacher = load_llama(ran[1]["teacher"].path("teacher")).eval()
    rows = read_table(ran[1]["pairs"].path(FILE)).to_pylist()
    for row in rows:
        for side in ("better", "worse"):
            ids = torch.tensor([row["prompt"] + row[side]])
            with torch.no_grad():
                logp = teacher(ids).logits[0, 15:-1].log_softmax(-1).gather(1, ids[0, 16:, None])
            assert len(logp) == 12 and row[f"{side}_score"] == pytest.approx(float(logp.mean()), abs=1e-4)
        assert row["better_score"] > row["worse_score"]


def test_a_student_without_text_is_ranked_in_the_ids_of_the_shards_and_tuned_in_its_own(
    finished: Finished, tmp_path: Path
):
    config = asking(copy_store(finished.config, tmp_path / "store"))
    speech = config.distillation.model_copy(update={"vocabulary": "speech"})
    outputs, _ = run_tiny(config.model_copy(update={"distillation": speech}), until="distillation")
    rows = read_table(outputs["pairs"].path(FILE)).to_pylist()
    vocabulary = Vocabulary.from_json(outputs["tokens"].summary["vocabulary"])
    assert {i for row in rows for i in row["better"]} <= set(vocabulary.speech_ids())
    teacher, student = (
        load_llama(outputs[name].path(folder)) for name, folder in (("teacher", "teacher"), ("student", "model"))
    )
    assert student.config.vocab_size < teacher.config.vocab_size
    ids = torch.tensor([rows[0]["prompt"] + rows[0]["better"]])
    with torch.no_grad():
        logp = teacher.eval()(ids).logits[0, 15:-1].log_softmax(-1).gather(1, ids[0, 16:, None])
    assert rows[0]["better_score"] == pytest.approx(float(logp.mean()), abs=1e-4)
    assert curves_of(outputs["student"])["preference"][0] == pytest.approx(math.log(2), abs=1e-5)


def test_what_makes_no_pair_is_counted(ran: tuple[PipelineConfig, Outputs, Computed]):
    made = PairsSummary.of(ran[1]["pairs"])
    rows = read_table(ran[1]["pairs"].path(FILE)).to_pylist()
    assert made.candidates == 3 * sum(made.prompts.values())
    assert sum(made.pairs.values()) == len(rows)
    assert len({row["sequence_id"] for row in rows}) + sum(made.without_pair.values()) == sum(made.prompts.values())
    assert set(made.failures) <= {SHORT}


def test_what_is_said_belongs_to_seed_and_sequence(
    ran: tuple[PipelineConfig, Outputs, Computed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    step = step_of(ran[2], "pairs")
    output = Output(tmp_path / "made", tmp_path / "resume", step.runtime)
    for folder in (output.folder, output.resume):
        folder.mkdir()
    # Fewer prompts at once, and only some of them: what is drawn for one is the same.
    monkeypatch.setattr(stage_pairs, "_AT_ONCE", 2)
    some = replace(step, config=step.config.model_copy(update={"share": 0.7}))
    run_pairs(some, output)
    whole = {row["sequence_id"]: row for row in read_table(ran[1]["pairs"].path(FILE)).to_pylist()}
    fewer = read_table(output.folder / FILE).to_pylist()
    assert 0 < len(fewer) < len(whole)
    for row in fewer:
        assert {k: v for k, v in row.items() if "score" not in k} == {
            k: v for k, v in whole[row["sequence_id"]].items() if "score" not in k
        }
    # What a killed run left is read, not made again.
    (left,) = output.resume.glob("from-000000.json")
    before = left.read_bytes()
    monkeypatch.setattr("tinywave_core.evals.continuations.continuations", None)
    run_pairs(some, output)
    assert left.read_bytes() == before


def test_every_continuation_has_random_numbers_of_its_own():
    asked = [PreferenceConfig(seed=seed) for seed in (0, 1)]
    seeds = {seed_of(config, name, number) for config in asked for name in ("aa", "bb") for number in range(3)}
    assert len(seeds) == 12


def test_pairs_are_laid_out_as_they_are_and_their_log_probabilities_before_are_made_once(
    ran: tuple[PipelineConfig, Outputs, Computed], tmp_path: Path
):
    step = step_of(ran[2], "preferred")
    output = Output(tmp_path / "made", tmp_path / "resume", step.runtime)
    for folder in (output.folder, output.resume):
        folder.mkdir()
    student = load_llama(step.input("student").path("model"))
    data = [preferred._dataset(step, student, validates=validates) for validates in (False, True)]
    rows = read_table(step.input("pairs").path(FILE)).to_pylist()
    for validates, each in zip((False, True), data, strict=True):
        wanted = sorted(
            [*r["prompt"], *r["better"], *r["prompt"], *r["worse"]] for r in rows if r["validates"] == validates
        )
        assert sorted(pair.ids.tolist() for pair in each.sequences) == wanted != []
    preferred._refer(output, student, *data)
    first = [each.reference_P2 for each in data]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1)
    preferred._refer(output, student, *data)  # a training that goes on
    assert all(np.array_equal(a, b.reference_P2) for a, b in zip(first, data, strict=True))  # type: ignore[arg-type]


def test_too_few_pairs_end_with_what_to_change(ran: tuple[PipelineConfig, Outputs, Computed]):
    made = PairsSummary.of(ran[1]["pairs"])
    config = PreferenceConfig.model_validate(ASKED | {"least_pairs": made.pairs["train"]})
    require_enough(config, made)
    for why, remedy in (
        ("the judge sees no difference", "lower least_gap"),
        ("the better one repeats itself more", "raise more_repetition"),
        ("fewer than two continuations with a score", "lower new_tokens"),
    ):
        few = made.model_copy(update={"pairs": {"train": 1, "validation": 0}, "without_pair": {why: 9}})
        with pytest.raises(
            TrainingError, match=f"found 1 pair to train on, least_pairs.*9 without a pair, for {why}.*{remedy}"
        ):
            require_enough(config, few)


def test_before_and_after_are_compared_on_the_same_held_out_prompts(ran: tuple[PipelineConfig, Outputs, Computed]):
    outputs = ran[1]
    rows = read_table(outputs["preference"].path(preference.FILE)).to_pylist()
    by_model = {name: [row for row in rows if row["model"] == name] for name in ("distilled", "student")}
    assert [r["utterance_id"] for r in by_model["distilled"]] == [r["utterance_id"] for r in by_model["student"]] != []
    held_out = load_sequences(step_of(ran[2], "preference").inputs["tokens"], "held_out", 128)
    assert {row["utterance_id"] for row in rows} <= {s.utterance_id for s in held_out}
    found = PreferenceSummary.of(outputs["preference"])
    means = {name: np.mean([row["repetition"] for row in own]) for name, own in by_model.items()}
    measure = found.measures["repetition"]
    assert [measure.before, measure.after] == pytest.approx([means["distilled"], means["student"]])
    assert found.measures.keys() == {"teacher", "repetition", "tokens"}  # the judge is the teacher
    # Held-out likelihood is that of all sequences, by either model.
    nll = AgainstSummary.of(outputs["against"])
    for name, model in (("published", "distilled"), ("student", "student")):
        loaded, total, count = load_llama(outputs[model].path("model")).eval(), 0.0, 0
        for s in held_out:
            ids = torch.tensor(s.ids.astype(np.int64))[None]
            with torch.no_grad():
                logp = loaded(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
            total, count = total - float(logp.sum()), count + len(logp)
        assert nll.nll[name] == pytest.approx(total / count, abs=1e-4)


def test_a_difference_is_paired_and_its_interval_is_over_recordings():
    found = before_and_after(["a", "a", "b"], [1.0, 2.0, None], [2.0, 4.0, 9.0], seed=0)
    assert found == BeforeAndAfter(before=1.5, after=3.0, difference=1.5, interval=(1.5, 1.5), prompts=2)
    two = before_and_after(["a", "a", "b"], [0.0, 0.0, 0.0], [1.0, 1.0, 4.0], seed=0)
    # Resamples of two recordings: a a, a b, b b.
    assert two is not None and (two.difference, two.interval) == (2.0, (1.0, 4.0))
    assert before_and_after(["a"], [None], [1.0], seed=0) is None


def test_the_report_has_a_section_of_it_where_a_student_was_tuned(
    ran: tuple[PipelineConfig, Outputs, Computed], tmp_path: Path
):
    record, outputs = small_run(tmp_path / "store")
    tuned = {name: ran[1][name] for name in ("student", "distilled", "pairs", "preference", "against")}
    html = render_report(record, {**outputs, **tuned})
    assert "pairs to train on" in html
    assert html.count('id="preference"') == 1 and 'href="#preference"' in html
    assert "held-out NLL, nats per token" in html and "Preference loss" in html
    assert preference_section(outputs) == {"preference": None}


def test_lineage_tells_both_students_apart(ran: tuple[PipelineConfig, Outputs, Computed]):
    _, outputs, computed = ran
    steps = [step for step in computed.steps if step.part in ("student", "preferred")]
    reason = Reason(True, "")
    row = stage_row("distillation", outputs, [(step, reason, step.find()) for step in steps], 1.0)
    parts = {line.part: line for line in lineage([row], outputs, {})}
    assert parts["student"].ids == [outputs["distilled"].id] and parts["preferred"].ids == [outputs["student"].id]
    assert f"student: {outputs['distilled'].id}" in parts["preferred"].made_from
    assert not any(source.startswith("pairs") for source in parts["student"].made_from)


def test_pages_tell_of_gain_and_harm(ran: tuple[PipelineConfig, Outputs, Computed], finished: Finished):
    outputs = ran[1]
    made = PairsSummary.of(outputs["pairs"])
    (section,) = STAGE.sections(outputs)
    assert f"{made.pairs['train']} pairs to train on, {made.pairs['validation']}" in section.text
    assert f"tuned by {made.pairs['train']} pairs" in describe(outputs)[1]
    # Terms and curves of distillation stay those of the distilled student.
    before = {"student": outputs["distilled"], "control": outputs["control"]}
    assert terms(outputs) == terms(before) and "logits" in {row["term"] for row in terms(before).rows}  # type: ignore[union-attr]
    shown = preference_section(outputs)["preference"]
    assert shown["made"] == section and [caption for caption, _ in shown["plots"]] and shown["compared"].rows
    better = BeforeAndAfter(before=-3, after=-2.8, difference=0.2, interval=(0.1, 0.3), prompts=9)
    repeats = BeforeAndAfter(before=0.1, after=0.3, difference=0.2, interval=(0.1, 0.3), prompts=9)
    found = PreferenceSummary.of(outputs["preference"]).model_copy(
        update={"measures": {"teacher": better, "repetition": repeats}, "failures": {"student": {"says nothing": 2}}}
    )
    nll = AgainstSummary(
        comparable=True, difference=0.05, interval=(0.01, 0.09), nll={"student": 3.05, "published": 3.0}
    )
    text = comparison_text(found, nll)
    for said in (
        "The judge finds the tuned student better: +0.200 [+0.100, +0.300].",
        "The tuned student predicts held-out speech worse than before: NLL +0.0500 nats per token [+0.0100, +0.0900].",
        "It repeats itself more: auto-BLEU of tokens +0.200",
        "Continuations without a score: after 2 (says nothing).",
    ):
        assert said in text
    assert comparison_rows(found, nll)[-1]["after"] == "3.0500"
    told = tuned_words(AgainstSummary.of(outputs["against"]))
    assert told in verdict_of({**outputs, "scores": finished.outputs["scores"]})
    assert not [line for line in verdict_of(finished.outputs) if "tuned" in line]
    harmless = nll.model_copy(update={"interval": (-0.01, 0.09)})
    assert "as before, within noise" in comparison_text(found, harmless)


def test_given_judges_rank_what_they_hear(
    ran: tuple[PipelineConfig, Outputs, Computed], finished: Finished, tmp_path: Path
):
    config, outputs, computed = ran
    places = write_judges(tmp_path / "judges") | {"rater": str(write_rater(tmp_path / "rater"))}
    generated = GeneratedConfig(asr=places["ctc"], language_model=places["text"], judge=f"{places['rater']}/judge.gguf")
    evaluation = config.evaluation.model_copy(update={"generated": generated})
    vocabulary = Vocabulary.from_json(outputs["tokens"].summary["vocabulary"])
    row = read_table(outputs["pairs"].path(FILE)).to_pylist()[0]
    prompt, said = (np.array(row[name], np.int64) for name in ("prompt", "better"))
    silent = np.array([vocabulary.first["pitch"]], np.int64)  # no unit: nothing to hear
    for judge in ("perplexity", "rating"):
        asked = asking(config.model_copy(update={"evaluation": evaluation}), judge=judge)
        inputs, params, context = judge_of(asked, outputs["tokens"], outputs["teacher"], computed)
        assert set(inputs) == {"tokenizer", "vocoder"} and params["judge_sha256"] and params["asr_sha256"]
        step = replace(
            step_of(computed, "pairs"),
            config=asked.distillation.preference.of_pairs(),
            params=params,
            context=context,
            inputs=inputs,
        )
        judging = load_judging(step, Output(tmp_path, tmp_path, step.runtime), vocabulary)
        spoken, nothing = judging([prompt, prompt], [said, silent])
        assert nothing == Verdict(None, "no words")
        if judge == "perplexity":
            assert spoken.score is not None and spoken.score < 0
        else:
            assert spoken.score is None or 1 <= spoken.score <= 5


def test_what_it_cannot_do_is_refused_before_anything_starts(finished: Finished):
    config = asking(finished.config)
    mixed = config.tokenization.interleaving.model_copy(update={"policy": "poisson"})
    tokenization = config.tokenization.model_copy(update={"interleaving": mixed})
    with pytest.raises(ConfigError, match="preference.share is 1, which compares speech alone"):
        check_run(config.model_copy(update={"tokenization": tokenization}))
    runtime = config.runtime.model_copy(update={"training_processes": 2})
    with pytest.raises(ConfigError, match="trains in one process, but the runtime asks for 2"):
        check_plan(config.model_copy(update={"runtime": runtime}))
    for judge, lacking in (("rating", "judge"), ("perplexity", "language_model")):
        with pytest.raises(ConfigError, match=f"judge is {judge}, but evaluation.generated.{lacking} is not given"):
            check_plan(asking(finished.config, judge=judge))
    for wrong, said in (
        ({"share": 1.5}, "less than or equal to 1"),
        ({"new_tokens": 200}, "prompt_tokens 16 and new_tokens 200 are longer than a row"),
        ({"prompt_tokens": 2, "new_tokens": 2}, "make a pair of 8 tokens"),
        ({"pairs_per_prompt": 2}, "3 candidates make 1 pairs at most"),
    ):
        with pytest.raises(ValueError, match=said):
            asking(finished.config, **wrong)


def test_without_it_nothing_changes(finished: Finished):
    assert "preference" not in DistillationConfig().model_dump()
    assert "preferred_prompts" not in finished.config.evaluation.model_dump()
    # Its settings are nobody's who came before: neither of the student before, nor of the control, nor of a continued one.
    asked = DistillationConfig.model_validate({"preference": {"share": 0.5}})
    for settings in (asked.first(), asked.control(), asked.continued()):
        assert "preference" not in settings.model_dump()
    assert asked.preferred().model_dump()["preference"]["share"] == 0.5


def test_how_pairs_are_learned_from_is_no_part_of_which_there_are(ran: tuple[PipelineConfig, Outputs, Computed]):
    config, outputs, _ = ran
    look = Look()
    other = asking(config, beta=0.7, learning_rate=1e-5, steps=3)
    found = preferred.build(other, outputs["tokens"], outputs["teacher"], outputs["distilled"], look)
    assert found["pairs"].id == outputs["pairs"].id and found["student"].id != outputs["student"].id
    again = asking(config, candidates=4)
    assert (
        preferred.build(again, outputs["tokens"], outputs["teacher"], outputs["distilled"], look)["pairs"].id
        != outputs["pairs"].id
    )


def test_new_speech_alone_tunes_nothing_anew(ran: tuple[PipelineConfig, Outputs, Computed], tmp_path: Path):
    config, before, _ = ran
    grown = copy_store(config, tmp_path / "store").model_copy(
        update={"source": str(copy_clips(tmp_path / "source", (*CLIPS, NEW_CLIP)))}
    )
    outputs, computed = run_tiny(grown, until="tokenization")
    assert {"ingestion/shard", "tokenization/shard"} <= set(computed.parts())
    # The student stays the one that was pinned, and so does all that was made of it.
    found = preferred.build(grown, outputs["tokens"], before["teacher"], before["distilled"], Look())
    assert {name: found[name].id for name in ("student", "pairs")} == {n: before[n].id for n in ("student", "pairs")}

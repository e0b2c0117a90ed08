"""A student's stage: what it reports is what it did."""

import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import Finished
from tests.fixtures.training import fresh
from tinywave_core.config.distillation import DistillationConfig, OnPolicyConfig
from tinywave_core.errors import TrainingError
from tinywave_core.models.llama import reset, student_from
from tinywave_core.sequences.table import SequenceTable, TokenSequence
from tinywave_core.stages.distillation import student as stage
from tinywave_core.stages.distillation.stage import facts
from tinywave_core.stages.distillation.student import share_of
from tinywave_core.stages.distillation.summary import StudentSummary
from tinywave_core.steps.base import Output
from tinywave_core.teacher.layer_map import layer_map
from tinywave_core.training import trainer


def test_a_student_that_stops_after_its_tokens_reports_the_steps_that_it_took(finished: Finished, tmp_path: Path):
    step = next(step for step in finished.computed.of("distillation") if step.part == "student")
    training = step.config.training.model_copy(update={"stop_after_tokens": 1000})  # 256 in a step: four of six
    stopped = step.config.model_copy(update={"training": training, "aligned_every": 3})
    made = step.run(replace(step, config=stopped), Output(tmp_path / "output", tmp_path / "resume", step.runtime))
    assert (made.steps, made.tokens_seen, made.live_steps) == (4, 4 * 256, 2)


def test_the_summary_of_a_finished_student_adds_up(finished: Finished):
    student = StudentSummary.of(finished.outputs["student"])
    control = StudentSummary.of(finished.outputs["control"])
    assert (student.steps, student.tokens_seen, student.live_steps) == (6, 6 * 256, 6)
    assert (control.steps, control.live_steps, control.nll_at_start) == (6, 0, {})
    assert "restarted" not in finished.outputs["student"].summary
    assert control.weights == dict.fromkeys(student.weights, 0.0) | {"language_model": 1.0}


@pytest.mark.parametrize("vocabulary", ["full", "speech"])
def test_an_on_policy_student_is_trained_on_speech_of_its_own_and_says_so(
    finished: Finished, tmp_path: Path, vocabulary, monkeypatch
):
    step = next(step for step in finished.computed.of("distillation") if step.part == "student")
    own = OnPolicyConfig(share=0.5, after_share=0.0, weight=0.7, prompt_tokens=16, new_tokens=48, drawn_every=2)
    settings = step.config.model_dump() | {"regime": "on_policy", "on_policy": own, "vocabulary": vocabulary}
    learner = replace(step, config=DistillationConfig.model_validate(settings))
    made: list = []
    real = stage._own_continuations
    monkeypatch.setattr(stage, "_own_continuations", lambda *given: made.append(real(*given)) or made[-1])
    output = Output(tmp_path / "output", tmp_path / "resume", step.runtime)
    summary = learner.run(learner, output)
    curves = pq.read_table(output.folder / "curves.parquet").to_pydict()
    assert all(value > 0 for value in curves["on_policy"]) and len(curves["on_policy"]) == 6
    assert summary.weights["on_policy"] == 0.7 and summary.live_steps == 6
    # Units, pitch and style of the tiny run, and the end: the kinds that it is trained on.
    assert len(made[0].allowed) == 1 + 20 + 8 + 4
    prompts = made[0].speaking(0, 2).prompts_CP
    assert (prompts[:, 0] == 1).all() and np.isin(prompts[:, 2:], made[0].allowed).all()
    told = dict(facts({"student": replace_manifest(finished, learner, summary)}))
    assert "50% of the rows were its own continuations, drawn anew every 2 steps" in told["regime"]
    assert "on policy 0.7" in told["weights"]


def replace_manifest(finished: Finished, step, summary: StudentSummary):
    """The finished student as if it had been made by another step."""
    artifact = finished.outputs["student"]
    config = step.config.model_dump(mode="json")
    manifest = artifact.manifest.model_copy(update={"config": config, "summary": summary.model_dump(mode="json")})
    return replace(artifact, manifest=manifest)


def sequence(recording: str, number: int) -> TokenSequence:
    return TokenSequence(f"{number:032x}", f"{recording}-{number}", recording, None, np.arange(5, dtype=np.uint16), 1.0)


SPEECH = SequenceTable.of([sequence(f"r{n % 100}", n) for n in range(300)])  # three utterances of each recording


def recordings(share: float) -> set[str]:
    return {s.recording_id for s in share_of(SPEECH, share)}


def test_checks_end_no_training_before_the_student_speaks(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    step = next(step for step in finished.computed.of("distillation") if step.part == "student")
    own = OnPolicyConfig(after_share=0.5, prompt_tokens=16, new_tokens=48)
    settings = step.config.model_dump() | {"regime": "on_policy", "on_policy": own}
    learner = replace(step, config=DistillationConfig.model_validate(settings))
    monkeypatch.setattr(trainer, "train", train := Mock(side_effect=InterruptedError))
    with pytest.raises(InterruptedError):
        learner.run(learner, Output(tmp_path / "output", tmp_path / "resume", step.runtime))
    assert train.call_args.kwargs["validation"].patient_until == 3  # of 6 steps


def test_a_smaller_share_lies_within_a_larger_one_and_recordings_stay_whole():
    assert recordings(0.05) < recordings(0.1) < recordings(0.25) < recordings(1.0)
    assert len(share_of(SPEECH, 0.25)) == 3 * len(recordings(0.25)) and 15 < len(recordings(0.25)) < 35
    assert share_of(SPEECH, 1.0) is SPEECH


def test_a_share_is_the_same_whatever_else_lies_there():
    half = SPEECH.take(np.arange(150) * 2)
    assert {s.recording_id for s in share_of(half, 0.3)} == recordings(0.3) & {s.recording_id for s in half}


def test_a_share_without_a_recording_is_refused():
    with pytest.raises(TrainingError, match="none of the 100 training recordings lies in it: raise it"):
        share_of(SPEECH, 1e-6)


def test_student_and_control_of_a_share_learn_from_it_alone(finished: Finished, tmp_path: Path):
    for step in finished.computed.of("distillation"):
        whole = StudentSummary.of(step.find())
        config = step.config.model_copy(update={"share": 0.5, "start": "fresh"})
        made = step.run(replace(step, config=config), Output(tmp_path / step.part, tmp_path / "resume", step.runtime))
        assert 0 < made.new_tokens < whole.new_tokens and made.train_sequences < whole.train_sequences
        shutil.rmtree(tmp_path / "resume")


def test_a_fresh_student_has_random_weights_of_its_seed_and_the_shape_of_the_teachers_blocks():
    copied = student_from(fresh(4), layer_map("paper", 4, 2))
    before = {name: p.clone() for name, p in copied.named_parameters()}
    reset(copied, seed=3)
    again = student_from(fresh(4), layer_map("paper", 4, 2))
    reset(again, seed=3)
    for (name, own), other in zip(copied.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(own, other) and own.shape == before[name].shape
        assert "norm" in name or not torch.equal(own, before[name])
    assert copied.lm_head.weight.std().item() == pytest.approx(32**-0.5, rel=0.1)  # 1 / sqrt of the width


def test_settings_of_before_share_and_start_keep_their_identity():
    assert not {"share", "start"} & set(DistillationConfig().model_dump())
    other = DistillationConfig(share=0.1, start="fresh")
    assert other.model_dump()["share"] == 0.1 and other.control().model_dump()["start"] == "fresh"
    assert (other.control().share, other.continued().share) == (0.1, 0.1)
    assert DistillationConfig.model_validate(other.model_dump()) == other

"""A student's stage: what it reports is what it did."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import Finished
from tinywave_core.config.distillation import DistillationConfig, OnPolicyConfig
from tinywave_core.stages.distillation import student as stage
from tinywave_core.stages.distillation.stage import facts
from tinywave_core.stages.distillation.summary import StudentSummary
from tinywave_core.steps.base import Output


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
    own = OnPolicyConfig(share=0.5, weight=0.7, prompt_tokens=16, new_tokens=48, drawn_every=2)
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

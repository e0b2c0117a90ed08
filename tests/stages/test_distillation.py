"""A student's stage: what it reports is what it did."""

from dataclasses import replace
from pathlib import Path

from tests.conftest import Finished
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

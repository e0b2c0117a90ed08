"""The section on the gap: what it claims follows from the intervals, and every figure of the artifact finds its place."""

from typing import Any

import pytest

from tests.conftest import Finished
from tinywave_core.reporting.gap import gap_plots, gap_section, position_lines, worst_clips
from tinywave_core.stages.evaluation.gap_words import block_rows, gap_text, stream_rows
from tinywave_core.stages.evaluation.summary import GapSummary


@pytest.fixture
def gap(finished: Finished) -> GapSummary:
    return GapSummary.of(finished.outputs["gap"])


def changed(model: Any, **values: Any) -> Any:
    """A frozen model with other values."""
    return model.model_copy(update=values)


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((0.1, 0.3), "closer to the teacher than those of its undistilled control: "),
        ((-0.1, 0.3), "within noise of those of its undistilled control: "),
        ((-0.3, -0.1), "further from the teacher than those of its undistilled control: "),
    ],
)
def test_closer_is_said_only_beyond_noise(gap: GapSummary, interval: tuple[float, float], said: str):
    closer = [changed(figure, interval=interval, value=0.2) for figure in gap.closer]
    text = gap_text(changed(gap, closer=closer))
    assert f"predictions are {said}" in text
    low, high = interval
    assert f"the student closer by +0.200 ({low:+.3f} to {high:+.3f}, paired over recordings)" in text


def test_every_pair_of_blocks_and_every_stream_is_a_row(gap: GapSummary):
    assert [row["blocks"] for row in block_rows(gap)] == ["student 0, teacher 1", "student 1, teacher 3"]
    assert [row["predicted stream"] for row in stream_rows(gap)] == ["all", "units", "pitch", "style"]
    assert stream_rows(gap)[0]["tokens"] == f"{gap.tokens:,}"
    assert len({tuple(row) for row in block_rows(gap)}) == 1


def test_a_stream_is_told_by_its_own_difference(gap: GapSummary):
    closer = [changed(figure, value=9.0) if figure.group == "pitch" else figure for figure in gap.closer]
    signed = {row["predicted stream"]: row["KL: student closer by"] for row in stream_rows(changed(gap, closer=closer))}
    assert [name for name, text in signed.items() if text.startswith("+9.000")] == ["pitch"]


def test_positions_are_a_curve_for_student_and_control(gap: GapSummary):
    student, control = position_lines(gap)
    assert student.x.tolist() == control.x.tolist() == [4.0, 12.0, 24.0, 48.0, 96.0][: len(student.x)]


def test_both_heat_maps_have_one_scale(gap: GapSummary):
    cosines = {"student": [[1.0, 0.5]], "control": [[0.5, 0.0]]}
    student, control = (
        svg for caption, svg in gap_plots(changed(gap, cosines=cosines)) if caption.startswith("Hidden")
    )
    assert "fill-opacity:0.90" in student and "fill-opacity:0.06" not in student
    assert "fill-opacity:0.06" in control and "fill-opacity:0.90" not in control


def test_the_worst_have_a_player_a_picture_and_a_strip(finished: Finished):
    clips = worst_clips(finished.outputs["gap"])
    assert len(clips) == finished.outputs["gap"].summary["worst"]
    assert all(
        c.audio.startswith("data:audio") and c.picture.startswith("data:image") and "<svg" in c.strip for c in clips
    )


def test_a_run_without_a_gap_has_no_section(finished: Finished):
    assert gap_section({"scores": finished.outputs["scores"]}) == {"gap": None}

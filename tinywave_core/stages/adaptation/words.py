"""The teacher in words and curves."""

from tinywave_core import plots
from tinywave_core.steps.base import Outputs
from tinywave_core.training.curves import curves_of


def teacher_lines(outputs: Outputs) -> list[plots.Line]:
    """The teacher's training loss."""
    curve = curves_of(outputs["teacher"])
    return [plots.Line("teacher", *plots.series_of(curve, "loss"), "teacher")] if curve else []

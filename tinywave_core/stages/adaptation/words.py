"""The teacher in words and curves."""

from tinywave_core import plots
from tinywave_core.steps.base import Outputs
from tinywave_core.training.curves import curves_of, validation_line


def teacher_lines(outputs: Outputs) -> list[plots.Line]:
    """The teacher's training loss, and its NLL on validation speech."""
    curve = curves_of(outputs["teacher"])
    if not curve:
        return []
    lines = [plots.Line("teacher, training", *plots.series_of(curve, "loss"), "teacher")]
    return [*lines, validation_line(curve, "teacher", "teacher")] if "validation" in curve else lines

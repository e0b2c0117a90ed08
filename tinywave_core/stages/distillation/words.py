"""The student and its control in words, tables and curves."""

from typing import TYPE_CHECKING

from tinywave_core import plots
from tinywave_core.steps.base import Outputs
from tinywave_core.training.curves import curves_of

if TYPE_CHECKING:
    pass


def loss_lines(outputs: Outputs) -> list[plots.Line]:
    """Cross-entropy on the true tokens, which student and control share."""
    lines = []
    for part, label in (("student", "student"), ("control", "control, undistilled")):
        curve = curves_of(outputs[part])
        if "language_model" in curve:
            lines.append(plots.Line(label, *plots.series_of(curve, "language_model"), part, dashed=part == "control"))
    return lines

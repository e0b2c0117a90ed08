"""The student and its control in words, tables and curves."""

from typing import TYPE_CHECKING

from tinywave_core import plots
from tinywave_core.steps.base import Outputs
from tinywave_core.training.curves import curves_of
from tinywave_core.wording import MODELS

if TYPE_CHECKING:
    pass


def loss_lines(outputs: Outputs) -> list[plots.Line]:
    """Cross-entropy on the true tokens, which student and control share."""
    lines = []
    for part in ("student", "control"):
        curve = curves_of(outputs[part])
        if "language_model" in curve:
            lines.append(
                plots.Line(MODELS[part], *plots.series_of(curve, "language_model"), part, dashed=part == "control")
            )
    return lines

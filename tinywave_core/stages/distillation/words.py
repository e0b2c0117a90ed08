"""The student and its control in words, tables and curves."""

from tinywave_core import plots
from tinywave_core.stages.distillation.summary import StudentSummary
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.store import Artifact
from tinywave_core.training.curves import curves_of, validation_line
from tinywave_core.wording import MODELS


def distilled(outputs: Outputs) -> Artifact:
    """The student as distillation made it: the one before preference tuning, where there was one."""
    return outputs.get("distilled", outputs["student"])


def term_label(name: str) -> str:
    """A term of the loss, or another number of a step, for people."""
    return name.replace("_", " ")


def loss_lines(outputs: Outputs) -> list[plots.Line]:
    """Cross-entropy on the true tokens, which student and control share, and their NLL on validation speech."""
    lines = []
    for part in ("student", "control"):
        curve = curves_of(distilled(outputs) if part == "student" else outputs[part])
        if "language_model" in curve:
            lines.append(plots.Line(f"{MODELS[part]}, training", *plots.series_of(curve, "language_model"), part))
        if "validation" in curve:
            lines.append(validation_line(curve, MODELS[part], part))
    return lines


def term_lines(outputs: Outputs) -> list[plots.Line]:
    """The student's loss and every term of it; a term's colour is its place in the list."""
    curve = curves_of(distilled(outputs))
    lines = [plots.Line("total, weighted", *plots.series_of(curve, "loss"), "student")] if curve else []
    for number, term in enumerate(StudentSummary.of(distilled(outputs)).weights):
        if term in curve:
            colour = plots.TERMS[number % len(plots.TERMS)]
            lines.append(plots.Line(term_label(term), *plots.series_of(curve, term), colour))
    return lines

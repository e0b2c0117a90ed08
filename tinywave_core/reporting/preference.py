"""The report's section on preference tuning: pairs, curves, and the student before and after it."""

from typing import Any

from markupsafe import Markup

from tinywave_core import plots
from tinywave_core.stages.distillation.preference_words import preference_sections
from tinywave_core.stages.evaluation.preference_words import comparison_sections
from tinywave_core.steps.base import Outputs
from tinywave_core.training.curves import curves_of


def preference_section(outputs: Outputs) -> dict[str, Any]:
    """What the template shows; empty where no student was tuned."""
    made, compared = preference_sections(outputs), comparison_sections(outputs)
    if not made:
        return {"preference": None}
    pictures = [
        (caption, Markup(plots.line_svg(lines, title=caption, x_label="optimiser step", y_label=unit)))
        for caption, lines, unit in _curves(outputs)
        if lines
    ]
    return {"preference": {"made": made[0], "compared": compared[0] if compared else None, "plots": pictures}}


def _curves(outputs: Outputs) -> list[tuple[str, list[plots.Line], str]]:
    return [
        ("Preference loss: log 2 is no preference", _lines(outputs, "preference"), "nats per pair"),
        ("Pairs in which the better one gained more", _lines(outputs, "accuracy"), "share of pairs"),
        ("Margin: what the better one gained less the worse", _lines(outputs, "margin"), "beta times nats"),
    ]


def _lines(outputs: Outputs, name: str) -> list[plots.Line]:
    curve = curves_of(outputs["student"])
    lines = [plots.Line("training", *plots.series_of(curve, name), "student")] if name in curve else []
    if f"validation_{name}" in curve:
        series = plots.series_of(curve, f"validation_{name}")
        lines.append(plots.Line("validation", *series, "control", dashed=True, noisy=False))
    return lines

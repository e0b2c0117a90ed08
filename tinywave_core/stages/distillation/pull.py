"""How the terms of the loss pull the student, in words and curves: gradients.parquet in (training/gradients.py), advice out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinywave_core import plots
from tinywave_core.stages.distillation.words import distilled, term_label
from tinywave_core.steps.base import Outputs
from tinywave_core.training.curves import gradients_of

Columns = Mapping[str, Sequence[float]]
_FAINT = 0.05  # of the strongest term's size: below is hardly felt
_ALIKE, _AGAINST = 0.7, -0.1  # cosines


@dataclass(frozen=True)
class Pull:
    """One term beside the strongest one, a mean over the reports."""

    term: str
    share: float
    """Weighted norm of its gradient, as a share of the strongest term's."""
    cosine: float
    """With the strongest term's."""


def pulls(columns: Columns) -> tuple[str, list[Pull]]:
    """The term that pulls strongest, and the others beside it; steps in which a term is not there do not count for it."""
    sizes = {name.partition("/")[2]: _mean(columns[name]) for name in columns if name.startswith("weighted/")}
    strongest = max(sizes, key=lambda name: sizes[name])
    return strongest, [
        Pull(name, _ratio(columns, name, strongest), _mean(_cosine(columns, name, strongest)))
        for name in sizes
        if name != strongest
    ]


def advice(columns: Columns) -> str:
    """A sentence on each term beside the strongest one: what it does, and what could be done about it."""
    if not columns:
        return ""
    strongest, others = pulls(columns)
    if not others:
        return f"{term_label(strongest)} is the only term"
    return f"{term_label(strongest)} pulls strongest; " + "; ".join(_of(pull, strongest) for pull in others)


def _of(pull: Pull, strongest: str) -> str:
    size = f"{term_label(pull.term)} pulls at {_percent(pull.share)} of its size (cosine {pull.cosine:.2f})"
    if pull.share < _FAINT:
        more = max(2, round(0.2 / max(pull.share, 0.001)))
        return f"{size}: hardly felt, so leave it out, or try a weight {more} times as large"
    if pull.cosine > _ALIKE:
        return f"{size}, the same way: it says little new, so the student may do without it"
    if pull.cosine < _AGAINST:
        return f"{size}, against it: lower its weight if the student is behind one of {term_label(strongest)} alone"
    return (
        f"{size}, a way of its own: it says what the other does not, and whether that helps shows a student without it"
    )


def pull_lines(outputs: Outputs) -> list[plots.Line]:
    """Weighted norm of each term's gradient; a term's colour is its place in the list."""
    columns = gradients_of(distilled(outputs))
    names = [name for name in columns if name.startswith("weighted/")]
    return [
        plots.Line(
            term_label(name.partition("/")[2]),
            *plots.series_of(columns, name),
            plots.TERMS[number % len(plots.TERMS)],
            noisy=False,
        )
        for number, name in enumerate(names)
    ]


def _cosine(columns: Columns, a: str, b: str) -> Sequence[float]:
    return columns[f"cosine/{a}/{b}"] if f"cosine/{a}/{b}" in columns else columns[f"cosine/{b}/{a}"]


def _ratio(columns: Columns, name: str, strongest: str) -> float:
    own, other = (np.asarray(columns[f"weighted/{term}"], np.float64) for term in (name, strongest))
    both = ~np.isnan(own) & (other > 0)
    return float((own[both] / other[both]).mean()) if both.any() else 0.0


def _mean(values: Sequence[float]) -> float:
    there = np.asarray(values, np.float64)
    there = there[np.isfinite(there)]
    return float(there.mean()) if len(there) else 0.0


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %" if share >= 0.01 else f"{share * 100:.1g} %"

"""Figures in words: sizes, durations, ratios, intervals; the same everywhere that people read them."""

from collections.abc import Mapping
from typing import Any

TOO_LARGE = "too large"  # a perplexity of a diverged model


def with_interval(figures: Mapping[str, Any], name: str, form: str, interval: str = "") -> str:
    """A figure and its 95 % interval, which stands under `interval` or beside the name; in words where it is too large."""
    if figures[name] is None:
        return TOO_LARGE
    low, high = figures[interval or f"{name}_interval"]
    return f"{figures[name]:{form}} ({low:{form}} to {high:{form}})"


def ratio(ratios: Mapping[str, Any] | None, name: str) -> str:
    """A ratio to the teacher; the teacher has none."""
    if ratios is None:
        return "1"
    # The NLL of a teacher can be 0, which gives no ratio; that of perplexities lacks only where it is too large.
    return "–" if ratios[name] is None and name == "nll" else with_interval(ratios, name, ".3f")


def size(count: int) -> str:
    """Bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def figure(value: float | None, form: str) -> str:
    """A figure that is an exponential: none where a float64 cannot hold it."""
    return TOO_LARGE if value is None else f"{value:{form}}"


def duration(hours: float) -> str:
    """Minutes below two hours, else hours."""
    return f"{hours * 60:.1f} min" if hours < 2 else f"{hours:.1f} h"


def millions(parameters: int) -> str:
    """A parameter count for people."""
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.2f} M"

"""Figures in words: sizes, durations, ratios, intervals; the same everywhere that people read them."""

import re

from tinywave_core.evals.figures import Interval, JudgedRatio, NllRatio, Ratio

TOO_LARGE = "too large"  # a perplexity of a diverged model
FEW_ITEMS = 100  # below it one item is more than a percent, and a percentage says more than is known
# What people read of the models that are compared.
MODELS = {"teacher": "teacher", "student": "student", "control": "undistilled control"}

OVER_TEACHER = "NLL, as a multiple of the teacher's"
_NUMBER_AND_UNIT = re.compile(r"(\d) (?=(?:[MB]|min|h|s)\b)")
# Artifacts call the stream of units hubert, whatever made them.
STREAMS = {"hubert": "units", "pitch": "pitch", "style": "style", "text": "text", "speech": "all speech"}


def counts_label(order: int) -> str:
    """Name of a table of counts of so many tokens."""
    return "counts of single tokens" if order == 1 else f"counts of {order} tokens"


def with_interval(value: float | None, interval: Interval | None, form: str) -> str:
    """A figure and its 95 % interval; in words where it is too large for a number, alone where one recording gave no interval."""
    if value is None or interval is None:
        return TOO_LARGE
    low, high = interval
    if low == high == value:  # the same recording, drawn again and again
        return f"{value:{form}}"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def share(of_all: float, interval: Interval, items: int) -> str:
    """Right answers with their 95 % interval: a count where one item is more than a percent ("5 of 8"), else a percentage."""
    low, high = interval
    if items < FEW_ITEMS:
        return f"{right(of_all, items)} ({low:.0%} to {high:.0%})"
    return with_interval(of_all, interval, ".1%")


def right(of_all: float, items: int) -> str:
    """The number behind a share: "5 of 8"; a tie is half an answer."""
    return f"{round(2 * of_all * items) / 2:g} of {items:,}"


def nll_ratio(ratio: NllRatio | None) -> str:
    """NLL over the teacher's: none where the teacher's can be 0; the teacher itself has no ratio."""
    if ratio is None:
        return "1"
    return "–" if ratio.nll is None else with_interval(ratio.nll, ratio.nll_interval, ".3f")


def perplexity_ratio(ratio: Ratio | None) -> str:
    """Perplexity over the teacher's."""
    return "1" if ratio is None else with_interval(ratio.perplexity, ratio.perplexity_interval, ".3f")


def gen_ppl_ratio(ratio: JudgedRatio | None) -> str:
    """Generative perplexity over the teacher's."""
    return "1" if ratio is None else with_interval(ratio.gen_ppl, ratio.gen_ppl_interval, ".3f")


def size(count: int) -> str:
    """Bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def figure(value: float | None, form: str) -> str:
    """A figure that is an exponential: none where a float64 cannot hold it."""
    return TOO_LARGE if value is None else f"{value:{form}}"


def duration(hours: float) -> str:
    """Minutes below two hours, else hours."""
    return f"{hours * 60:.1f} min" if hours < 2 else f"{hours:.1f} h"


def unbroken(text: str) -> str:
    """Text in which a number and its unit stay on one line."""
    return _NUMBER_AND_UNIT.sub("\\1\u00a0", text)


def millions(parameters: int) -> str:
    """A parameter count for people."""
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.2f} M"

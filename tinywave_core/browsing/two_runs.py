"""Two runs side by side: settings that differ, figures of each with differences, artifacts that they share.

In: two records and the summaries of what came out. Out: rows for the page; differences are the second run's less the first's.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinywave_core.browsing.readable import flattened, in_words, shown
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.run.record import RunRecord
from tinywave_core.wording import MODELS, with_interval

_HEAD = {
    "nll": ("NLL", ".3f"),
    "perplexity": ("perplexity", ".2f"),
    "bits_per_second": ("bits per second", ".1f"),
    "cloze": ("cloze accuracy", ".1%"),
}
"""Figures of a model that are shown first, and their form."""


@dataclass(frozen=True)
class Difference:
    """A setting or a figure in both runs."""

    name: str
    first: str
    second: str
    change: str = ""


@dataclass(frozen=True)
class Shared:
    """The artifacts of a part of a stage in both runs."""

    label: str
    first: Sequence[str]
    second: Sequence[str]

    @property
    def both(self) -> Sequence[str]:
        return [i for i in self.first if i in set(self.second)]

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.first or not self.second:  # what was cached was not asked for its shards
            return "a step of one run alone"
        if set(self.first) == set(self.second):
            return "same artifact" if len(self.first) == 1 else f"same {len(self.first)} artifacts"
        return f"{len(self.both)} of {max(len(self.first), len(self.second))} shared" if self.both else "different"


def settings_that_differ(first: RunRecord, second: RunRecord) -> list[Difference]:
    """How fast a run worked comes last: it changes no result. The store is the same one, whatever it was called."""
    one, other = (dict(flattened(PipelineConfig.filled(record.config))) for record in (first, second))
    names = [name for name in dict.fromkeys([*one, *other]) if name != "root"]
    names.sort(key=lambda name: name.startswith("runtime."))
    return [Difference(n, _of(one, n), _of(other, n)) for n in names if not _same(n, one, other)]


_ABSENT = object()


def _same(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both have the same value; a folder may be written in two ways."""
    first, second = one.get(name, _ABSENT), other.get(name, _ABSENT)
    if name == "source" and isinstance(first, str) and isinstance(second, str):
        return _folder(first) == _folder(second)
    return first == second


def _folder(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.realpath(os.path.expanduser(path))


def _of(values: Mapping[str, Any], name: str) -> str:
    return shown(values[name]) if name in values else "not a setting then"


def shared(first: RunRecord, second: RunRecord) -> list[Shared]:
    """Every part of either run, in the order of the run."""
    labels = dict.fromkeys([*first.artifacts, *second.artifacts])
    order = {label: n for n, label in enumerate(_in_order(first, second))}
    return [
        Shared(label, first.artifacts.get(label, []), second.artifacts.get(label, []))
        for label in sorted(labels, key=lambda label: order.get(label, len(order)))
    ]


def _in_order(*records: RunRecord) -> list[str]:
    return list(dict.fromkeys(f"{row.stage}/{step.part}" for r in records for row in r.rows for step in row.steps))


def headline_figures(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Of the summaries of two evaluations: what the models reached, with intervals."""
    rows = []
    for model, name in MODELS.items():
        one, other = first.get("models", {}).get(model, {}), second.get("models", {}).get(model, {})
        for key, (title, form) in _HEAD.items():
            if key in one or key in other:
                change = _change(one.get(key), other.get(key), form)
                rows.append(Difference(f"{name}: {title}", _figure(one, key, form), _figure(other, key, form), change))
    return rows


def _figure(model: Mapping[str, Any], key: str, form: str) -> str:
    return with_interval(model.get(key), model.get(f"{key}_interval"), form) if key in model else "–"


def figures_that_differ(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """All numbers and words of two summaries of the same part that are not the same; lists are left to the pages of the artifacts."""
    one, other = dict(flattened(first)), dict(flattened(second))
    names = [n for n in dict.fromkeys([*one, *other]) if not isinstance(one.get(n, other.get(n)), list)]
    return [
        Difference(
            in_words(name),
            shown(one[name]) if name in one else "–",
            shown(other[name]) if name in other else "–",
            _change(one.get(name), other.get(name)),
        )
        for name in names
        if one.get(name, _ABSENT) != other.get(name, _ABSENT)
    ]


def _change(one: Any, other: Any, form: str = "") -> str:
    """The second less the first, with its sign; nothing where there is no difference to take."""
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in (one, other)):
        return ""
    difference = other - one
    if difference == 0:
        return "same"
    return f"{'+' if difference > 0 else '−'}{_size(abs(difference), form)}"


def _size(difference: float, form: str) -> str:
    if form.endswith("%"):
        return f"{100 * difference:.1f} points"
    return format(difference, form) if form else shown(difference)

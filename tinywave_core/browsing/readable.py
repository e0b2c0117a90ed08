"""Nested settings and summaries as people read them.

In: what a manifest or a record of a run holds. Out: lines of a name and a value; for a dict of like dicts (the figures of each model)
a table with a column for each key; settings beside their defaults.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tinywave_core.config.load import load_config, preset_names
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.counts import count

_ITEMS, _TEXT = 6, 160
_ABSENT = object()


@dataclass(frozen=True)
class Setting:
    """One setting beside its default."""

    name: str
    value: str
    default: str
    is_changed: bool


@dataclass(frozen=True)
class Matrix:
    """Dicts with the same keys, side by side."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Readable:
    """A summary: its lines, then its tables."""

    lines: Sequence[tuple[str, str]]
    matrices: Sequence[Matrix]


def readable(summary: Mapping[str, Any]) -> Readable:
    """A summary in lines and tables."""
    lines, matrices = list[tuple[str, str]](), list[Matrix]()
    _collect("", summary, lines, matrices)
    return Readable(lines, matrices)


def _collect(prefix: str, value: Mapping[str, Any], lines: list[tuple[str, str]], matrices: list[Matrix]) -> None:
    for key, inner in value.items():
        name = f"{prefix}{in_words(key)}"
        if _figure_of(key) in value:  # it stands behind its figure
            continue
        if isinstance(inner, Mapping) and _is_matrix(list(inner.values())):
            matrices.append(_matrix(name, list(inner.items())))
        elif isinstance(inner, Sequence) and not isinstance(inner, str) and _is_matrix(inner):
            matrices.append(_matrix(name, [(str(n), row) for n, row in enumerate(inner, start=1)]))
        elif isinstance(inner, Mapping) and inner:
            _collect(f"{name}: ", inner, lines, matrices)
        else:
            lines.append((name, _with_interval(value, key)))


def _is_matrix(rows: Sequence[Any]) -> bool:
    """Whether these are dicts with much the same keys, few enough for a table."""
    if len(rows) < 2 or not all(isinstance(row, Mapping) and row for row in rows):
        return False
    every = set.union(*(set(row) for row in rows))
    return all(2 * len(set(row) & every) >= len(every) for row in rows)


def _matrix(title: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Matrix:
    flat = [(in_words(name), dict(flattened(row))) for name, row in rows]
    # An interval stands in brackets behind its figure.
    columns = [c for c in dict.fromkeys(c for _, row in flat for c in row) if not _figure_of(c)]
    cells = [(name, [_with_interval(row, column) for column in columns]) for name, row in flat]
    return Matrix(title, [in_words(column) for column in columns], cells)


def _figure_of(column: str) -> str:
    return column.removesuffix("_interval") if column.endswith("_interval") else ""


def _with_interval(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        return ""
    interval = row.get(f"{column}_interval")
    return shown(row[column]) + (f" ({shown(interval[0])} to {shown(interval[1])})" if interval else "")


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values under dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def in_words(name: str) -> str:
    """A key as words; a dotted one as its parts."""
    return " ".join(
        "NLL" if word == "nll" else word for word in str(name).replace("_", " ").replace(".", ", ").split(" ")
    )


def shown(value: Any) -> str:
    """A value in a cell."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{in_words(k)} {shown(v)}" for k, v in value.items()) or "nothing"
    if isinstance(value, Sequence) and not isinstance(value, str):
        more = f", … ({count(len(value), 'value')})" if len(value) > _ITEMS else ""
        return ", ".join(_nested(item) for item in value[:_ITEMS]) + more or "nothing"
    text = str(value)
    return text or "–" if len(text) <= _TEXT else f"{text[:_TEXT].rstrip()}… ({len(text):,} characters)"


def _nested(item: Any) -> str:
    return f"({shown(item)})" if isinstance(item, Sequence) and not isinstance(item, str) else shown(item)


def settings_of(stage: str, config: Mapping[str, Any]) -> list[Setting]:
    """The settings in a manifest, those that differ from the defaults first."""
    return _beside(config, _defaults(stage, config))


@dataclass(frozen=True)
class BesidePreset:
    """The settings of a run beside those of the preset that they are closest to; a record does not name its preset."""

    preset: str
    """Its name; empty where the settings without a preset are closest."""
    settings: Sequence[Setting]


def settings_of_run(config: Mapping[str, Any]) -> BesidePreset:
    """The settings of a run; where it worked, and how fast, has no say in which preset is closest."""
    besides = [
        BesidePreset(name, _beside(PipelineConfig.filled(config), values)) for name, values in _presets().items()
    ]
    return min(besides, key=lambda beside: sum(s.is_changed and not _is_of_place(s.name) for s in beside.settings))


def _is_of_place(name: str) -> bool:
    return name in ("source", "root", "spiritlm_dir") or name.startswith("runtime.")


@cache
def _presets() -> dict[str, dict[str, Any]]:
    """All settings by preset; those without a preset first, under no name."""
    configs = {name: load_config(name or None, {}) for name in ("", *preset_names())}
    return {name: PipelineConfig.filled(config.model_dump(mode="json")) for name, config in configs.items()}


def _beside(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[Setting]:
    flat = dict(flattened(defaults))
    settings = [
        Setting(
            name, shown(value), shown(flat[name]) if name in flat else "not known", value != flat.get(name, _ABSENT)
        )
        for name, value in flattened(config)
    ]
    return sorted(settings, key=lambda setting: not setting.is_changed)


def _defaults(stage: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The group of settings that a part of a stage has: that of the pipeline with most of its keys and fewest others."""
    keys = set(config)
    every = PipelineConfig.filled(PipelineConfig().model_dump(mode="json"))
    groups = [group for name in (stage, *every) for group in _groups(every.get(name, {}))]
    return max(groups, key=lambda group: len(keys & set(group)) / len(keys | set(group)), default={}) if keys else {}


def _groups(values: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(values, Mapping) and values:
        yield values
        for inner in values.values():
            yield from _groups(inner)

"""`tinywave units`: what phonetic units are worth, of a store's tokens or over settings that are varied."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.console import console
from tasks import terminal
from tinywave_core.config.load import fields, load_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError, MissingInputError
from tinywave_core.storage.store import Artifact, Store

if TYPE_CHECKING:
    from tinywave_core.stages.evaluation.summary import UnitsSummary

Settings = dict[str, str]
MOST_VARIANTS = 100
PLOTTED = "PNMI"
_ITEMS = {"evaluation.units.items": "400", "evaluation.units.split": "all"}
"""What the command asks for where nothing else is said: a report has less time."""


def show_units(
    preset: str, settings: Mapping[str, str], vary: Sequence[str], json_to: str | None, plot_to: str | None
) -> int:
    """Measure each variant, print a table, and write JSON and a plot where they are wanted."""
    variants = variants_of(vary)
    if plot_to is not None and not any(len(values) > 1 for values in _varied(vary).values()):
        raise ConfigError("--plot draws figures over a setting that is varied: pass --vary SETTING=VALUE,VALUE as well")
    configs = [
        config_of(preset, settings, variant) for variant in variants
    ]  # a wrong value is said before anything is computed
    measured = []
    for variant, config in zip(variants, configs, strict=True):
        store = Store(config.root)
        with store.lock("tinywave units"):
            measured.append(measure(config, store, alone=not vary))
        terminal.say(f"measured {_named(variant) or config.root}", flush=True)
    _print(variants, measured)
    rows = [{"settings": v, **m.model_dump(mode="json")} for v, m in zip(variants, measured, strict=True)]
    if json_to is not None:
        Path(json_to).write_text(json.dumps(rows, indent=1), encoding="utf-8")
        terminal.say(json_to)
    if plot_to is not None:
        Path(plot_to).write_bytes(plot(variants, measured))
        terminal.say(plot_to)
    return 0


def _varied(vary: Sequence[str]) -> dict[str, list[str]]:
    """Values by setting, as given; ConfigError for what is no setting."""
    known = {key for key, _ in fields()}
    varied: dict[str, list[str]] = {}
    for given in vary:
        key, equals, values = given.partition("=")
        key = key.removeprefix("--").replace("-", "_")
        if not equals or not all(values.split(",")):
            raise ConfigError(f"--vary {given!r}: expected SETTING=VALUE,VALUE, as tokenization.units.clusters=100,500")
        if key not in known or key.partition(".")[0] not in ("tokenization", "ingestion"):
            raise ConfigError(
                f"--vary {given!r}: {key} is no setting of tokenization or ingestion; see `tinywave run --help`"
            )
        if key in varied:
            raise ConfigError(f"--vary has {key} twice: put all of its values behind one")
        varied[key] = values.split(",")
    return varied


def variants_of(vary: Sequence[str]) -> list[Settings]:
    """Every combination of the values; one without settings where nothing is varied."""
    varied = _varied(vary)
    combined = [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]
    if len(combined) > MOST_VARIANTS:
        raise ConfigError(f"--vary asks for {len(combined)} variants; expected {MOST_VARIANTS} at most")
    return combined


def config_of(preset: str, settings: Mapping[str, str], variant: Settings) -> PipelineConfig:
    """The settings of one variant. Its units are fitted anew: those of a base are what they are."""
    fitted = {"adaptation.teacher": "fresh"} if variant else {}
    return load_config(preset, {**_ITEMS, **fitted, **settings, **variant})


def measure(config: PipelineConfig, store: Store, *, alone: bool) -> "UnitsSummary":
    """The figures, from the store where they are there; tokens are made where a source or a variant asks for them."""
    from tinywave_core.run.pipeline import run_pipeline
    from tinywave_core.stages.evaluation.summary import UnitsSummary
    from tinywave_core.stages.evaluation.units import units_step
    from tinywave_core.steps.base import compute, compute_all

    if alone and config.source is None:
        tokens = newest_tokens(store)
    else:
        tokens = run_pipeline(config, store, compute_all, until="tokenization")["tokens"]
    return UnitsSummary.of(compute(units_step(config, tokens)))


def newest_tokens(store: Store) -> Artifact:
    """The `tokens` artifact that was made last."""
    tokens = store.newest("tokenization", "tokens")
    if tokens is None:
        raise MissingInputError(f"{store.url} has no tokens: pass --source FOLDER to make some, or the --root of a run")
    return tokens


# What people see --------------------------------------------------------------------------------------------------


def _named(variant: Settings) -> str:
    return ", ".join(f"{key.removeprefix('tokenization.')} {value}" for key, value in variant.items())


def _print(variants: Sequence[Settings], measured: "Sequence[UnitsSummary]") -> None:
    from tinywave_core.stages.evaluation.unit_words import unit_columns, units_text

    columns = [unit_columns(summary) for summary in measured]
    figures = list(next((own for own in columns if own), {}))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    if len(variants) == 1:
        rows: list[tuple[str, ...]] = [(figure, columns[0][figure]) for figure in figures]
        heads = ["figure", "value"]
    else:
        rows = [(_named(v), *(own.get(f, "–") for f in figures)) for v, own in zip(variants, columns, strict=True)]
        heads = ["settings", *figures]
    for name in heads:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console(width=100 if len(variants) == 1 else 180).print(table)
    for text in dict.fromkeys(map(units_text, measured)):
        terminal.say(text)


def plot(variants: Sequence[Settings], measured: "Sequence[UnitsSummary]") -> bytes:
    """A PNG of PNMI over the setting that is varied first, a curve for each combination of the others."""
    import numpy as np

    from tinywave_core import plots

    first, *_ = [key for key in variants[0] if len({variant[key] for variant in variants}) > 1]
    values = list(dict.fromkeys(variant[first] for variant in variants))
    numbers = [_number(value) for value in values]
    # Names, and numbers that are not apart, stand one after the other.
    places = dict(zip(values, numbers if None not in numbers else range(len(values)), strict=True))
    lines: dict[str, dict[float, float]] = {}
    for variant, summary in zip(variants, measured, strict=True):
        figures = summary.figures
        if figures is not None and figures.phones is not None:
            others = _named({key: value for key, value in variant.items() if key != first})
            lines.setdefault(others, {})[float(places[variant[first]] or 0)] = figures.phones.pnmi.value
    if not lines:
        raise MissingInputError(f"nothing to plot: no variant has a {PLOTTED}, since no phones have times")
    curves = [
        plots.Line(
            label or PLOTTED,
            np.array(sorted(points)),
            np.array([points[x] for x in sorted(points)]),
            plots.TERMS[i % len(plots.TERMS)],
            noisy=False,
        )
        for i, (label, points) in enumerate(lines.items())
    ]
    return plots.lines_png(curves, x_label=first, y_label=PLOTTED)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None

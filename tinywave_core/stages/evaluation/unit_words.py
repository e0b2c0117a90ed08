"""What the units are worth, in a sentence and a table."""

from tinywave_core.counts import count
from tinywave_core.evals.figures import Measured
from tinywave_core.evals.units import Leakage, ToldApart
from tinywave_core.stages.evaluation.summary import UnitsSummary
from tinywave_core.wording import with_interval


def units_text(units: UnitsSummary) -> str:
    """Of what speech the figures are, and what there was nothing to measure with."""
    figures = units.figures
    if figures is None:
        return f"The units were not measured: {units.why}."
    speech = "held-out" if units.split == "held_out" else "held-out and training"
    said = f"{figures.used} of {count(figures.clusters, 'unit')} in {count(figures.utterances, f'{speech} utterance')}, {figures.seconds / 60:.1f} min."
    if figures.phones:
        said += f" Phones: {figures.phones.phones} different ones in {count(figures.phones.utterances, 'utterance')}, without silence."
    if units.why:
        said += f" No figures of phones: {units.why}."
    if units.refused:
        refused = ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in units.refused.items())
        said += f" Without times: {refused}."
    if units.drift is not None:
        said += f" Drift from the codebooks' fit, at most: {units.drift:.3f} bits."
    return said


def unit_columns(units: UnitsSummary) -> dict[str, str]:
    """The figures by name, for a row."""
    figures = units.figures
    if figures is None:
        return {}
    phones = figures.phones
    return {
        "units used": f"{figures.used} of {figures.clusters}",
        "PNMI": _figure(phones.pnmi if phones else None, ".3f"),
        "phone purity": _figure(phones.phone_purity if phones else None, ".3f"),
        "cluster purity": _figure(phones.cluster_purity if phones else None, ".3f"),
        "words told apart, same speaker": _told(figures.words_within),
        "words told apart, other speaker": _told(figures.words_across),
        "speakers recognised from units": _leakage(figures.leakage),
        "units per second": _figure(figures.units_per_s, ".1f"),
        "bits per second": _figure(figures.bits_per_s, ".0f"),
    }


def units_in_short(units: UnitsSummary) -> str:
    """The two figures that come first, in a line; or why there are none."""
    if units.figures is None:
        return units_text(units)
    told = [f"{name} {value}" for name, value in list(unit_columns(units).items())[:2] if value != "–"]
    return f"In {count(units.figures.utterances, 'utterance')}: {', '.join(told)}."


def unit_rows(units: UnitsSummary) -> list[dict[str, str]]:
    """A row per figure."""
    return [{"figure": name, "value": value} for name, value in unit_columns(units).items()]


def _figure(measured: Measured | None, form: str) -> str:
    return "–" if measured is None else with_interval(measured.value, measured.interval, form)


def _told(told: ToldApart | None) -> str:
    return "–" if told is None else f"{_figure(told.share, '.1%')}, {told.triples:,} triples"


def _leakage(leakage: Leakage | None) -> str:
    if leakage is None:
        return "–"
    return f"{_figure(leakage.accuracy, '.1%')}, chance {leakage.chance:.1%} of {leakage.speakers}"

"""Measures and what is left out, in words and tables."""

from itertools import islice
from typing import Any

import pyarrow.compute as pc

from tinywave_core.audio.keeping import limit_of, measure_of
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.ingestion.quality import QUALITY_FILE, outlook
from tinywave_core.stages.ingestion.summary import LeftOut, MeasureFigures, QualitySummary
from tinywave_core.storage.shards import rows_of
from tinywave_core.storage.store import Artifact
from tinywave_core.wording import duration

SHOWN = {"1": "lowest 1 %", "5": "5 %", "25": "25 %", "50": "median", "75": "75 %", "95": "95 %", "99": "99 %"}


def left_out_in_short(quality: QualitySummary) -> str:
    """Half a line."""
    counts = ", ".join(f"{each.utterances} {each.reason}" for each in quality.left_out if each.utterances)
    return f"{quality.number_left_out} left out" + (f" ({counts})" if counts else "")


def left_out_text(quality: QualitySummary) -> str:
    """How much is left out, by which threshold, and what is used."""
    counts = "; ".join(map(_by, quality.left_out))
    return (
        f"{quality.number_left_out} of {quality.utterances} utterances, {duration(quality.hours_left_out)} of "
        f"{duration(quality.hours)}: {counts}. {quality.kept_train} utterances to train on and {quality.kept_held_out} held out are used."
    )


def _by(each: LeftOut) -> str:
    more = f", with what others leave out {each.alone}" if each.alone != each.utterances else ""
    return f"{each.utterances} {each.reason} ({duration(each.hours)}; {each.setting} {each.bound:g}{more})"


def left_out_rows(quality: Artifact, most: int) -> list[dict[str, str]]:
    """Path, reason and detail of the first utterances that are left out."""
    columns = ["path", "reason", "detail", "split", "utterance_id"]
    rows = rows_of(quality.path(QUALITY_FILE), columns, lambda table: pc.is_valid(table["reason"]))
    return [{name: str(value) for name, value in row.items()} for row in islice(rows, most)]


def quality_rows(quality: QualitySummary) -> list[dict[str, Any]]:
    """Quantiles of every measure that is known of something, and what its thresholds leave out."""
    return [_row(each, quality.left_out) for each in quality.measured if each.known]


def _row(figures: MeasureFigures, left_out: list[LeftOut]) -> dict[str, Any]:
    measure = measure_of(figures.measure)
    limiting = [each for each in left_out if limit_of(each.setting).measure == figures.measure]
    own = [f"{each.setting} {each.bound:g}: {each.alone}" for each in limiting]
    quantiles = {name: f"{figures.quantiles[percent]:.{measure.digits}f}" for percent, name in SHOWN.items()}
    return {
        "measure": measure.label,
        "known of": figures.known,
        **quantiles,
        "leaves out": ", ".join(own) or "–",
    }


def plan_lines(config: PipelineConfig, corpus: Artifact | None, *, more: bool) -> list[str]:
    """What thresholds leave out, before anything runs; nothing without thresholds. `corpus` is what is taken already, `more` says
    that recordings of the source are not."""
    if not config.ingestion.keep.thresholds:
        return []
    known, unknown = (None, 0) if corpus is None else outlook(config, corpus)
    lines = [f"left out: {left_out_text(known)}"] if known else []
    open_ = [
        *([f"{unknown} utterances that are not measured"] if unknown else []),
        *(["new recordings"] if more else []),
    ]
    if open_:
        lines.append(
            f"left out of {' and of '.join(open_)}: known after measuring; `tinywave quality` with the same flags measures, and trains nothing"
        )
    return [
        *lines,
        "teacher and students belong to these thresholds: under others they are trained anew; codebooks stay, and nothing is decoded or "
        "tokenized again",
    ]

"""Measures of the utterances as a part of a page, and as a page of its own: histograms with thresholds, players, what is left out.

In: the part `quality` of ingestion. Pictures are inline SVG, sounds are MP3 in data URIs; all text is escaped by the template.
"""

import io
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tinywave_core import plots
from tinywave_core.audio.keeping import MEASURES, limit_of, measure_of
from tinywave_core.reporting.clips import clip_data
from tinywave_core.stages.ingestion.quality import LISTENING_FILE
from tinywave_core.stages.ingestion.quality_words import left_out_rows, left_out_text, quality_rows
from tinywave_core.stages.ingestion.summary import MeasureFigures, QualitySummary
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact
from tinywave_core.wording import duration

MAX_LISTED = 50
# Sounds and pictures of a page of its own, and of a part of the report, which has others beside it.
MAX_ALONE_BYTES, MAX_EMBEDDED_BYTES = 8_000_000, 2_000_000
PLACES = {"worst": "Worst end", "edge": "At the threshold", "middle": "Middle"}


@dataclass(frozen=True)
class HeardClip:
    """One player."""

    place: str
    value: str
    path: str
    transcript: str | None
    reason: str | None
    audio: str
    picture: str

    @property
    def embedded_bytes(self) -> int:
        return len(self.audio) + len(self.picture)


@dataclass(frozen=True)
class HeardMeasure:
    """The players of one measure."""

    about: str
    clips: list[HeardClip]


def render_quality(quality: Artifact) -> str:
    """A page of its own."""
    return (
        _environment()
        .get_template("quality_page.html.jinja")
        .render(**_section(quality, MAX_ALONE_BYTES), url=quality.url)
    )


def quality_section(outputs: Outputs) -> dict[str, Any]:
    """What the template of a report shows; nothing where nobody asked for measures."""
    if "quality" not in outputs:
        return {"quality_text": ""}
    return _section(outputs["quality"], MAX_EMBEDDED_BYTES)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("tinywave_core.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _section(quality: Artifact, most_bytes: int) -> dict[str, Any]:
    summary = QualitySummary.of(quality)
    listed = left_out_rows(quality, MAX_LISTED)
    text = f"{summary.utterances} utterances, {duration(summary.hours)}, are measured. "
    text += f"Left out: {left_out_text(summary)}" if summary.left_out else "No threshold is set: all of them are used."
    return {
        "quality_text": text,
        "quality_rows": quality_rows(summary),
        "quality_plots": [
            (measure_of(each.measure).about, Markup(_plot(each, summary))) for each in summary.measured if each.known
        ],
        "quality_clips": heard(quality, most_bytes),
        "quality_left_out": listed,
        "quality_more": summary.number_left_out - len(listed),
    }


def _plot(figures: MeasureFigures, summary: QualitySummary) -> str:
    measure = measure_of(figures.measure)
    own = [each for each in summary.left_out if limit_of(each.setting).measure == figures.measure]
    marks = [(each.bound, f"{each.setting} {each.bound:g}") for each in own]
    return plots.binned_svg(
        figures.edges,
        figures.counts,
        marks,
        title=measure.about,
        x_label=measure.label,
        y_label="utterances",
    )


def heard(quality: Artifact, most_bytes: int) -> list[HeardMeasure]:
    """Players by measure, as many as fit into so many bytes: the first of every measure before the second of any."""
    rows = read_table(quality.path(LISTENING_FILE)).to_pylist()
    by_measure: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_measure.setdefault(row["measure"], []).append(row)
    turns = sorted((turn, name) for name, own in by_measure.items() for turn in range(len(own)))
    embedded, made = 0, dict[tuple[str, int], HeardClip]()
    sounds: dict[str, tuple[str, str]] = {}
    for turn, name in turns:
        row = by_measure[name][turn]
        if row["utterance_id"] not in sounds:
            sounds[row["utterance_id"]] = clip_data(_wav(row["flac"]))
        clip = _clip(row, *sounds[row["utterance_id"]])
        if embedded + clip.embedded_bytes > most_bytes:
            break
        embedded += clip.embedded_bytes
        made[name, turn] = clip
    names = [*MEASURES, *(name for name in by_measure if name not in MEASURES)]
    shown = {name: [clip for (of, _), clip in sorted(made.items()) if of == name] for name in names}
    return [HeardMeasure(measure_of(name).about, clips) for name, clips in shown.items() if clips]


def _clip(row: dict[str, Any], audio: str, picture: str) -> HeardClip:
    value = measure_of(row["measure"]).text(row["value"])
    return HeardClip(PLACES[row["place"]], value, row["path"], row["transcript"], row["reason"], audio, picture)


def _wav(flac: bytes) -> bytes:
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(flac), dtype="int16")
    wav = io.BytesIO()
    soundfile.write(wav, samples, rate, format="WAV", subtype="PCM_16")
    return wav.getvalue()

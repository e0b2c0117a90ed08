"""The report's section on the gap between student and teacher, from the artifact `gap`."""

import json
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tinywave_core import plots
from tinywave_core.stages.evaluation.gap_words import LABELS, block_rows, gap_text, stream_rows
from tinywave_core.stages.evaluation.summary import GapSummary
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.store import Artifact

MAX_COSTLY = 8


@dataclass(frozen=True)
class WorstClip:
    """An utterance that costs the student much more than the teacher."""

    speaker: str | None
    transcript: str | None
    seconds: float
    nll: dict[str, float]
    audio: str
    picture: str
    strip: Markup
    """What each token costs it beyond the teacher, over the time of the picture; empty where the times are not known."""


def costly_rows(gap: GapSummary) -> list[dict[str, str]]:
    """Tokens that cost the student most against the teacher."""
    return [
        {
            "token": row.token or str(row.id),
            "times in held-out speech": f"{row.count:,}",
            "extra NLL each time": f"{row.mean:+.3f} nats",
            "extra NLL in total": f"{row.total:+.1f} nats",
        }
        for row in gap.costly[:MAX_COSTLY]
    ]


def position_lines(gap: GapSummary) -> list[plots.Line]:
    """KL to the teacher over the position in the sequence, at the middle of each stretch of positions."""
    import numpy as np

    lines = []
    for model, label in LABELS.items():
        by_position = {
            int(figure.group.split()[1]): figure.value
            for figure in gap.figures
            if figure.model == model and figure.measure == "logit_kl" and figure.group.startswith("position")
        }
        x, y = np.array([max(4.0, 1.5 * low) for low in by_position]), np.array(list(by_position.values()))
        lines.append(plots.Line(label, x, y, model, model == "control", noisy=False))
    return lines


def gap_plots(gap: GapSummary) -> list[tuple[str, str]]:
    """(caption, SVG): block against block for student and control, and predictions by position."""
    pairs = set(gap.pairs)
    labels = {"x_label": "teacher block", "y_label": "student block"}
    values = [value for rows in gap.cosines.values() for row in rows for value in row]
    limits = min(values), max(values)  # of both pictures, so that they can be compared
    pictures = [
        (
            f"Hidden states, mean cosine: {label}",
            plots.heatmap_svg(gap.cosines[name], pairs, limits, title=f"Cosine of hidden states, {label}", **labels),
        )
        for name, label in LABELS.items()
    ]
    title = "Predictions: KL to the teacher by position"
    by_position = plots.line_svg(position_lines(gap), title=title, x_label="token of the utterance", y_label="nats")
    return [*pictures, (title, by_position)]


def worst_clips(artifact: Artifact) -> list[WorstClip]:
    """Players of the utterances in which the student loses most."""
    from tinywave_core.reporting.clips import clip_data

    clips = []
    for row in json.loads(artifact.path("worst.json").read_text(encoding="utf-8")):
        wav = artifact.path(row["file"]).read_bytes()
        seconds = (len(wav) - 44) / 2 / SAMPLE_RATE
        audio, picture = clip_data(wav)
        strip = ""
        if row["times_s"]:
            times = [min(time, seconds) for time in row["times_s"]]
            strip = plots.strip_svg(times, row["gap"], seconds, title="What each token costs the student")
        clips.append(WorstClip(row["speaker"], row["transcript"], seconds, row["nll"], audio, picture, Markup(strip)))
    return clips


def gap_section(outputs: Outputs) -> dict[str, Any]:
    """All that the template needs; empty where a run has no gap."""
    if "gap" not in outputs:
        return {"gap": None}
    gap = GapSummary.of(outputs["gap"])
    return {
        "gap": {
            "text": gap_text(gap),
            "claim": gap_text(gap).partition(": ")[0] + ".",
            "blocks": block_rows(gap),
            "streams": stream_rows(gap),
            "costly": costly_rows(gap),
            "plots": [(caption, Markup(svg)) for caption, svg in gap_plots(gap) if svg],
            "worst": worst_clips(outputs["gap"]),
        }
    }

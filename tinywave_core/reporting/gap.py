"""The report's section on the gap between student and teacher, from the artifact `gap`."""

import json
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tinywave_core import plots
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.store import Artifact
from tinywave_core.wording import with_interval

LABELS = {"student": "student", "control": "undistilled"}
STREAMS = {"hubert": "units", "pitch": "pitch", "style": "style", "text": "text", "speech": "all speech"}
MAX_COSTLY = 8

Summary = dict[str, Any]


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


def gap_text(gap: Summary) -> str:
    """How far the predictions of student and undistilled control are from the teacher's, and whether that differs."""
    own, other = (_figure(gap, model, "logit_kl") for model in LABELS)
    closer = _closer(gap, "logit_kl", "all")
    low, high = closer["interval"]
    told = (
        "closer to the teacher than" if low > 0 else "further from the teacher than" if high < 0 else "within noise of"
    )
    return (
        f"Over {gap['utterances']} held-out utterances and {gap['tokens']:,} tokens the student's predictions are {_with_interval(own)} "
        f"nats (KL) from the teacher's, those of its undistilled control {_with_interval(other)}: {told} it, by "
        f"{closer['value']:+.3f} ({low:+.3f} to {high:+.3f}, paired over utterances)."
    )


def block_rows(gap: Summary) -> list[dict[str, str]]:
    """The blocks that are compared, a dict per pair."""
    rows = []
    for pair in gap["pairs"]:
        row = {"student ← teacher block": f"{pair[0]} ← {pair[1]}"}
        for measure, name in (("hidden_cosine", "hidden cosine"), ("attention_kl", "attention KL, nats")):
            row |= {
                f"{name}, {label}": _with_interval(_figure(gap, model, measure, pair))
                for model, label in LABELS.items()
            }
            row[f"{name}: closer by"] = _signed(_closer(gap, measure, "all", pair))
        rows.append(row)
    return rows


def stream_rows(gap: Summary) -> list[dict[str, str]]:
    """Predictions by stream and modality, a dict per stream."""
    rows = []
    for group, name in {"all": "all", **STREAMS}.items():
        if _find(gap, "student", "logit_kl", group) is None:
            continue
        row = {"predicted": name, "tokens": f"{_figure(gap, 'student', 'logit_kl', None, group)['count']:,}"}
        for measure, about in (("logit_kl", "KL to the teacher"), ("nll_gap", "NLL above the teacher")):
            found = {label: _figure(gap, model, measure, None, group) for model, label in LABELS.items()}
            row |= {f"{about}, {label}": _with_interval(figure) for label, figure in found.items()}
        row["KL: closer by"] = _signed(_closer(gap, "logit_kl", group))
        rows.append(row)
    return rows


def costly_rows(gap: Summary) -> list[dict[str, str]]:
    """Tokens that cost the student most against the teacher."""
    return [
        {
            "token": row["token"],
            "came": f"{row['count']:,} times",
            "costs each": f"{row['mean']:+.3f} nats",
            "in all": f"{row['total']:+.1f} nats",
        }
        for row in gap["costly"][:MAX_COSTLY]
    ]


def position_lines(gap: Summary) -> list[plots.Line]:
    """KL to the teacher over the position in the sequence, at the middle of each stretch of positions."""
    import numpy as np

    lines = []
    for model, label in LABELS.items():
        found = {
            int(f["group"].split()[1]): f["value"]
            for f in gap["figures"]
            if f["model"] == model and f["measure"] == "logit_kl" and f["group"].startswith("position")
        }
        x = np.array([max(4.0, 1.5 * low) for low in found])
        lines.append(plots.Line(label, x, np.array(list(found.values())), model, model == "control", noisy=False))
    return lines


def gap_plots(gap: Summary) -> list[tuple[str, str]]:
    """(caption, SVG): block against block for student and control, and predictions by position."""
    pairs = {(student, teacher) for student, teacher in gap["pairs"]}
    labels = {"x_label": "teacher block", "y_label": "student block"}
    values = [value for rows in gap["cosines"].values() for row in rows for value in row]
    limits = min(values), max(values)  # of both pictures, so that they can be compared
    pictures = [
        (
            f"Hidden states, mean cosine: {LABELS[name]}",
            plots.heatmap_svg(
                gap["cosines"][name], pairs, limits, title=f"Cosine of hidden states, {LABELS[name]}", **labels
            ),
        )
        for name in LABELS
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
    gap = outputs["gap"].summary
    return {
        "gap": {
            "text": gap_text(gap),
            "blocks": block_rows(gap),
            "streams": stream_rows(gap),
            "costly": costly_rows(gap),
            "plots": [(caption, Markup(svg)) for caption, svg in gap_plots(gap) if svg],
            "worst": worst_clips(outputs["gap"]),
        }
    }


def _find(gap: Summary, model: str, measure: str, group: str, pair: list[int] | None = None) -> Summary | None:
    wanted = {"model": model, "measure": measure, "group": group, **_blocks(pair)}
    return next((f for f in gap["figures"] if wanted.items() <= f.items()), None)


def _figure(gap: Summary, model: str, measure: str, pair: list[int] | None = None, group: str = "all") -> Summary:
    found = _find(gap, model, measure, group, pair)
    assert found is not None, (model, measure, group, pair)
    return found


def _closer(gap: Summary, measure: str, group: str, pair: list[int] | None = None) -> Summary:
    wanted = {"measure": measure, "group": group, **_blocks(pair)}
    found: Summary = next(f for f in gap["closer"] if wanted.items() <= f.items())
    return found


def _blocks(pair: list[int] | None) -> dict[str, int | None]:
    student, teacher = pair or (None, None)
    return {"student_block": student, "teacher_block": teacher}


def _with_interval(figure: Summary) -> str:
    return with_interval(figure, "value", ".3f", "interval")


def _signed(figure: Summary) -> str:
    low, high = figure["interval"]
    noise = ", within noise" if low <= 0 <= high else ""
    return f"{figure['value']:+.3f} ({low:+.3f} to {high:+.3f}{noise})"

"""The gap between student and teacher in words and tables."""

from tinywave_core.counts import count
from tinywave_core.evals.figures import CloserFigure, GapFigure
from tinywave_core.stages.evaluation.summary import GapSummary
from tinywave_core.wording import MODELS, STREAMS, with_interval

LABELS = {name: MODELS[name] for name in ("student", "control")}


def gap_text(gap: GapSummary) -> str:
    """How far the predictions of student and undistilled control are from the teacher's, and whether that differs."""
    own, other = (_with_interval(gap.figure(model, "logit_kl")) for model in LABELS)
    closer = gap.difference("logit_kl")
    low, high = closer.interval
    relation = (
        "closer to the teacher than" if low > 0 else "further from the teacher than" if high < 0 else "within noise of"
    )
    return (
        f"The student's predictions are {relation} those of its undistilled control: KL from the teacher's {own} nats, of the "
        f"control's {other}, the student closer by {closer.value:+.3f} ({low:+.3f} to {high:+.3f}, paired over recordings). "
        f"Measured on {count(gap.utterances, 'held-out utterance')}, {count(gap.tokens, 'token')}."
    )


def block_rows(gap: GapSummary) -> list[dict[str, str]]:
    """The blocks that are compared, a dict per pair."""
    rows = []
    for blocks in gap.pairs:
        row = {"blocks": f"student {blocks[0]}, teacher {blocks[1]}"}
        for measure, name in (("hidden_cosine", "cosine of hidden states"), ("attention_kl", "KL of attention, nats")):
            for model, label in LABELS.items():
                row[f"{name}, {label}"] = _with_interval(gap.figure(model, measure, blocks=blocks))
            row[f"{name}: student closer by"] = _signed(gap.difference(measure, blocks=blocks))
        rows.append(row)
    return rows


def stream_rows(gap: GapSummary) -> list[dict[str, str]]:
    """Predictions by stream and modality, a dict per stream."""
    rows = []
    for group, name in {"all": "all", **STREAMS}.items():
        predicted = gap.find("student", "logit_kl", group)
        if predicted is None:
            continue
        row = {"predicted stream": name, "tokens": f"{predicted.count:,}"}
        for measure, distance in (
            ("logit_kl", "KL from the teacher, nats"),
            ("nll_gap", "NLL above the teacher's, nats"),
        ):
            for model, label in LABELS.items():
                row[f"{distance}, {label}"] = _with_interval(gap.figure(model, measure, group))
        row["KL: student closer by"] = _signed(gap.difference("logit_kl", group))
        rows.append(row)
    return rows


def _with_interval(figure: GapFigure) -> str:
    return with_interval(figure.value, figure.interval, ".3f")


def _signed(figure: CloserFigure) -> str:
    low, high = figure.interval
    noise = ", within noise" if low <= 0 <= high else ""
    return f"{figure.value:+.3f} ({low:+.3f} to {high:+.3f}{noise})"

"""The gap between student and teacher in words and tables."""

from tinywave_core.steps.base import SummaryDict
from tinywave_core.wording import with_interval

LABELS = {"student": "student", "control": "undistilled"}


STREAMS = {"hubert": "units", "pitch": "pitch", "style": "style", "text": "text", "speech": "all speech"}


def gap_text(gap: SummaryDict) -> str:
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


def block_rows(gap: SummaryDict) -> list[dict[str, str]]:
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


def stream_rows(gap: SummaryDict) -> list[dict[str, str]]:
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


def _find(gap: SummaryDict, model: str, measure: str, group: str, pair: list[int] | None = None) -> SummaryDict | None:
    wanted = {"model": model, "measure": measure, "group": group, **_blocks(pair)}
    return next((f for f in gap["figures"] if wanted.items() <= f.items()), None)


def _figure(
    gap: SummaryDict, model: str, measure: str, pair: list[int] | None = None, group: str = "all"
) -> SummaryDict:
    found = _find(gap, model, measure, group, pair)
    assert found is not None, (model, measure, group, pair)
    return found


def _closer(gap: SummaryDict, measure: str, group: str, pair: list[int] | None = None) -> SummaryDict:
    wanted = {"measure": measure, "group": group, **_blocks(pair)}
    found: SummaryDict = next(f for f in gap["closer"] if wanted.items() <= f.items())
    return found


def _blocks(pair: list[int] | None) -> dict[str, int | None]:
    student, teacher = pair or (None, None)
    return {"student_block": student, "teacher_block": teacher}


def _with_interval(figure: SummaryDict) -> str:
    return with_interval(figure, "value", ".3f", "interval")


def _signed(figure: SummaryDict) -> str:
    low, high = figure["interval"]
    noise = ", within noise" if low <= 0 <= high else ""
    return f"{figure['value']:+.3f} ({low:+.3f} to {high:+.3f}{noise})"

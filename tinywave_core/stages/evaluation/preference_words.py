"""The student before and after preference tuning, in words and a table: what was gained, and what it cost."""

from tinywave_core.counts import count
from tinywave_core.stages.distillation.judging import UNIT
from tinywave_core.stages.evaluation.summary import AgainstSummary, BeforeAndAfter, PreferenceSummary
from tinywave_core.steps.base import Outputs
from tinywave_core.steps.stage import Section

TITLE = "Before and after preference tuning"
_HIGHER, _LOWER, _NEITHER = 1, -1, 0


def comparison_sections(outputs: Outputs) -> list[Section]:
    """Text and table; nothing where no student was tuned."""
    if "preference" not in outputs:
        return []
    found, nll = PreferenceSummary.of(outputs["preference"]), AgainstSummary.of(outputs["against"])
    return [Section(TITLE, comparison_text(found, nll), comparison_rows(found, nll))]


def comparison_text(found: PreferenceSummary, nll: AgainstSummary) -> str:
    """On what it was measured, what got better, and what got worse."""
    if found.why:
        return f"{found.why[:1].upper()}{found.why[1:]}: the continuations before and after were not compared. {tuned_words(nll)}"
    lacking = [
        f"{'before' if model == 'distilled' else 'after'} {', '.join(f'{number:,} ({why})' for why, number in reasons.items())}"
        for model, reasons in found.failures.items()
        if reasons
    ]
    failed = f" Continuations without a score: {'; '.join(lacking)}." if lacking else ""
    judged = found.measures.get("judge" if found.judge != "teacher" else "teacher")
    return (
        f"Both continued {count(found.prompts, 'held-out prompt')} of {count(found.recordings, 'recording')} with the same random numbers. "
        f"{_gain(judged)} {tuned_words(nll)}{_repeats(found.measures.get('repetition'))}{failed}"
    )


def _gain(judged: BeforeAndAfter | None) -> str:
    if judged is None:
        return "The judge has no score for both."
    said = {
        _HIGHER: "The judge finds the tuned student better",
        _LOWER: "The judge finds the tuned student worse",
        _NEITHER: "The judge cannot tell the tuned student from the one before",
    }[_sign(judged.interval)]
    return f"{said}: {_change(judged)}."


def tuned_words(nll: AgainstSummary) -> str:
    """What preference tuning did to held-out likelihood, in a sentence."""
    if not nll.comparable:
        return f"Held-out likelihood is not compared: {nll.why}."
    said = {
        _HIGHER: "The tuned student predicts held-out speech worse than before",
        _LOWER: "The tuned student predicts held-out speech better than before",
        _NEITHER: "The tuned student predicts held-out speech as before, within noise",
    }[_sign(nll.interval)]
    low, high = nll.interval
    return f"{said}: NLL {nll.difference:+.4f} nats per token [{low:+.4f}, {high:+.4f}]."


def _repeats(repetition: BeforeAndAfter | None) -> str:
    if repetition is None or _sign(repetition.interval) != _HIGHER:
        return ""
    return f" It repeats itself more: auto-BLEU of tokens {_change(repetition)}."


def _sign(interval: tuple[float, float]) -> int:
    low, high = interval
    return _HIGHER if low > 0 else _LOWER if high < 0 else _NEITHER


def _change(found: BeforeAndAfter) -> str:
    return f"{found.difference:+.3f} [{found.interval[0]:+.3f}, {found.interval[1]:+.3f}]"


def comparison_rows(found: PreferenceSummary, nll: AgainstSummary) -> list[dict[str, str]]:
    """A row per measure."""
    names = {
        "teacher": f"{UNIT['teacher']} (higher is likelier)",
        "judge": f"{UNIT[found.judge]} (higher is better)",
        "repetition": "repetition (auto-BLEU of tokens)",
        "tokens": "tokens of a continuation",
    }
    rows = [
        {
            "measure": names[name],
            "before": f"{each.before:.3f}",
            "after": f"{each.after:.3f}",
            "difference": _change(each),
            "prompts": str(each.prompts),
        }
        for name, each in found.measures.items()
    ]
    if nll.comparable:
        low, high = nll.interval
        rows.append(
            {
                "measure": "held-out NLL, nats per token (lower is better)",
                "before": f"{nll.nll['published']:.4f}",
                "after": f"{nll.nll['student']:.4f}",
                "difference": f"{nll.difference:+.4f} [{low:+.4f}, {high:+.4f}]",
                "prompts": "–",
            }
        )
    return rows

"""Preference tuning in words and tables: pairs and what made none, and how the student learned from them."""

from tinywave_core.counts import count
from tinywave_core.stages.distillation.judging import UNIT
from tinywave_core.stages.distillation.summary import PairsSummary, Preferred, StudentSummary
from tinywave_core.steps.base import Outputs
from tinywave_core.steps.stage import Section
from tinywave_core.wording import figure

TITLE = "Preference tuning"
NONE = "–"


def in_short(outputs: Outputs) -> str:
    """For the line of the stage; empty without preference tuning."""
    tuned = StudentSummary.of(outputs["student"]).preference
    return "" if tuned is None else f", tuned by {count(tuned.pairs, 'pair')} of its own continuations"


def preference_sections(outputs: Outputs) -> list[Section]:
    """What there is to say of it; nothing without it."""
    tuned = StudentSummary.of(outputs["student"]).preference
    if tuned is None:
        return []
    made = PairsSummary.of(outputs["pairs"])
    return [Section(TITLE, preference_text(made, tuned), preference_rows(made, tuned))]


def preference_text(made: PairsSummary, tuned: Preferred) -> str:
    """Sentences on the pairs, what was left out, and which weights were kept."""
    pairs, prompts = made.pairs, made.prompts
    sentences = [
        f"The student continued {count(sum(prompts.values()), 'prompt')} of its training speech, {made.candidates:,} times in all, and the "
        f"judge ({UNIT[made.judge]}) ranked what it said: {count(pairs['train'], 'pair')} to train on, {pairs['validation']} to validate.",
        *(_left_out("Prompts without a pair", made.without_pair)),
        *(_left_out("Continuations without a score", made.failures)),
        *([f"{count(made.too_short, 'sequence')} had no room for a prompt."] if made.too_short else []),
        _kept(tuned),
    ]
    return " ".join(sentences)


def _left_out(what: str, reasons: dict[str, int]) -> list[str]:
    return [f"{what}: {', '.join(f'{number:,} ({why})' for why, number in reasons.items())}."] if reasons else []


def _kept(tuned: Preferred) -> str:
    taken = f"{tuned.steps} of {count(tuned.planned_steps, 'step')}"
    if tuned.best_step is None:
        return f"After {taken} the last weights were kept: no pair validates."
    if tuned.best_step == 0:
        return f"In {taken} nothing was better on the pairs that validate: the weights before the tuning were kept."
    return f"Of {taken} the weights of step {tuned.best_step} were kept, the best on the pairs that validate."


def preference_rows(made: PairsSummary, tuned: Preferred) -> list[dict[str, str]]:
    """Better and worse continuations, and what the student learned of them."""
    rows = [
        {"figure": f"judge: {UNIT[made.judge]}", **_sides(made.scores, ".3f")},
        {"figure": "repetition (auto-BLEU of tokens)", **_sides(made.repetition, ".3f")},
    ]
    learned = {
        "pairs that validate": tuned.checked,
        "pairs trained on, last step": tuned.final,
    }
    return [{**row, **dict.fromkeys(("accuracy", "margin", "loss"), NONE)} for row in rows] + [
        {
            "figure": name,
            "better": NONE,
            "worse": NONE,
            "accuracy": f"{numbers['accuracy']:.1%}",
            "margin": f"{numbers['margin']:.3f}",
            "loss": f"{numbers['loss']:.4f}",
        }
        for name, numbers in learned.items()
        if numbers
    ]


def _sides(values: dict[str, float | None], form: str) -> dict[str, str]:
    return {name: figure(values[name], form) for name in ("better", "worse")}

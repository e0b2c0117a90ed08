"""What the models are worth beside guessing and tables of counts, in sentences and rows: the first thing that a verdict says."""

from tinywave_core.counts import count
from tinywave_core.evals.figures import FEW_RECORDINGS, AboveFloor, Likelihood, Scores
from tinywave_core.wording import counts_label, figure, with_interval


def standing(scores: Scores) -> list[str]:
    """A sentence about the student, and one about its teacher where that is not better than the floor."""
    below, teacher_below = (shortfall(scores, model) for model in ("student", "teacher"))
    sentences = [f"The student {below or _above_the_floor(scores)}."]
    if teacher_below:
        sentences.append(f"The teacher {teacher_below}. Such a teacher has nothing to teach.")
    return sentences


def shortfall(scores: Scores, model: str) -> str | None:
    """What a model is worse than, with its numbers, as the rest of a sentence about it; None where it is better than the floor
    beyond noise."""
    floors = scores.floors
    from_guessing, from_counts = floors.above_guessing[model], floors.above_counts[model]
    if from_counts.is_better and from_guessing.is_better:
        return None
    if from_guessing.is_worse or from_counts.is_better:
        guess = f"a guess among all ids {floors.guessing.nll:.3f}"
        known = "is worse than" if from_guessing.is_worse else "is not shown to be better than"
        return f"{known} guessing: {_measured(scores, model, guess, from_guessing)}"
    known = "is worse" if from_counts.is_worse else "is not shown to be better"
    return f"{known} than a table of counts: {_measured(scores, model, _counted(scores), from_counts)}"


def below_control(scores: Scores) -> str:
    """That the student is worse than its undistilled control beyond noise, with numbers, as the rest of a sentence about it; empty
    where it is not."""
    low, high = scores.comparison.distillation_gain_nll_interval
    if scores.floors.recordings < FEW_RECORDINGS or high >= 0:
        return ""
    own, control = (scores.models[model].nll for model in ("student", "control"))
    return (
        f"is worse than its undistilled control, which had the same training without the teacher: {own:.3f} nats per token on "
        f"held-out speech, the control {control:.3f} (difference {own - control:+.3f}, 95% interval {-high:+.3f} to {-low:+.3f}, paired "
        f"over {count(scores.floors.recordings, 'held-out recording')})"
    )


def _above_the_floor(scores: Scores) -> str:
    return f"is better than a table of counts: {_measured(scores, 'student', _counted(scores), scores.floors.above_counts['student'])}"


def _counted(scores: Scores) -> str:
    return f"{counts_label(scores.floors.order)} in its training speech {scores.floors.floor.nll:.3f}"


def _measured(scores: Scores, model: str, floor: str, above: AboveFloor) -> str:
    measured = f"{scores.models[model].nll:.3f} nats per token on held-out speech, {floor} (difference {above.nll:+.3f}"
    recordings = scores.floors.recordings
    if recordings == 1:
        return f"{measured}, over one held-out recording, which tells nothing of others)"
    low, high = above.interval
    few = "only " if recordings < FEW_RECORDINGS else ""
    return f"{measured}, 95% interval {low:+.3f} to {high:+.3f}, paired over {few}{count(recordings, 'held-out recording')})"


def floor_rows(scores: Scores) -> list[dict[str, str]]:
    """Guessing and the counts, a dict each, with the columns of the models' table."""
    floors = scores.floors
    rows = [likelihood_row("Guessing", floors.guessing) | {"NLL, nats per token": f"{floors.guessing.nll:.3f}"}]
    for order, figures in enumerate(floors.counts, start=1):
        best = " (the floor)" if order == floors.order else ""
        rows.append(likelihood_row(f"{counts_label(order).capitalize()}{best}", figures))
    return rows


def likelihood_row(name: str, figures: Likelihood) -> dict[str, str]:
    """A row of the comparison table, of what needs no parameters and answers no cloze."""
    bits = figures.bits_per_second
    return {
        "model": name,
        "parameters": "–",
        "NLL, nats per token": with_interval(figures.nll, figures.nll_interval, ".3f"),
        "perplexity": figure(figures.perplexity, ".1f"),
        "bits per second": "–" if bits is None else f"{bits:.1f}",
        "cloze accuracy": "–",
    }

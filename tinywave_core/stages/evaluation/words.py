"""Evaluation in words and tables: the verdict, the figures of the three models and of the floors, probes, continuations."""

from tinywave_core import plots
from tinywave_core.counts import count
from tinywave_core.evals.figures import FEW_RECORDINGS, Generated, Mean, ModelFigures, Scores
from tinywave_core.stages.distillation.summary import StudentSummary
from tinywave_core.stages.evaluation.floor_words import floor_rows, likelihood_row, standing
from tinywave_core.stages.evaluation.preference_words import tuned_words
from tinywave_core.stages.evaluation.summary import (
    AgainstSummary,
    DraftingSummary,
    ProbeScoresSummary,
    ProbesSummary,
    RatingsSummary,
    ScoresSummary,
)
from tinywave_core.stages.ingestion.summary import CorpusSummary
from tinywave_core.steps.base import Outputs
from tinywave_core.wording import (
    MODELS,
    OVER_TEACHER,
    STREAMS,
    counts_label,
    duration,
    gen_ppl_ratio,
    millions,
    nll_ratio,
    perplexity_ratio,
    right,
    share,
    with_interval,
)

LABELS = {name: label.capitalize() for name, label in MODELS.items()}
# The probability of a difference by chance alone below which a paired test of one probe calls it beyond noise.
CLEAR_P = 0.05
SOURCES = {**MODELS, "recording": "how it really went on"}


def headline(outputs: Outputs) -> str:
    """What was made, from what."""
    student, corpus = outputs["student"].summary, CorpusSummary.of(outputs["corpus"])
    return (
        f"A student of {millions(student['parameters'])} parameters, distilled from a teacher of "
        f"{millions(student['teacher_parameters'])}, on {duration(corpus.hours_train)} of speech"
    )


def verdict(scores: Scores, probes: ProbeScoresSummary | None = None, tuned: str = "") -> list[str]:
    """What the student is worth, whether distillation helped beyond noise, how much of the gap was closed, what is left of cloze, and
    where its undistilled control answers more questions right. A sentence begins with its claim; a colon stands before figures.
    `tuned` says of a student after preference tuning what that did."""
    made = "Distillation with preference tuning" if tuned else "Distillation"
    told = [*standing(scores), _gain(scores, made), *([tuned] if tuned else []), _gap(scores, made)]
    return [*told, _cloze(scores), *control_ahead(scores, probes)]


def verdict_of(outputs: Outputs) -> list[str]:
    """The verdict on a run's student."""
    if "against" in outputs:
        tuned = tuned_words(AgainstSummary.of(outputs["against"]))
    elif StudentSummary.of(outputs["student"]).preference:
        tuned = "The student was tuned by preference after it was distilled."
    else:
        tuned = ""
    return verdict(ScoresSummary.of(outputs["scores"]), probes_of(outputs), tuned)


def probes_of(outputs: Outputs) -> ProbeScoresSummary | None:
    """The probes' scores, where the run has them."""
    return ProbeScoresSummary.of(outputs["probe_scores"]) if "probe_scores" in outputs else None


def _gain(scores: Scores, made: str) -> str:
    gain, (low, high) = scores.comparison.distillation_gain_nll, scores.comparison.distillation_gain_nll_interval
    recordings = count(scores.held_out.recordings, "held-out recording")
    interval = f"95% interval {low:+.3f} to {high:+.3f}, paired " if scores.held_out.recordings > 1 else ""
    measured = f"{gain:+.3f} nats per token ({interval}over {recordings})"
    if scores.floors.recordings < FEW_RECORDINGS:
        return f"There is too little held-out speech to tell whether {made.lower()} helped: it measured {measured}."
    if low > 0:
        return f"{made} helped beyond noise: against the undistilled control it gains {measured}."
    if high < 0:
        return f"{made} hurt beyond noise: against the undistilled control it gains {measured}."
    return f"{made} made no difference that this much held-out speech can show: {measured}, within noise."


def _gap(scores: Scores, made: str) -> str:
    comparison, models = scores.comparison, scores.models
    low, high = comparison.distillation_gain_nll_interval
    few = scores.floors.recordings < FEW_RECORDINGS
    noise = " (a figure within noise)" if few or low <= 0 <= high else ""
    if comparison.student_is_better_than_teacher:
        ahead = models["teacher"].nll - models["student"].nll
        return (
            f"The student is better than its teacher, by {ahead:.3f} nats per token: there is no gap left to close. "
            "A teacher that overfits, or that was trained briefly, does that."
        )
    closed = comparison.nll_gap_closed
    if closed is None:
        return "The undistilled control is as good as the teacher, so there is no gap that distillation could close."
    if closed < 0:
        return f"The student is further from the teacher than its undistilled control{noise}."
    interval = comparison.nll_gap_closed_interval
    if interval is None:
        return "How much of the gap to the teacher was closed cannot be told: the undistilled control is not shown to be worse than the teacher."
    known = f": 95% interval {interval[0]:.0%} to {interval[1]:.0%}" if scores.held_out.recordings > 1 else ""
    return f"{made} closed {closed:.0%} of the gap between the undistilled control and the teacher{noise}{known}."


def _cloze(scores: Scores) -> str:
    kept, gain = scores.comparison.cloze_retention, scores.comparison.cloze_gain_interval
    student, teacher = scores.models["student"].cloze, scores.models["teacher"].cloze
    items = scores.held_out.cloze_items
    if student is None or teacher is None or kept is None or gain is None:
        return "No cloze item could be built from the held-out speech, so there is no cloze accuracy."
    if kept.above_chance is None or kept.above_chance_interval is None:
        return f"The cloze says nothing of what the student kept: {kept.why}; the student has {right(student, items)} right."
    kept_low, kept_high = kept.above_chance_interval
    low, high = gain
    against = "within noise of" if low <= 0 <= high else ("above" if low > 0 else "below")
    known = f"95% interval {kept_low:.0%} to {kept_high:.0%}; " if scores.held_out.recordings > 1 else ""
    return (
        f"On the cloze the student keeps {kept.above_chance:.0%} of the teacher's lead over chance, {against} its undistilled control: "
        f"{known}{right(student, items)} right, the teacher {right(teacher, items)}."
    )


def control_ahead(scores: Scores, probes: ProbeScoresSummary | None) -> list[str]:
    """A sentence for each kind of question of which the undistilled control answers more right than the student does."""
    said = [_ahead_on_cloze(scores), _ahead_on_probes(probes) if probes and probes.items else None]
    return [sentence for sentence in said if sentence]


def _ahead_on_cloze(scores: Scores) -> str | None:
    items, gain = scores.held_out.cloze_items, scores.comparison.cloze_gain_interval
    student, control = scores.models["student"].cloze, scores.models["control"].cloze
    if student is None or control is None or gain is None or control <= student:
        return None
    noise = "beyond noise" if gain[1] < 0 else "within noise"
    return (
        f"The undistilled control scores higher than the student on the cloze, {noise}: {right(control, items)} right, the student "
        f"{right(student, items)}."
    )


def _ahead_on_probes(probes: ProbeScoresSummary) -> str | None:
    """All probes together; and each on which the control is ahead beyond noise, also where the student is ahead in all."""
    student, control = (probes.overall[name].accuracy for name in ("student", "control"))
    clear = [
        f"{name.replace('_', ' ')} (p = {test.p:.2g})"
        for name, figures in probes.probes.items()
        if (test := figures.mcnemar["control"]).second_only > test.first_only and test.p < CLEAR_P
    ]
    if control <= student and not clear:
        return None
    beyond = f"beyond noise on {', '.join(clear)}" if clear else "within noise on each of them"
    return (
        f"The undistilled control scores higher than the student on {'the' if control > student else 'some'} probes, {beyond}: "
        f"{right(control, probes.items)} pairs right in all, the student {right(student, probes.items)}."
    )


def comparison_rows(scores: Scores) -> list[dict[str, str]]:
    """The table of the models and then of the floors, a dict each; the columns are the keys."""
    rows = []
    for name, label in LABELS.items():
        model = scores.models[name]
        cloze = _cloze_share(model, scores.held_out.cloze_items)
        own = {"parameters": millions(model.parameters), "cloze accuracy": cloze}
        rows.append(likelihood_row(label, model) | own)
    return rows + floor_rows(scores)


def _cloze_share(model: ModelFigures, items: int) -> str:
    if model.cloze is None or model.cloze_interval is None:
        return "no items"
    return share(model.cloze, model.cloze_interval, items)


def likelihood_rows(scores: Scores) -> list[dict[str, str]]:
    """NLL beside the teacher's, bits per second by stream, and the same after a prompt, a dict per model; the floor's bits as well."""
    continuation, rows = scores.continuation, []
    for name, label in LABELS.items():
        row = {"model": label, OVER_TEACHER: nll_ratio(scores.ratios.get(name))}
        for stream, figures in scores.models[name].by_stream.items():
            bits = with_interval(figures.bits_per_second, figures.bits_per_second_interval, ".1f")
            row[f"bits per second, {STREAMS[stream]}"] = bits
        if continuation.models:
            after = continuation.models[name]
            bits = with_interval(after.bits_per_second, after.bits_per_second_interval, ".1f")
            row["NLL after the prompt"] = with_interval(after.nll, after.nll_interval, ".3f")
            row["bits per second after the prompt"] = bits
            row["perplexity after the prompt, as a multiple of the teacher's"] = perplexity_ratio(
                continuation.ratios.get(name)
            )
        rows.append(row)
    return [*rows, _floor_by_stream(scores, list(rows[0]))]


def _floor_by_stream(scores: Scores, columns: list[str]) -> dict[str, str]:
    """The floor's row beside those of the models; what was not measured of it is a dash."""
    floors, teacher = scores.floors, scores.models["teacher"].nll
    row = dict.fromkeys(columns, "–") | {"model": counts_label(floors.order).capitalize()}
    if teacher > 0:
        row[OVER_TEACHER] = f"{floors.floor.nll / teacher:.3f}"
    for stream, figures in floors.floor.by_stream.items():
        bits = with_interval(figures.bits_per_second, figures.bits_per_second_interval, ".1f")
        row[f"bits per second, {STREAMS[stream]}"] = bits
    return row


def continuation_text(scores: Scores) -> str:
    """Which utterances and tokens the figures after a prompt cover."""
    after = scores.continuation
    if not after.models:
        return (
            f"No held-out utterance has {after.min_s:g} s, so nothing is said of what comes after a prompt of "
            f"{after.prompt_s:g} s."
        )
    return (
        f"After the prompt: {count(after.tokens, 'token')} in {after.seconds / 60:.1f} min of {count(after.utterances, 'utterance')} of at "
        f"least {after.min_s:g} s, whose first {after.prompt_s:g} s are the prompt."
    )


def generated_rows(generated: Generated) -> list[dict[str, str]]:
    """Continuations judged as text, a dict per source."""
    rows = []
    for source, figures in generated.sources.items():
        repeated = with_interval(figures.auto_bleu, figures.auto_bleu_interval, ".1%")
        rows.append(
            {
                "continued by": SOURCES[source].capitalize(),
                "generative perplexity": with_interval(figures.gen_ppl, figures.gen_ppl_interval, ".1f"),
                "as a multiple of the teacher's": gen_ppl_ratio(generated.ratios.get(source)),
                "auto-BLEU-2": "–" if figures.auto_bleu is None else repeated,
                "seconds each": f"{figures.seconds:.1f}",
                "silent clips": str(figures.silent),
                "clips in which nothing was understood": str(figures.empty),
                "clips of one word": str(figures.without_bigrams),
            }
        )
    return rows


def generated_text(generated: Generated) -> str:
    """What was continued, or why nothing was."""
    if not generated.sources:
        return f"Nothing was continued: {generated.why}."
    return (
        f"{count(generated.items, 'held-out prompt')} of {generated.prompt_s:g} s, continued by at most "
        f"{count(generated.max_new_tokens, 'token')}; vocoder: {generated.vocoder}."
    )


def rating_rows(ratings: RatingsSummary) -> list[dict[str, str]]:
    """What a language model gave, a dict per source; then the paired differences, a dict each."""
    rows = []
    for source, figures in ratings.sources.items():
        failures = ", ".join(f"{n} {why}" for why, n in figures.failures.items())
        rows.append(
            {
                "continued by": SOURCES[source].capitalize(),
                "rating, 1 to 5": _mean(figures.rating),
                "rated": f"{figures.rating.clips if figures.rating else 0} of {ratings.items}",
                "not rated": failures or "–",
                "with 1 for what is not rated": _mean(figures.at_worst),
            }
        )
    for name, gap in ratings.gaps.items():
        row = {"continued by": name.capitalize(), "rating, 1 to 5": with_interval(gap.value, gap.interval, "+.2f")}
        rows.append(row | {"rated": f"{gap.clips} pairs", "not rated": "–", "with 1 for what is not rated": "–"})
    return rows


def ratings_text(ratings: RatingsSummary) -> str:
    """How many were rated, or why none was."""
    if not ratings.sources:
        return f"Nothing was rated: {ratings.why}."
    return (
        f"{count(ratings.items, 'held-out prompt')} and what followed, as the recogniser wrote them down: a language model's expected digit, "
        "1 is noise, 5 is fluent and fits. Differences are over the prompts of which both continuations have a rating."
    )


def _mean(mean: Mean | None) -> str:
    return "–" if mean is None else with_interval(mean.value, mean.interval, ".2f")


def direction_rows(scores: Scores) -> list[dict[str, str]]:
    """The cross-modal cloze, a dict per direction; none where no words have times."""
    rows = []
    for name, direction in scores.directions.items():
        row = {"prompt → continuation": name, "items": str(direction.student.items)}
        row |= {LABELS[m]: share(a.accuracy, a.interval, a.items) for m, a in direction.models.items()}
        low, high = direction.gain_interval
        row["student less undistilled control (95% interval)"] = f"{low:+.1%} to {high:+.1%}"
        rows.append(row)
    return rows


def probe_rows(probes: ProbeScoresSummary) -> list[dict[str, str]]:
    """The probes, a dict per probe: accuracies, what is kept of the teacher's above chance, and the paired tests."""
    rows = []
    for probe, figures in probes.probes.items():
        row = {"probe": probe.replace("_", " "), "pairs": str(figures.items)}
        for name, label in LABELS.items():
            row[label] = share(figures.models[name].accuracy, figures.models[name].interval, figures.items)
        kept = figures.retention
        known = with_interval(kept.above_chance, kept.above_chance_interval, ".0%")
        # Student over teacher alone would be a percentage of what chance gives: it is left to the artifact.
        row["kept of the teacher's lead over chance"] = (
            "not known: the teacher is not shown to be above chance" if kept.above_chance is None else known
        )
        for name in ("control", "teacher"):
            test = figures.mcnemar[name]
            row[f"right alone: student, {MODELS[name]}"] = (
                f"{test.first_only} and {test.second_only} pairs (p = {test.p:.2g})"
            )
        rows.append(row)
    return rows


def probes_text(made: ProbesSummary, probes: ProbeScoresSummary) -> str:
    """How many pairs, of what, what could not be made and why, and how many are right in all."""
    absent = "; ".join(f"no {probe.replace('_', ' ')}: {why}" for probe, why in probes.absent.items())
    return (
        f"{count(probes.items, 'pair')}, {made.seconds / 60:.1f} min, from {made.utterances - made.without_pause} held-out "
        f"utterances; {made.without_pause} more have no pause near their middle"
        f"{f' ({absent})' if absent else ''}. {probes_in_short(probes)}"
    ).strip()


def probes_in_short(probes: ProbeScoresSummary) -> str:
    """How many pairs each model gets right; or that there are none."""
    if not probes.overall:
        return "There are no pairs."
    total = ", ".join(
        f"{MODELS[name]} {right(of_model.accuracy, probes.items)}" for name, of_model in probes.overall.items()
    )
    return f"Pairs right in all probes: {total}."


def nll_by_kind(scores: Scores) -> tuple[list[str], list[plots.Bars]]:
    """Kinds of token, and the NLL on each of the three models and, as a line, of the floor."""
    kinds = [kind for kind in scores.models["teacher"].nll_by_kind if kind != "marker"]
    series = [
        plots.Bars(label, [scores.models[name].nll_by_kind.get(kind) for kind in kinds], name)
        for name, label in MODELS.items()
    ]
    by_counts = [scores.floors.floor.nll_by_kind.get(kind) for kind in kinds]
    series.append(plots.Bars(counts_label(scores.floors.order), by_counts, "floor", as_line=True))
    return [STREAMS.get(kind, kind) for kind in kinds], series


def drafting_text(s: DraftingSummary) -> str:
    """How much of the drafter's proposals is kept."""
    low, high = s.interval
    return (
        f"the student keeps {s.kept:.0%} ({low:.0%} to {high:.0%}) of what a drafter of {count(s.layers, 'block')} proposes, at temperature 1 "
        f"on {count(s.recordings, 'held-out recording')}: of {s.proposed} tokens proposed at a time {s.tokens_a_round:.1f} come out of one "
        "reading of the student"
    )

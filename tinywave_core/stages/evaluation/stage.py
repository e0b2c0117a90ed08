"""Evaluation: teacher, student and undistilled control on speech that no one has trained on."""

from tinywave_core import plots
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import (
    FLOPS,
    SPEAK_S,
    TOKEN_S,
    UTTERANCE_S,
    Estimate,
    student_parameters,
    teacher_parameters,
)
from tinywave_core.counts import count
from tinywave_core.stages.evaluation import continuations, drafting, gap, generated, preference, probes, scores, units
from tinywave_core.stages.evaluation.gap_words import block_rows, gap_text, stream_rows
from tinywave_core.stages.evaluation.judges_given import given_judges
from tinywave_core.stages.evaluation.preference_words import comparison_sections
from tinywave_core.stages.evaluation.summary import (
    DraftingSummary,
    GapSummary,
    GeneratedSummary,
    ProbeScoresSummary,
    ProbesSummary,
    RatingsSummary,
    ScoresSummary,
    UnitsSummary,
)
from tinywave_core.stages.evaluation.unit_words import unit_rows, units_text
from tinywave_core.stages.evaluation.words import (
    SOURCES,
    comparison_rows,
    continuation_text,
    direction_rows,
    drafting_text,
    generated_rows,
    generated_text,
    likelihood_rows,
    nll_by_kind,
    probe_rows,
    probes_text,
    rating_rows,
    ratings_text,
    verdict_of,
)
from tinywave_core.steps.base import Execute, Outputs
from tinywave_core.steps.stage import Picture, Section, Stage, Table
from tinywave_core.storage.store import Store
from tinywave_core.tokenizers.opening import choose_tokenizer
from tinywave_core.wording import MODELS, figure, right

PROBE_KINDS = 3  # of six: pauses, labels or room for the others are found in half of the recordings
# Seconds of one core (measured): a pair of recordings of a probe made; an utterance compared block by block with the teacher's.
PAIR_S, GAP_S = 0.025, 0.1


def build(config: PipelineConfig, store: Store, done: Outputs, execute: Execute) -> Outputs:
    """Scores; probes and their scores, the gap to the teacher, and continuations as text, as far as they are wanted."""
    models = (done["teacher"], done["student"], done["control"])
    made = {"scores": scores.build(config, done["tokens"], *models, execute)}
    made |= probes.build(config, done["tokens"], *models, execute)
    made |= units.build(config, done["tokens"], execute)
    made |= gap.build(config, done["tokens"], *models, execute)
    made |= drafting.build(config, done["tokens"], done, execute)
    made |= preference.build(config, done["tokens"], done["teacher"], done, execute)
    if config.evaluation.generated.language_model or given_judges(config):
        made |= continuations.build(config, done["tokens"], *models, execute)
    return made | generated.build(config, done["tokens"], made, execute)


def describe(outputs: Outputs) -> tuple[str, str]:
    """Held-out utterances in; the three models' figures out."""
    s = ScoresSummary.of(outputs["scores"])
    nll = ", ".join(f"{label} {s.models[name].nll:.3f}" for name, label in MODELS.items())
    nll += f", counts {s.floors.floor.nll:.3f}"
    return f"{count(s.held_out.utterances, 'held-out utterance')}", f"NLL: {nll}{_probes(outputs)}{_generated(outputs)}"


def _probes(outputs: Outputs) -> str:
    if "probe_scores" not in outputs or not (s := ProbeScoresSummary.of(outputs["probe_scores"])).items:
        return ""
    correct = ", ".join(
        f"{MODELS[name]} {right(of_model.accuracy, s.items).split()[0]}" for name, of_model in s.overall.items()
    )
    return f"; of {s.items} probes right: {correct}"


def _generated(outputs: Outputs) -> str:
    if "generated" not in outputs or not (s := GeneratedSummary.of(outputs["generated"])).sources:
        return ""
    perplexities = (f"{SOURCES[name]} {figure(of_source.gen_ppl, '.1f')}" for name, of_source in s.sources.items())
    return f"; generative perplexity: {', '.join(perplexities)}{_rated(outputs)}"


def _rated(outputs: Outputs) -> str:
    if "ratings" not in outputs or not (s := RatingsSummary.of(outputs["ratings"])).sources:
        return ""
    means = (f"{SOURCES[name]} {'–' if r.rating is None else f'{r.rating.value:.2f}'}" for name, r in s.sources.items())
    return f"; rated 1 to 5: {', '.join(means)}"


def facts(outputs: Outputs) -> list[tuple[str, str]]:
    """The verdict, and of how much training speech the counts are where they are not of all."""
    scores = ScoresSummary.of(outputs["scores"])
    told = [("verdict", sentence) for sentence in verdict_of(outputs)]
    counted, there = scores.floors.counted_tokens, scores.floors.training_tokens
    if "drafting" in outputs:
        told.append(("drafter", drafting_text(DraftingSummary.of(outputs["drafting"]))))
    return told if counted == there else [*told, ("counted", f"{counted:,} of {count(there, 'training token')}")]


def sections(outputs: Outputs) -> list[Section]:
    """Likelihood by stream and after a prompt, probes, the gap, and continuations as text, as far as there are any."""
    s = ScoresSummary.of(outputs["scores"])
    parts = [Section("By stream, and after a prompt", continuation_text(s), likelihood_rows(s))]
    if "probe_scores" in outputs:
        made, scored = ProbesSummary.of(outputs["probes"]), ProbeScoresSummary.of(outputs["probe_scores"])
        parts.append(Section("Probes", probes_text(made, scored), probe_rows(scored)))
    if "units" in outputs:
        worth = UnitsSummary.of(outputs["units"])
        parts.append(Section("Quality of the speech units", units_text(worth), unit_rows(worth)))
    if "gap" in outputs:
        distance = GapSummary.of(outputs["gap"])
        parts.append(Section("The gap to the teacher", gap_text(distance), stream_rows(distance)))
        parts.append(Section("Inside the models: block by block", "Hidden states and attention.", block_rows(distance)))
    if "generated" in outputs:
        continued = GeneratedSummary.of(outputs["generated"])
        parts.append(Section("Continuations read as text", generated_text(continued), generated_rows(continued)))
    if "ratings" in outputs:
        said = RatingsSummary.of(outputs["ratings"])
        parts.append(Section("Continuations rated by a language model", ratings_text(said), rating_rows(said)))
    return parts + comparison_sections(outputs)


def cost(config: PipelineConfig, hours: float, device: str) -> Estimate:
    """Teacher, student and control read all held-out speech (whole and after a prompt), both versions of each probe, and what the gap
    is measured on; the three continue speech where that is asked for. Recogniser, language model of text and judge are not counted.
    """
    asked, flops = config.evaluation, FLOPS[device]
    teacher, student = teacher_parameters(config), student_parameters(config)
    per_s = choose_tokenizer(config).tokens_per_s
    held_out_s = hours * 3600 * config.ingestion.held_out_fraction
    utterances = held_out_s / UTTERANCE_S
    pairs = PROBE_KINDS * min(asked.probes.items, utterances)
    probes_s = 2 * pairs * min(asked.probes.max_s, UTTERANCE_S)
    compared = min(asked.gap.utterances, utterances)
    read = per_s * (2 * held_out_s + probes_s + compared * UTTERANCE_S)
    seconds = 2 * read * (teacher + 2 * student) / flops + pairs * PAIR_S + compared * GAP_S
    seconds += probes_s / 3600 * choose_tokenizer(config).seconds_per_hour(device)
    seconds += units.seconds(config, utterances, UTTERANCE_S)
    longest = asked.generated.max_new_tokens
    if asked.generated.language_model or given_judges(config):
        seconds += (
            min(asked.continued(), utterances)
            * longest
            * sum(max(2 * model / flops, TOKEN_S) for model in (teacher, student, student))
        )
    if asked.generated.language_model:
        seconds += min(asked.generated.items, utterances) * longest * 3 * SPEAK_S / per_s
    return Estimate(seconds, held_out_s * per_s / 10 + probes_s * 32_000)


def comparison(outputs: Outputs) -> Table:
    """The three models and the floors side by side."""
    return Table(
        comparison_rows(ScoresSummary.of(outputs["scores"])),
        "teacher, student, undistilled control, and what needs no model",
    )


def directions(outputs: Outputs) -> Table | None:
    """Cloze between speech and text, where there is text."""
    rows = direction_rows(ScoresSummary.of(outputs["scores"]))
    return Table(rows, "cloze from speech or text to speech or text") if rows else None


def by_kind(outputs: Outputs) -> Picture | None:
    """NLL by kind of token."""
    kinds, series = nll_by_kind(ScoresSummary.of(outputs["scores"]))
    if not kinds:
        return None
    return Picture(
        plots.bars_png(kinds, series, y_label="nats per token"),
        "held-out NLL by kind of token; the line is what counts reach",
    )


def gap_map(outputs: Outputs) -> Picture | None:
    """Student blocks against teacher blocks."""
    if "gap" not in outputs:
        return None
    cosines = GapSummary.of(outputs["gap"]).cosines["student"]
    png = plots.heatmap_png(cosines, x_label="teacher block", y_label="student block")
    return Picture(png, "mean cosine of the hidden states of student and teacher blocks")


STAGE = Stage(
    "evaluation",
    "Measure likelihood and continuation cloze with intervals.",
    build,
    describe,
    facts,
    cost,
    {"comparison": comparison, "kinds": by_kind, "directions": directions, "gap-map": gap_map},
    sections,
)

"""Evaluation in words and tables: the verdict, the figures of the three models, probes, continuations."""

from typing import TYPE_CHECKING, Any

from tinywave_core import plots
from tinywave_core.stages.ingestion.summary import CorpusSummary
from tinywave_core.steps.base import Outputs, SummaryDict
from tinywave_core.wording import duration, figure, millions, ratio, with_interval

MODELS = {"teacher": "Teacher", "student": "Student", "control": "Same student, undistilled"}


FEW_UTTERANCES = 10  # below this many, resampled utterances say little about other speech


def headline(outputs: Outputs) -> str:
    """What was made, from what."""
    student, corpus = outputs["student"].summary, CorpusSummary.of(outputs["corpus"])
    return (
        f"A student of {millions(student['parameters'])} parameters, distilled from a teacher of "
        f"{millions(student['teacher_parameters'])}, on {duration(corpus.hours_train)} of speech"
    )


def verdict(scores: SummaryDict) -> list[str]:
    """Whether distillation helped beyond noise, how much of the gap was closed, what is left of cloze."""
    return [_gain(scores), _gap(scores), _cloze(scores)]


def _gain(scores: SummaryDict) -> str:
    comparison = scores["comparison"]
    gain, (low, high) = comparison["distillation_gain_nll"], comparison["distillation_gain_nll_interval"]
    measured = (
        f"{gain:+.3f} nats per token (95% interval {low:+.3f} to {high:+.3f}, paired over "
        f"{scores['held_out']['sequences']} held-out utterances)"
    )
    if scores["held_out"]["sequences"] < FEW_UTTERANCES:
        return f"There is too little held-out speech to tell whether distillation helped: it measured {measured}."
    if low > 0:
        return (
            f"Distillation helped beyond noise: against the same student trained without a teacher it gains {measured}."
        )
    if high < 0:
        return (
            f"Distillation hurt beyond noise: against the same student trained without a teacher it gains {measured}."
        )
    return f"Distillation made no difference that this much held-out speech can show: {measured}, within noise."


def _gap(scores: SummaryDict) -> str:
    comparison, models = scores["comparison"], scores["models"]
    low, high = comparison["distillation_gain_nll_interval"]
    few = scores["held_out"]["sequences"] < FEW_UTTERANCES
    noise = " (a figure within noise)" if few or low <= 0 <= high else ""
    if comparison["student_is_better_than_teacher"]:
        ahead = models["teacher"]["nll"] - models["student"]["nll"]
        return (
            f"The student is better than its teacher, by {ahead:.3f} nats per token: there is no gap left to close. "
            "A teacher that overfits, or that was trained briefly, does that."
        )
    closed = comparison["nll_gap_closed"]
    if closed is None:
        return "The undistilled control is as good as the teacher, so there is no gap that distillation could close."
    if closed < 0:
        return f"The student is further from the teacher than its undistilled control{noise}."
    interval = comparison["nll_gap_closed_interval"]
    between = "" if interval is None else f" (95% interval {interval[0]:.0%} to {interval[1]:.0%})"
    return f"It closed {closed:.0%}{between} of the gap between the undistilled control and the teacher{noise}."


def _cloze(scores: SummaryDict) -> str:
    comparison, models = scores["comparison"], scores["models"]
    items = scores["held_out"]["cloze_items"]
    if "cloze" not in models["student"]:
        return "No cloze item could be built from the held-out speech, so there is no cloze accuracy."
    accuracy = models["student"]["cloze"]
    kept = comparison["cloze_retention"]
    if kept["above_chance"] is None:
        return (
            f"Cloze retention above chance is undefined here: {kept['why']}; the student's accuracy is {accuracy:.1%}."
        )
    kept_low, kept_high = kept["above_chance_interval"]
    low, high = comparison["cloze_gain_interval"]
    against = "within noise of" if low <= 0 <= high else ("above" if low > 0 else "below")
    return (
        f"It keeps {kept['above_chance']:.0%} (95% interval {kept_low:.0%} to {kept_high:.0%}) of the teacher's cloze accuracy "
        f"above chance ({accuracy:.1%} against "
        f"{models['teacher']['cloze']:.1%} over {items} items), {against} its undistilled control."
    )


def comparison_rows(scores: SummaryDict) -> list[dict[str, str]]:
    """The three-way table, a dict per model; the columns are the keys."""
    rows = []
    for name, label in MODELS.items():
        model = scores["models"][name]
        low, high = model["nll_interval"]
        row = {
            "model": label,
            "parameters": millions(model["parameters"]),
            "NLL, nats per token": f"{model['nll']:.3f} ({low:.3f} to {high:.3f})",
            "perplexity": figure(model["perplexity"], ".1f"),
            "bits per second": "–" if model["bits_per_second"] is None else f"{model['bits_per_second']:.1f}",
        }
        if "cloze" in model:
            low, high = model["cloze_interval"]
            row["cloze accuracy"] = f"{model['cloze']:.1%} ({low:.1%} to {high:.1%})"
        else:
            row["cloze accuracy"] = "no items"
        rows.append(row)
    return rows


def likelihood_rows(scores: SummaryDict) -> list[dict[str, str]]:
    """NLL beside the teacher's, bits per second by stream, and the same after a prompt, a dict per model."""
    continuation, rows = scores["continuation"], []
    for name, label in MODELS.items():
        row = {"model": label, "NLL / teacher's": ratio(scores["ratios"].get(name), "nll")}
        for stream, figures in scores["models"][name]["by_stream"].items():
            row[f"bits per second, {stream}"] = with_interval(figures, "bits_per_second", ".1f")
        if continuation["models"]:
            row["NLL after the prompt"] = with_interval(continuation["models"][name], "nll", ".3f")
            row["bits per second after it"] = with_interval(continuation["models"][name], "bits_per_second", ".1f")
            row["perplexity after it / teacher's"] = ratio(continuation["ratios"].get(name), "perplexity")
        rows.append(row)
    return rows


def continuation_text(scores: SummaryDict) -> str:
    """Over what the figures after a prompt are."""
    found = scores["continuation"]
    if not found["models"]:
        return (
            f"No held-out utterance has {found['min_s']:g} s, so nothing is said of what comes after a prompt of "
            f"{found['prompt_s']:g} s."
        )
    return (
        f"After the prompt: {found['tokens']:,} tokens in {found['seconds'] / 60:.1f} min of {found['utterances']} utterances of at "
        f"least {found['min_s']:g} s, whose first {found['prompt_s']:g} s are the prompt."
    )


def generated_rows(generated: SummaryDict) -> list[dict[str, str]]:
    """Continuations judged as text, a dict per source."""
    labels = {**MODELS, "recording": "How it really went on"}
    rows = []
    for name, figures in generated["sources"].items():
        row = {"continued by": labels[name], "generative perplexity": with_interval(figures, "gen_ppl", ".1f")}
        row["over the teacher's"] = ratio(generated["ratios"].get(name), "gen_ppl")
        row["auto-BLEU-2"] = "–" if figures["auto_bleu"] is None else with_interval(figures, "auto_bleu", ".1%")
        row["seconds each"] = f"{figures['seconds']:.1f}"
        row["silent"], row["nothing heard in"] = str(figures["silent"]), str(figures["empty"])
        row["under two words"] = str(figures["without_bigrams"])
        rows.append(row)
    return rows


def generated_text(generated: SummaryDict) -> str:
    """What was continued, or why nothing was."""
    if not generated["sources"]:
        return f"Nothing was continued: {generated['why']}."
    return (
        f"{generated['items']} held-out prompts of {generated['prompt_s']:g} s, continued by at most "
        f"{generated['max_new_tokens']} tokens; vocoder: {generated['vocoder']}."
    )


def direction_rows(scores: SummaryDict) -> list[dict[str, str]]:
    """The cross-modal cloze, a dict per direction; none where no words have times."""
    rows = []
    for direction, figures in scores.get("directions", {}).items():
        row = {"from → to": direction, "items": str(figures["student"]["items"])}
        for name, label in MODELS.items():
            low, high = figures[name]["interval"]
            row[label] = f"{figures[name]['accuracy']:.1%} ({low:.1%} to {high:.1%})"
        low, high = figures["gain_interval"]
        row["student over undistilled"] = f"{low:+.1%} to {high:+.1%}"
        rows.append(row)
    return rows


def probe_rows(probes: SummaryDict) -> list[dict[str, str]]:
    """The probes, a dict per probe: accuracies, what is kept of the teacher's above chance, and the paired tests."""
    rows = []
    for probe, figures in probes["probes"].items():
        row = {"probe": probe.replace("_", " "), "pairs": str(figures["items"])}
        for name, label in MODELS.items():
            low, high = figures["models"][name]["interval"]
            row[label] = f"{figures['models'][name]['accuracy']:.1%} ({low:.1%} to {high:.1%})"
        kept = figures["retention"]
        if kept["above_chance"] is None:
            row["kept above chance"] = "undefined: teacher at chance"
        else:
            low, high = kept["above_chance_interval"]
            row["kept above chance"] = f"{kept['above_chance']:.0%} ({low:.0%} to {high:.0%})"
        ratio = kept["ratio"]
        row["student / teacher"] = "–" if ratio is None else f"{ratio:.0%}"
        for name, label in (("control", "against undistilled"), ("teacher", "against teacher")):
            test = figures["mcnemar"][name]
            row[label] = f"{test['first_only']} : {test['second_only']}, p = {test['p']:.2g}"
        rows.append(row)
    return rows


def probes_text(made: SummaryDict, probes: SummaryDict) -> str:
    """How many pairs, of what, what could not be made and why, and how many are right in all."""
    total = ", ".join(f"{name} {probes['overall'][name]['accuracy']:.1%}" for name in probes["overall"])
    absent = "; ".join(f"no {probe.replace('_', ' ')}: {why}" for probe, why in probes["absent"].items())
    return (
        f"{probes['items']} pairs, {made['seconds'] / 60:.1f} min, from {made['utterances'] - made['without_pause']} held-out "
        f"utterances; {made['without_pause']} more have no pause near their middle"
        f"{f' ({absent})' if absent else ''}.{f' Right in all: {total}.' if total else ''}"
    )


if TYPE_CHECKING:
    pass


def nll_by_kind(scores: dict[str, Any]) -> tuple[list[str], list[plots.Bars]]:
    """Kinds of token and the three models' NLL on each."""
    by_model = {name: scores["models"][name]["nll_by_kind"] for name in MODELS}
    kinds = [kind for kind in by_model["teacher"] if kind != "marker"]
    return kinds, [plots.Bars(name, [values.get(kind) for kind in kinds], name) for name, values in by_model.items()]


def _probes(summaries: dict[str, SummaryDict]) -> str:
    probes = summaries.get("probe_scores")
    if not probes or not probes["items"]:
        return ""
    right = ", ".join(f"{name} {each['accuracy']:.0%}" for name, each in probes["overall"].items())
    return f"; of {probes['items']} probes right: {right}"


def _generated(summaries: dict[str, SummaryDict]) -> str:
    generated = summaries.get("generated")
    if not generated or not generated["sources"]:
        return ""
    told = (f"{name} {figure(found['gen_ppl'], '.1f')}" for name, found in generated["sources"].items())
    return f"; generative perplexity: {', '.join(told)}"

"""Distillation: the student learns from the teacher, and its control, of the same shape, without one."""

from typing import Any

from tinywave_core import plots
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import (
    FLOPS,
    TOKEN_S,
    Estimate,
    drafter_parameters,
    for_hours,
    live_operations,
    preference_seconds,
    speaking_operations,
    speaking_passes,
    student_parameters,
)
from tinywave_core.counts import count
from tinywave_core.stages.distillation import preferred, student
from tinywave_core.stages.distillation.preference_words import in_short, preference_sections
from tinywave_core.stages.distillation.pull import advice
from tinywave_core.stages.distillation.summary import StudentSummary
from tinywave_core.stages.distillation.words import distilled, loss_lines, term_label
from tinywave_core.steps.base import Execute, Outputs
from tinywave_core.steps.stage import Picture, Stage, Table
from tinywave_core.storage.store import Store
from tinywave_core.training.curves import curves_of, gradients_of


def build(config: PipelineConfig, store: Store, done: Outputs, execute: Execute) -> Outputs:
    """Student and control; a drafter, and what preference tuning makes of the student, where they are asked for."""
    tokens, teacher = done["tokens"], done["teacher"]
    made = student.build(config, tokens, teacher, done["logits"], execute)
    return made | preferred.build(config, tokens, teacher, made["student"], execute)


def describe(outputs: Outputs) -> tuple[str, str]:
    """Sequences and steps in; the student's size out."""
    summary = StudentSummary.of(outputs["student"])
    out = f"student of {summary.parameters / 1e6:.2f} M in {count(summary.layers, 'block')}, and its control"
    if "drafter" in outputs:
        out += f"; drafter of {count(StudentSummary.of(outputs['drafter']).layers, 'block')}"
    replayed = f", {summary.replayed_sequences} of them again" if summary.continuations else ""
    return f"{count(summary.train_sequences, 'sequence')}{replayed}, {count(summary.steps, 'step')}", out + in_short(
        outputs
    )


def facts(outputs: Outputs) -> list[tuple[str, str]]:
    """From where, with the teacher how often beside it, and where it ended."""
    summary = StudentSummary.of(distilled(outputs))
    manifest = distilled(outputs).manifest
    config = manifest.config if manifest else {}
    blocks = ", ".join(map(str, summary.layers_copied))
    if summary.started_from == "teacher":
        began = f"blocks {blocks} of the teacher"
    elif summary.started_from == "random weights":
        began = summary.started_from
    elif summary.started_from == "student":
        assert summary.start
        began = f"the student {summary.start.name} (SHA-256 {summary.start.sha256[:12]}…)"
    else:
        replay = f"{count(summary.new_sequences, 'new sequence')} and {summary.replayed_sequences} heard before"
        began = f"{summary.started_from}, continued on {replay} (time {summary.continuations})"
    start = ", ".join(f"{model} {nll:.3f}" for model, nll in summary.nll_at_start.items())
    return [
        ("started from", began),
        ("NLL before training", f"{start} nats per token, on training speech" if start else "not measured"),
        (
            "regime",
            f"{config['regime']}: the teacher ran beside it in {summary.live_steps} of {count(summary.steps, 'step')}{_own_speech(config, summary)}{_by_the_teacher(config)}",
        ),
        ("weights", ", ".join(f"{term_label(name)} {weight:g}" for name, weight in summary.weights.items())),
        *([("share", f"{config['share']:.0%} of the training recordings")] if "share" in config else []),
        ("trained", summary.training.phrase(summary.steps)),
        ("validation", summary.training.sentence),
        ("last step", ", ".join(f"{term_label(name)} {value:.3f}" for name, value in summary.final.items())),
        *([("pull", told)] if (told := advice(gradients_of(distilled(outputs)))) else []),
    ]


def _by_the_teacher(config: dict[str, Any]) -> str:
    asked = config.get("sequence_level")
    return f"; the teacher goes on with {asked['share']:.0%} of the training utterances" if asked else ""


def _own_speech(config: dict[str, Any], summary: StudentSummary) -> str:
    if summary.own_share is None:
        return ""
    every = count(config["on_policy"]["drawn_every"], "step")
    return f"; {summary.own_share:.0%} of the rows were its own continuations, drawn anew every {every}"


def cost(config: PipelineConfig, hours: float, device: str) -> Estimate:
    """Student, control and drafter, 6 operations per parameter and token each; the teacher's forward pass where it runs beside them, and the
    student's speech where it learns from that."""
    config = for_hours(config, hours)
    parameters = student_parameters(config)
    both = 2 * parameters + drafter_parameters(config)
    operations = config.distillation.training.planned_tokens * 6 * both + live_operations(config)
    speaking = max(speaking_operations(config) / FLOPS[device], speaking_passes(config) * TOKEN_S)
    return Estimate(operations / FLOPS[device] + speaking + preference_seconds(config, hours, device), 4 * both)


def terms(outputs: Outputs) -> Table | None:
    """The terms of the loss at the first and the last step."""
    rows = [
        {"model": part, "term": term_label(name), "first": f"{values[0]:.4g}", "last": f"{values[-1]:.4g}"}
        for part in ("student", "control")
        for name, column in curves_of(distilled(outputs) if part == "student" else outputs[part]).items()
        if name not in ("step", "learning_rate", "validation") and (values := [v for v in column if v is not None])
    ]
    return Table(rows, "loss terms at the first and the last step") if rows else None


def losses(outputs: Outputs) -> Picture | None:
    """The curves of both."""
    lines = loss_lines(outputs)
    if not lines:
        return None
    png = plots.lines_png(lines, x_label="optimiser step", y_label="nats per token")
    return Picture(png, "cross-entropy of student and control on the true tokens, in training and on validation speech")


STAGE = Stage(
    "distillation",
    "Distil the student from the teacher, and train the same student without it.",
    build,
    describe,
    facts,
    cost,
    {"terms": terms, "losses": losses},
    preference_sections,
    needs_gpu=True,
)

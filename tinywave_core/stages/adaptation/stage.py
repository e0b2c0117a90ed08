"""Adaptation: the teacher, fitted to the domain."""

from tinywave_core import plots
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import FLOPS, Estimate, for_hours, teacher_parameters
from tinywave_core.counts import count
from tinywave_core.stages.adaptation import teacher
from tinywave_core.stages.adaptation.summary import TeacherSummary
from tinywave_core.stages.adaptation.words import teacher_lines
from tinywave_core.stages.ingestion.corpus import require_split
from tinywave_core.stages.ingestion.quality import require_kept
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.steps.base import Execute, Outputs
from tinywave_core.steps.stage import Picture, Stage
from tinywave_core.storage.store import Store
from tinywave_core.wording import duration


def build(config: PipelineConfig, store: Store, done: Outputs, execute: Execute) -> Outputs:
    """The teacher."""
    if done["corpus"].complete:  # before hours of training, not after: evaluation needs held-out speech
        require_split(config.ingestion, done["corpus"])
    if done["tokens"].complete:
        tokens = TokensSummary.of(done["tokens"])
        require_kept(config, {"train on": tokens.train_utterances, "judge it by": tokens.held_out_utterances})
    return {"teacher": teacher.build(config, done["tokens"], execute)}


def describe(outputs: Outputs) -> tuple[str, str]:
    """Tokens in; the teacher's size and loss out."""
    summary = TeacherSummary.of(outputs["teacher"])
    nll = summary.held_out_nll_after
    scored = f", held-out NLL {nll:.3f}" if nll is not None else ""
    start = ", from the base" if summary.started_from == "base" else ""
    out = f"teacher of {summary.parameters / 1e6:.2f} M in {count(summary.layers, 'block')}{start}{scored}"
    return f"{count(summary.train_tokens, 'training token')}", out


def facts(outputs: Outputs) -> list[tuple[str, str]]:
    """From where, how it was trained, and what that changed."""
    summary = TeacherSummary.of(outputs["teacher"])
    before, after = summary.held_out_nll_before, summary.held_out_nll_after
    floor = summary.held_out_floor_nll
    scored = "no held-out speech" if before is None or after is None else f"{before:.3f} → {after:.3f} nats per token"
    counts = "no held-out speech" if floor is None else f"{floor:.3f} nats per token"
    return [
        ("started from", summary.started_from),
        (
            "trained",
            f"{summary.method}, {summary.training.phrase(summary.steps)} over {duration(summary.train_hours)} of speech",
        ),
        ("validation", summary.training.sentence),
        ("held-out NLL, before → after", scored),
        ("held-out NLL of counts of its training speech", counts),
        ("training loss of the last step", f"{summary.train_loss:.3f}"),
    ]


def cost(config: PipelineConfig, hours: float, device: str) -> Estimate:
    """6 operations per parameter and token; float32 weights in the store."""
    config = for_hours(config, hours)
    parameters = teacher_parameters(config)
    return Estimate(config.adaptation.own_training.planned_tokens * 6 * parameters / FLOPS[device], 4 * parameters)


def loss(outputs: Outputs) -> Picture | None:
    """The curve of the training loss."""
    lines = teacher_lines(outputs)
    if not lines:
        return None
    png = plots.lines_png(lines, x_label="optimiser step", y_label="nats per token")
    return Picture(png, "loss of the teacher, on training and validation speech")


STAGE = Stage(
    "adaptation",
    "Train a fresh teacher, or fine-tune the base or a checkpoint, on the training tokens.",
    build,
    describe,
    facts,
    cost,
    {"loss": loss},
    needs_gpu=True,
)

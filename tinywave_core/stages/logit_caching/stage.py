"""Logit caching: the adapted teacher's predictions on every training sequence, kept as sparse targets."""

import math

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import (
    FLAC_BYTES_PER_S,
    FLOPS,
    TOKEN_S,
    UTTERANCE_S,
    Estimate,
    logit_bytes,
    split_tokens,
    teacher_parameters,
)
from tinywave_core.counts import count
from tinywave_core.stages.adaptation.summary import TeacherSummary
from tinywave_core.stages.adaptation.teacher import require_above_floor
from tinywave_core.stages.logit_caching import logits
from tinywave_core.stages.logit_caching.summary import LogitsSummary
from tinywave_core.stages.logit_caching.words import target_rows
from tinywave_core.steps.base import Execute, Outputs
from tinywave_core.steps.stage import Stage, Table
from tinywave_core.storage.store import Store
from tinywave_core.teacher.figures import mass_beyond_k
from tinywave_core.tokenizers.opening import choose_tokenizer
from tinywave_core.wording import size


def build(config: PipelineConfig, store: Store, done: Outputs, execute: Execute) -> Outputs:
    """The cached targets; TrainingError before any is captured where the teacher has nothing to teach."""
    if config.adaptation.floor == "counts" and done["teacher"].complete:
        require_above_floor(TeacherSummary.of(done["teacher"]), config)
    return {"logits": logits.build(config, done["tokens"], done["teacher"], execute)}


def describe(outputs: Outputs) -> tuple[str, str]:
    """Sequences in; targets out."""
    summary = LogitsSummary.of(outputs["logits"])
    return (
        count(summary.sequences, "sequence"),
        f"{count(summary.tokens, 'target')}, {summary.bytes_per_token:.1f} bytes each",
    )


def facts(outputs: Outputs) -> list[tuple[str, str]]:
    """How much of the teacher's probability a plain top-K would have lost, over all kinds of token."""
    summary = LogitsSummary.of(outputs["logits"])
    manifest = outputs["logits"].manifest
    config = manifest.config if manifest else {}
    beyond = mass_beyond_k(summary.kinds)
    return [
        ("targets", f"K = {config['entries']} per token, at temperature {config['temperature']:g}"),
        ("probability outside the top K", f"{beyond:.1%} of the teacher's, kept by sampled entries"),
        ("size", f"{size(summary.bytes)} in total"),
    ]


def cost(config: PipelineConfig, hours: float, device: str) -> Estimate:
    """A forward pass over the training speech; K entries per token in the store. Where the teacher goes on with some, a pass for each of
    their tokens, eight continuations at a time."""
    train, _ = split_tokens(config, hours)
    utterance = UTTERANCE_S * choose_tokenizer(config).tokens_per_s
    sequences = train / min(utterance, config.distillation.training.sequence_length)
    shards = math.ceil(hours * 3600 * FLAC_BYTES_PER_S / (config.ingestion.shard_megabytes * 1e6))
    seconds = train * 2 * teacher_parameters(config) / FLOPS[device]
    asked = config.distillation.sequence_level
    said = asked.share * train / utterance * asked.new_tokens
    seconds += said * max(2 * teacher_parameters(config) / FLOPS[device], TOKEN_S / 8)
    return Estimate(seconds, logit_bytes(config.logit_caching.entries, train, sequences, shards))


def targets(outputs: Outputs) -> Table | None:
    """The targets by kind of token."""
    rows = target_rows(LogitsSummary.of(outputs["logits"]))
    return Table(rows, "the teacher's targets by kind of token") if rows else None


STAGE = Stage(
    "logit_caching",
    "Capture sparse teacher targets for every training sequence.",
    build,
    describe,
    facts,
    cost,
    {"targets": targets},
    needs_gpu=True,
)

"""Tokenization: utterances become units, pitch and style, interleaved with text where the settings say so."""

from collections.abc import Mapping

from tinywave_core import plots
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import Estimate
from tinywave_core.counts import count
from tinywave_core.stages.tokenization import benchmarks, near_duplicates, tokens
from tinywave_core.stages.tokenization.summary import BenchmarksSummary, NearDuplicatesSummary, TokensSummary
from tinywave_core.stages.tokenization.words import (
    alignment_text,
    benchmarks_text,
    drift_text,
    leaks_text,
    near_duplicates_text,
)
from tinywave_core.steps.base import Execute, Outputs
from tinywave_core.steps.stage import Picture, Stage
from tinywave_core.storage.store import Artifact, Store
from tinywave_core.tokenizers.opening import choose_tokenizer

ALIGNMENT_S_PER_H = 100.0  # pocketsphinx
CODEBOOKS_S_PER_H = 55.0  # of the speech that they are fitted on, of MFCC
TOKEN_BYTES = 3


def build(config: PipelineConfig, store: Store, done: Outputs, execute: Execute) -> Outputs:
    """The tokens, and where that is asked for what is there more than once and what benchmarks have."""
    benchmarks.open_suites(config)  # what is none is refused before anything is tokenized
    beside: Outputs = {}
    asked = config.tokenization
    comparisons = (
        ("near_duplicates", near_duplicates.find, asked.near_duplicates.use),
        ("benchmarks", benchmarks.find, asked.benchmarks.use),
    )

    def repeats(shards: list[Artifact], tokenizer: Artifact) -> Mapping[str, str]:
        reasons: dict[str, str] = {}
        for part, find, use in comparisons:
            if (found := find(config, done["corpus"], shards, tokenizer, execute)) is not None:
                beside[part] = found
                if use == "leave_out" and found.complete:
                    reasons |= near_duplicates.reasons_to_leave_out(found)
        return reasons

    return {"tokens": tokens.build(config, done["corpus"], execute, repeats), **beside}


def describe(outputs: Outputs) -> tuple[str, str]:
    """Shards in; tokens out."""
    s = TokensSummary.of(outputs["tokens"])
    return f"{count(len(s.shards), 'shard')}", f"{count(s.tokens, 'token')}, {s.tokens_per_s:.1f} per second"


def facts(outputs: Outputs) -> list[tuple[str, str]]:
    """Tokens by kind, drift, aligned words."""
    s = TokensSummary.of(outputs["tokens"])
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in s.streams.items() if n)
    others = [("words", alignment_text(s)), ("heard by the base before", leaks_text(s))]
    if "near_duplicates" in outputs:
        found = NearDuplicatesSummary.of(outputs["near_duplicates"])
        others.append(("near-duplicates", near_duplicates_text(found)))
    if "benchmarks" in outputs:
        others.append(("benchmarks", benchmarks_text(BenchmarksSummary.of(outputs["benchmarks"]))))
    return [("tokens", kinds), ("drift", drift_text(s)), *(row for row in others if row[1])]


def cost(config: PipelineConfig, hours: float, device: str) -> Estimate:
    """Codebooks fitted where the tokenizer is the embedded one, speech tokenized, text aligned."""
    asked, cores, chosen = config.tokenization, max(1, config.runtime.workers), choose_tokenizer(config)
    alignment = hours * ALIGNMENT_S_PER_H / cores if asked.interleaving.policy != "speech" else 0.0
    fit = (
        # An encoder hears the speech twice: its features are taken, then units are counted.
        min(hours, asked.fit_hours) * (2 * chosen.seconds_per_hour(device) if chosen.uses_gpu else CODEBOOKS_S_PER_H)
        if chosen.is_fitted and config.adaptation.teacher != "base"
        else 0.0
    )
    beside = 1 if chosen.uses_gpu and device != "cpu" else cores
    written = hours * 3600 * chosen.tokens_per_s * TOKEN_BYTES
    return Estimate(fit + hours * chosen.seconds_per_hour(device) / beside + alignment, written)


def units(outputs: Outputs) -> Picture | None:
    """How often every unit occurs."""
    counts = sorted(TokensSummary.of(outputs["tokens"]).unit_histogram, reverse=True)
    if not counts:
        return None
    png = plots.histogram_png(counts, x_label="unit, by rank", y_label="frames")
    return Picture(png, "how often every unit occurs")


STAGE = Stage(
    "tokenization",
    "Turn every utterance into units, pitch and style tokens.",
    build,
    describe,
    facts,
    cost,
    {"units": units},
)

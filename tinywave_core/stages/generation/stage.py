"""Generation: held-out utterances, continued by the student and spoken."""

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import FLOPS, TOKEN_S, Estimate, student_parameters
from tinywave_core.counts import count
from tinywave_core.stages.generation import samples
from tinywave_core.stages.generation.summary import SamplesSummary
from tinywave_core.steps.base import Execute, Outputs
from tinywave_core.steps.stage import Link, Stage
from tinywave_core.storage.store import Store


def build(config: PipelineConfig, store: Store, done: Outputs, execute: Execute) -> Outputs:
    """The samples."""
    return {"samples": samples.build(config, done["tokens"], done["model"], execute)}


def describe(outputs: Outputs) -> tuple[str, str]:
    """Prompts in; tokens and seconds of audio out."""
    s = SamplesSummary.of(outputs["samples"])
    return f"{count(s.samples, 'prompt')}", f"{count(s.new_tokens, 'token')}, {s.seconds:.1f} s of audio"


def facts(outputs: Outputs) -> list[tuple[str, str]]:
    """Through which vocoder, and where to listen."""
    report = "players and spectrograms are in the report of the run, below reports/ in the store"
    return [("vocoder", SamplesSummary.of(outputs["samples"]).vocoder), ("listen", report)]


def cost(config: PipelineConfig, hours: float, device: str) -> Estimate:
    """Tokens drawn one by one."""
    settings = config.generation
    seconds = settings.max_new_tokens * max(2 * student_parameters(config) / FLOPS[device], TOKEN_S) + 0.5
    return Estimate(settings.samples * seconds, settings.samples * 600_000)


def place(outputs: Outputs) -> Link:
    """The folder of the samples."""
    return Link(outputs["samples"].url, "Folder of the generated audio")


STAGE = Stage(
    "generation", "Continue held-out speech as tokens and as audio.", build, describe, facts, cost, {"samples": place}
)

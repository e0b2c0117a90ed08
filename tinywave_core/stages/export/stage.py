"""Export: the student as files that transformers and llama.cpp load, with its speech tokenizer, card and voice."""

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import (
    FLOPS,
    GGUF_BYTES,
    Estimate,
    exported_rows,
    split_tokens,
    student_shape,
)
from tinywave_core.exporters.judge_words import heard_briefly, judges_rows, judges_text
from tinywave_core.stages.export import judges, model, vocoder
from tinywave_core.stages.export.summary import JudgesSummary, ModelSummary, VocoderSummary
from tinywave_core.stages.export.words import rounding_losses, vocoder_rows, voice_text
from tinywave_core.steps.base import Execute, Outputs
from tinywave_core.steps.stage import Link, Section, Stage
from tinywave_core.storage.store import Store
from tinywave_core.tokenizers.opening import choose_tokenizer
from tinywave_core.tokenizers.release import RELEASE

WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}
EXPORTED_PARAMETERS_PER_S = 3e7  # read, rounded and written; per GGUF file (measured)
VOICE_S_PER_H = 900.0  # features of the recordings that it is made of, and of those by which units are known
VOICE_BYTES_PER_S = 18_000  # FLAC and what is noted of its units


def build(config: PipelineConfig, store: Store, done: Outputs, execute: Execute) -> Outputs:
    """The voice, where the tokens have no vocoder of their own; how it all sounds, as far as judges are there; and the model, which
    carries the voice and whose card tells of it all."""
    made = vocoder.build(config, done["tokens"], execute)
    made |= judges.build(config, {**done, **made}, execute)
    exported = model.build(config, done["tokens"], done["teacher"], done["student"], {**done, **made}, execute)
    return {**made, "model": exported}


def describe(outputs: Outputs) -> tuple[str, str]:
    """The student in; its files out."""
    s = ModelSummary.of(outputs["model"])
    sounds = f"; {heard_briefly(_judges(outputs))}" if "judges" in outputs else ""
    return f"student of {s.parameters / 1e6:.2f} M", f"{s.name}, {s.bytes / 1e6:.1f} MB{rounding_losses(s)}{sounds}"


def _judges(outputs: Outputs) -> JudgesSummary | None:
    return JudgesSummary.of(outputs["judges"]) if "judges" in outputs else None


def facts(outputs: Outputs) -> list[tuple[str, str]]:
    """How to load it, what GGUF files lose, how it sounds."""
    lost = rounding_losses(ModelSummary.of(outputs["model"])).removeprefix("; perplexity of GGUF ")
    voice = VocoderSummary.of(outputs["vocoder"]) if "vocoder" in outputs else None
    model = ModelSummary.of(outputs["model"])
    return [
        ("takes and gives", f"{', '.join(model.inputs)}; {', '.join(model.outputs)}"),
        ("load it with", f"AutoModelForCausalLM.from_pretrained({outputs['model'].url + '/model'!r})"),
        *([("perplexity that GGUF files lose", lost)] if lost else []),
        *([("voice", voice_text(voice))] if voice else []),
        *(
            (row["speech"], f"log-mel correlation {row['log-mel correlation']}")
            for row in (vocoder_rows(voice) if voice else [])
        ),
    ]


def cost(config: PipelineConfig, hours: float, device: str) -> Estimate:
    """Weights rounded and written, their perplexity measured, recordings kept for the voice."""
    _, held_out = split_tokens(config, hours)
    parameters = student_shape(config).parameters(config.distillation.layers, exported_rows(config))
    files = config.export.gguf
    measured = min(held_out, config.export.perplexity_tokens) * (len(files) + 1 if files else 0)
    per_parameter = WEIGHT_BYTES[config.export.dtype] + sum(GGUF_BYTES[name] for name in files)
    written = parameters / 2e8 + len(files) * parameters / EXPORTED_PARAMETERS_PER_S
    kept = min(hours, config.generation.vocoder.minutes / 60) if choose_tokenizer(config).kind != RELEASE.name else 0.0
    judged = judges.seconds(config, hours * config.ingestion.held_out_fraction)
    seconds = kept * VOICE_S_PER_H + written + judged + measured * 2 * parameters / FLOPS[device]
    return Estimate(seconds, parameters * per_parameter + 2 * kept * 3600 * VOICE_BYTES_PER_S)


def sections(outputs: Outputs) -> list[Section]:
    """How it sounds."""
    heard = _judges(outputs)
    return [Section("How it sounds", judges_text(heard), judges_rows(heard))]


def place(outputs: Outputs) -> Link:
    """The model's folder."""
    return Link(f"{outputs['model'].url}/model", "The student, as transformers loads it")


STAGE = Stage(
    "export",
    "Write safetensors, tokenizer, codebooks and model card.",
    build,
    describe,
    facts,
    cost,
    {"model": place},
    sections,
)

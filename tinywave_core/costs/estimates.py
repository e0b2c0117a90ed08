"""What a run will cost before it starts: seconds and bytes per stage, from the hours of speech and the models' shapes.

Rates of the CPU stages are measured ones (seconds per hour of speech on one core); model work is counted in floating
point operations: 6 per parameter and token for training, 2 for a forward pass. Good to a factor of about two.
"""

import math
from dataclasses import dataclass

from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.config.base import TrainingConfig
from tinywave_core.config.pipeline import PipelineConfig

# Seconds of one core per hour of speech (measured on examples/speech, 2.8 GHz).
INGESTION_S_PER_H = 30.0
TOKENIZATION_S_PER_H = 30.0
# SpiritLM's speech tokenizer (`make bench-tokenization`): HuBERT alone, and with pitch and style; a GPU was not measured.
RELEASE_S_PER_H = {"base": 330.0, "expressive": 920.0}
RELEASE_GPU_SPEED_UP = 50.0
ALIGNMENT_S_PER_H = 100.0  # pocketsphinx
CODEBOOKS_S_PER_H = 55.0  # of the speech that they are fitted on
# Deduplicated tokens per second of speech: units alone, and with pitch and style (measured).
TOKENS_PER_S = {"base": 21.0, "expressive": 30.5}
# Effective operations per second: small models on two CPU cores, a data-centre GPU in bfloat16, and a laptop's of Apple in
# float32 (a third of what the first ones are said to have; not measured).
FLOPS = {"cpu": 3e10, "cuda": 4e14, "mps": 1e12}
FLAC_BYTES_PER_S = 17_000
TOKEN_BYTES = 3
# Of a logit shard (measured): what input ids, target and entropy take packed, and what a sequence and a file add.
LOGIT_SIDE_BYTES, LOGIT_SEQUENCE_BYTES, LOGIT_FILE_BYTES = 4.5, 55, 2700
UTTERANCE_S = 12.0
PROBE_KINDS = 3  # of six: pauses, labels or room for the others are found in half of the recordings
# Seconds of one core (measured): a pair of recordings of a probe made; an utterance compared block by block with the teacher's;
# a token drawn where the model itself takes less; a second of sampled speech through the embedded vocoder.
PAIR_S, GAP_S, TOKEN_S, SPEAK_S = 0.025, 0.1, 0.005, 0.06
LIGHT_VOCODER_STEP_S = 0.5
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}
GGUF_BYTES = {"bf16": 2, "f16": 2, "q8_0": 34 / 32, "q4_0": 18 / 32}  # blocks of 32 weights share a scale
EXPORTED_PARAMETERS_PER_S = 3e7  # read, rounded and written; per GGUF file (measured)


@dataclass(frozen=True)
class Estimate:
    """Of one stage, if all of it has to be computed."""

    seconds: float
    bytes: float


def llama_parameters(shape: FreshTeacherConfig, layers: int, rows: int) -> int:
    """Parameters of a Llama without grouped heads or tied embeddings."""
    block = 4 * shape.width**2 + 3 * shape.width * shape.intermediate + 2 * shape.width
    return layers * block + 2 * rows * shape.width + shape.width


def vocabulary_rows(config: PipelineConfig) -> int:
    """Rows of the embedding: SpiritLM's padded sizes for a checkpoint, bytes and units for a fresh teacher."""
    if config.adaptation.teacher != "fresh":
        return 32_512 if config.tokenization.tokens == "base" else 32_768
    tokens = config.tokenization
    sizes = (tokens.units.clusters, tokens.pitch.clusters, tokens.style.clusters)
    if config.spiritlm_dir is not None or tokens.hubert.encoder is not None:
        sizes = (501, 64, 100)
    return 259 + 2 + sum(sizes if tokens.tokens == "expressive" else sizes[:1])


def exported_rows(config: PipelineConfig) -> int:
    """Rows of the exported embedding: all, or <unk>, <s>, </s>, the boundary of SpiritLM's convention, markers, units."""
    if config.export.vocabulary == config.distillation.vocabulary == "full":
        return vocabulary_rows(config)
    if config.adaptation.teacher == "fresh":
        return vocabulary_rows(config) - 256
    return 4 + 2 + 501 + (64 + 100 if config.tokenization.tokens == "expressive" else 0)


def estimate(config: PipelineConfig, hours: float, device: str) -> dict[str, Estimate]:
    """Seconds and bytes of every stage for a corpus of `hours`."""
    shape, rows = config.adaptation.fresh, vocabulary_rows(config)
    teacher = llama_parameters(shape, shape.layers, rows)
    kept = exported_rows(config) if config.distillation.vocabulary == "speech" else rows
    student = llama_parameters(shape, config.distillation.layers, kept)
    exported = llama_parameters(shape, config.distillation.layers, exported_rows(config))
    tokens = hours * 3600 * TOKENS_PER_S[config.tokenization.tokens]
    train, held_out = tokens * (1 - config.ingestion.held_out_fraction), tokens * config.ingestion.held_out_fraction
    flops, cores = FLOPS[device], max(1, config.runtime.workers)
    weights = config.distillation.weights
    live = 2 * teacher if weights.hidden or weights.attention else 0
    return {
        "ingestion": Estimate(hours * INGESTION_S_PER_H / cores, hours * 3600 * FLAC_BYTES_PER_S),
        "tokenization": Estimate(_tokenization(config, hours, device), tokens * TOKEN_BYTES),
        "adaptation": Estimate(_training(config.adaptation.training) * 6 * teacher / flops, 4 * teacher),
        "logit_caching": Estimate(train * 2 * teacher / flops, _logits(config, hours, train)),
        "distillation": Estimate(_training(config.distillation.training) * (12 * student + live) / flops, 8 * student),
        "evaluation": _evaluation(config, hours, device, teacher, student),
        "export": _export(config, exported, held_out, flops),
        "generation": _generation(config, student, flops),
    }


def _evaluation(config: PipelineConfig, hours: float, device: str, teacher: int, student: int) -> Estimate:
    """Teacher, student and control read all held-out speech (whole and after a prompt), both versions of each probe, and what the gap
    is measured on; the three continue speech where that is asked for. Recogniser and language model of text are not counted.
    """
    asked, models, flops = config.evaluation, teacher + 2 * student, FLOPS[device]
    per_s = TOKENS_PER_S[config.tokenization.tokens]
    held_out_s = hours * 3600 * config.ingestion.held_out_fraction
    utterances = held_out_s / UTTERANCE_S
    pairs = PROBE_KINDS * min(asked.probes.items, utterances)
    probes_s = 2 * pairs * min(asked.probes.max_s, UTTERANCE_S)
    compared = min(asked.gap.utterances, utterances)
    read = per_s * (2 * held_out_s + probes_s + compared * UTTERANCE_S)
    seconds = 2 * read * models / flops + pairs * PAIR_S + compared * GAP_S
    seconds += probes_s / 3600 * _tokenizer_s_per_h(config, device)
    if asked.generated.asr:
        items = min(asked.generated.items, utterances)
        drawn = sum(max(2 * model / flops, TOKEN_S) for model in (teacher, student, student))
        seconds += items * asked.generated.max_new_tokens * (drawn + 3 * SPEAK_S / per_s)
    return Estimate(seconds, held_out_s * per_s / 10 + probes_s * 32_000)


def _generation(config: PipelineConfig, student: int, flops: float) -> Estimate:
    asked = config.generation
    each = asked.max_new_tokens * max(2 * student / flops, TOKEN_S) + 0.5
    return Estimate(asked.samples * each, asked.samples * 600_000)


def _export(config: PipelineConfig, parameters: int, held_out: float, flops: float) -> Estimate:
    files = config.export.gguf
    measured = min(held_out, config.export.perplexity_tokens) * (len(files) + 1 if files else 0)
    per_parameter = WEIGHT_BYTES[config.export.dtype] + sum(GGUF_BYTES[name] for name in files)
    written = parameters / 2e8 + len(files) * parameters / EXPORTED_PARAMETERS_PER_S
    vocoder = config.generation.vocoder
    trained = vocoder.steps * LIGHT_VOCODER_STEP_S if vocoder.kind == "light" else 0.0
    return Estimate(trained + written + measured * 2 * parameters / flops, parameters * per_parameter)


def _tokenization(config: PipelineConfig, hours: float, device: str) -> float:
    tokenization, cores = config.tokenization, max(1, config.runtime.workers)
    alignment = hours * ALIGNMENT_S_PER_H / cores if tokenization.interleaving.policy != "speech" else 0.0
    fit = min(hours, tokenization.fit_hours) * CODEBOOKS_S_PER_H if _is_embedded(config) else 0.0
    beside = cores if _is_embedded(config) or device == "cpu" else 1
    return fit + hours * _tokenizer_s_per_h(config, device) / beside + alignment


def _is_embedded(config: PipelineConfig) -> bool:
    return config.spiritlm_dir is None and config.tokenization.hubert.encoder is None


def _tokenizer_s_per_h(config: PipelineConfig, device: str) -> float:
    """Of one core, or of the GPU where SpiritLM's tokenizer has one."""
    if _is_embedded(config):
        return TOKENIZATION_S_PER_H
    return RELEASE_S_PER_H[config.tokenization.tokens] / (RELEASE_GPU_SPEED_UP if device == "cuda" else 1)


def logit_bytes(entries: int, tokens: float = 1, sequences: float = 0, shards: float = 0) -> float:
    """Bytes of cached logits: per token K ids of 2, K - 1 weights of 1 and a head of 4; what is packed; what files add."""
    per_token = 2 * entries + (entries - 1) + 4 + LOGIT_SIDE_BYTES
    return tokens * per_token + sequences * LOGIT_SEQUENCE_BYTES + shards * LOGIT_FILE_BYTES


def _logits(config: PipelineConfig, hours: float, tokens: float) -> float:
    utterance = UTTERANCE_S * TOKENS_PER_S[config.tokenization.tokens]
    sequences = tokens / min(utterance, config.distillation.training.sequence_length)
    shards = math.ceil(hours * 3600 * FLAC_BYTES_PER_S / (config.ingestion.shard_megabytes * 1e6))
    return logit_bytes(config.logit_caching.entries, tokens, sequences, shards)


def _training(config: TrainingConfig) -> int:
    return config.steps * config.batch_tokens

"""What the costs of all stages are counted from: rates, sizes of models, tokens in an hour. Each stage's own cost is in its folder.

Rates of the CPU stages are measured ones (seconds per hour of speech on one core); model work is counted in floating
point operations: 6 per parameter and token for training, 2 for a forward pass. Good to a factor of about two.
"""

from dataclasses import asdict, dataclass

from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.tokenizers.opening import choose_tokenizer
from tinywave_core.tokenizers.vocabulary import BYTE_TEXT, SPIRITLM_BASE, SPIRITLM_EXPRESSIVE, Vocabulary

# Effective operations per second: small models on two CPU cores, a data-centre GPU in bfloat16, and a laptop's of Apple in
# float32 (a third of what the first ones are said to have; not measured).
FLOPS = {"cpu": 3e10, "cuda": 4e14, "mps": 1e12}
FLAC_BYTES_PER_S = 17_000
# Of a logit shard (measured): what input ids, target and entropy take packed, and what a sequence and a file add.
LOGIT_SIDE_BYTES, LOGIT_SEQUENCE_BYTES, LOGIT_FILE_BYTES = 4.5, 55, 2700
UTTERANCE_S = 12.0
# Seconds of one core (measured): a token drawn where the model itself takes less; a second of sampled speech through the embedded
# vocoder.
TOKEN_S, SPEAK_S = 0.005, 0.06
GGUF_BYTES = {"bf16": 2, "f16": 2, "q8_0": 34 / 32, "q4_0": 18 / 32}  # blocks of 32 weights share a scale


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
    """Rows of the embedding: SpiritLM's padded sizes for a checkpoint, bytes and units for a fresh teacher and the base."""
    if not _has_bytes(config):
        return _published(config).rows
    return Vocabulary(text=BYTE_TEXT, **asdict(choose_tokenizer(config).expected_sizes)).rows


def exported_rows(config: PipelineConfig) -> int:
    """Rows of the exported embedding: all, or <unk>, <s>, </s>, the boundary of SpiritLM's convention, markers, units."""
    if config.export.vocabulary == config.distillation.vocabulary == "full":
        return vocabulary_rows(config)
    if _has_bytes(config):
        return vocabulary_rows(config) - 256
    return _published(config).speech_only().rows


def _has_bytes(config: PipelineConfig) -> bool:
    return config.adaptation.teacher in ("auto", "base", "fresh")


def _published(config: PipelineConfig) -> Vocabulary:
    """That of SpiritLM's language model: what a checkpoint is taken to have."""
    return SPIRITLM_BASE if config.tokenization.tokens == "base" else SPIRITLM_EXPRESSIVE


def teacher_parameters(config: PipelineConfig) -> int:
    """Of the teacher: a fresh one's shape, and the vocabulary's rows."""
    shape = config.adaptation.fresh
    return llama_parameters(shape, shape.layers, vocabulary_rows(config))


def student_parameters(config: PipelineConfig) -> int:
    """Of the student while it is trained."""
    kept = exported_rows(config) if config.distillation.vocabulary == "speech" else vocabulary_rows(config)
    return llama_parameters(config.adaptation.fresh, config.distillation.layers, kept)


def for_hours(config: PipelineConfig, hours: float) -> PipelineConfig:
    """The settings with the steps that so many hours of speech allow, if training does not stop early."""
    tokens, _ = split_tokens(config, hours)
    tokens -= min(config.validation.fraction * tokens, config.validation.most_hours / hours * tokens if hours else 0.0)
    adaptation, distillation = config.adaptation, config.distillation
    return config.model_copy(
        update={
            "adaptation": adaptation.model_copy(
                update={
                    "training": adaptation.training.for_tokens(tokens),
                    "base_training": adaptation.base_training.for_tokens(tokens),
                }
            ),
            "distillation": distillation.model_copy(
                update={"training": distillation.training.for_tokens(tokens * distillation.share)}
            ),
        }
    )


def live_operations(config: PipelineConfig) -> int:
    """Operations of a whole training for the teacher that runs beside the student."""
    training = config.distillation.training
    tokens = len(config.distillation.live_steps) * training.rows * training.sequence_length
    return 2 * teacher_parameters(config) * tokens


def split_tokens(config: PipelineConfig, hours: float) -> tuple[float, float]:
    """Tokens to train on and held out, in so many hours of speech."""
    tokens = hours * 3600 * choose_tokenizer(config).tokens_per_s
    return tokens * (1 - config.ingestion.held_out_fraction), tokens * config.ingestion.held_out_fraction


def logit_bytes(entries: int, tokens: float = 1, sequences: float = 0, shards: float = 0) -> float:
    """Bytes of cached logits: per token K ids of 2, K - 1 weights of 1 and a head of 4; what is packed; what files add."""
    per_token = 2 * entries + (entries - 1) + 4 + LOGIT_SIDE_BYTES
    return tokens * per_token + sequences * LOGIT_SEQUENCE_BYTES + shards * LOGIT_FILE_BYTES

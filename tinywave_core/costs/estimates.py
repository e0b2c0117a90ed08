"""What the costs of all stages are counted from: rates, sizes of models, tokens in an hour. Each stage's own cost is in its folder.

Rates of the CPU stages are measured ones (seconds per hour of speech on one core); model work is counted in floating
point operations: 6 per parameter and token for training, 2 for a forward pass. Good to a factor of about two.
"""

from dataclasses import asdict, dataclass

from tinywave_core.checkpoints.model_shape import ModelShape
from tinywave_core.checkpoints.teacher import teacher_folder
from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.tokenizers.opening import choose_tokenizer
from tinywave_core.tokenizers.text import SPECIALS
from tinywave_core.tokenizers.text_model import text_tokens
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
_WITH_BYTES = ("auto", "base", "fresh")
GGUF_BYTES = {"bf16": 2, "f16": 2, "q8_0": 34 / 32, "q4_0": 18 / 32}  # blocks of 32 weights share a scale


@dataclass(frozen=True)
class Estimate:
    """Of one stage, if all of it has to be computed."""

    seconds: float
    bytes: float


def llama_parameters(shape: FreshTeacherConfig, layers: int, rows: int) -> int:
    """Parameters of a Llama without grouped heads or tied embeddings."""
    return ModelShape.of_fresh(shape).parameters(layers, rows)


def teacher_shape(config: PipelineConfig) -> ModelShape:
    """Of the teacher: by its config.json where it is a directory, else by `adaptation.fresh`, which presets set for a release."""
    if config.adaptation.teacher in (*_WITH_BYTES, "spiritlm"):
        return ModelShape.of_fresh(config.adaptation.fresh)
    folder = teacher_folder(config)
    assert folder is not None
    return ModelShape.of_folder(folder)


def student_shape(config: PipelineConfig) -> ModelShape:
    """Of the student's blocks: the teacher's, or as much of them as its width is."""
    return teacher_shape(config).narrowed(config.distillation.width)


def vocabulary_rows(config: PipelineConfig) -> int:
    """Rows of the embedding: SpiritLM's padded sizes for a checkpoint, bytes and units for a fresh teacher and the base, the text that
    is kept and units for a text model."""
    if (text := text_tokens_kept(config)) is not None:
        return Vocabulary(text=text, **asdict(choose_tokenizer(config).expected_sizes)).rows
    if not _has_bytes(config):
        return _published(config).rows
    return Vocabulary(text=BYTE_TEXT, **asdict(choose_tokenizer(config).expected_sizes)).rows


def exported_rows(config: PipelineConfig) -> int:
    """Rows of the exported embedding: all, or <unk>, <s>, </s>, the boundary of SpiritLM's convention, markers, units."""
    if config.export.vocabulary == config.distillation.vocabulary == "full":
        return vocabulary_rows(config)
    if (text := text_tokens_kept(config)) is not None:
        return vocabulary_rows(config) - text + len(SPECIALS)
    if _has_bytes(config):
        return vocabulary_rows(config) - 256
    return _published(config).speech_only().rows


def _has_bytes(config: PipelineConfig) -> bool:
    return config.adaptation.teacher in _WITH_BYTES


def text_tokens_kept(config: PipelineConfig) -> int | None:
    """Text tokens of a teacher that starts from a text model; None for all others, and for a release, which need not be at hand."""
    return None if config.adaptation.teacher in (*_WITH_BYTES, "spiritlm") else text_tokens(config)


def _published(config: PipelineConfig) -> Vocabulary:
    """That of SpiritLM's language model: what a checkpoint is taken to have."""
    return SPIRITLM_BASE if config.tokenization.tokens == "base" else SPIRITLM_EXPRESSIVE


def teacher_parameters(config: PipelineConfig) -> int:
    """Of the teacher: its shape, and the vocabulary's rows."""
    shape = teacher_shape(config)
    return shape.parameters(shape.layers, vocabulary_rows(config))


def student_parameters(config: PipelineConfig) -> int:
    """Of the student while it is trained."""
    return _trained_parameters(config, config.distillation.layers)


def drafter_parameters(config: PipelineConfig) -> int:
    """Of the drafter while it is trained; 0 where there is none."""
    layers = config.distillation.drafter_layers
    return _trained_parameters(config, layers) if layers else 0


def _trained_parameters(config: PipelineConfig, layers: int) -> int:
    """Of a student of so many blocks, with the rows that students are trained with."""
    kept = exported_rows(config) if config.distillation.vocabulary == "speech" else vocabulary_rows(config)
    return student_shape(config).parameters(layers, kept)


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


def speaking_operations(config: PipelineConfig) -> float:
    """Operations of a whole training in which the student continues prompts to learn from what it says: a forward pass per token."""
    own, training = config.distillation.on_policy, config.distillation.training
    per_row = training.sequence_length // (own.prompt_tokens + own.new_tokens)
    continuations = _speaking_steps(config) * own.share * training.rows * per_row
    return continuations * (own.prompt_tokens + own.new_tokens) * 2 * student_parameters(config)


def speaking_passes(config: PipelineConfig) -> float:
    """Forward passes of one token after the other, of as many continuations as a machine has room for."""
    own, at_once = config.distillation.on_policy, config.runtime.micro_batch_rows * 4
    rows = own.drawn_every * own.share * config.distillation.training.rows
    return _speaking_steps(config) / own.drawn_every * max(1.0, rows / at_once) * own.new_tokens


def preference_seconds(config: PipelineConfig, hours: float, device: str) -> float:
    """Of preference tuning: continuations, eight at a time, the teacher's pass over them, and the training. Other judges are not counted."""
    asked, train = config.distillation.preference, split_tokens(config, hours)[0]
    prompts = (
        asked.share
        * train
        / min(UTTERANCE_S * choose_tokenizer(config).tokens_per_s, config.distillation.training.sequence_length)
    )
    said, student = prompts * asked.candidates * asked.new_tokens, 2 * student_parameters(config)
    read = prompts * asked.candidates * (asked.prompt_tokens + asked.new_tokens) * 2 * teacher_parameters(config)
    steps = min(asked.steps, asked.passes * prompts * asked.pairs_per_prompt / asked.batch_pairs)
    trained = steps * asked.batch_pairs * asked.row_tokens * 3 * student
    return said * max(student / FLOPS[device], TOKEN_S / 8) + (read + trained) / FLOPS[device]


def _speaking_steps(config: PipelineConfig) -> float:
    """Steps in which some rows are what the student said."""
    distillation = config.distillation
    before = round(distillation.on_policy.after_share * distillation.training.steps)
    return max(0, distillation.training.planned_steps - before) if distillation.learns_from_itself else 0


def split_tokens(config: PipelineConfig, hours: float) -> tuple[float, float]:
    """Tokens to train on and held out, in so many hours of speech."""
    tokens = hours * 3600 * choose_tokenizer(config).tokens_per_s
    return tokens * (1 - config.ingestion.held_out_fraction), tokens * config.ingestion.held_out_fraction


def logit_bytes(entries: int, tokens: float = 1, sequences: float = 0, shards: float = 0) -> float:
    """Bytes of cached logits: per token K ids of 2, K - 1 weights of 1 and a head of 4; what is packed; what files add."""
    per_token = 2 * entries + (entries - 1) + 4 + LOGIT_SIDE_BYTES
    return tokens * per_token + sequences * LOGIT_SEQUENCE_BYTES + shards * LOGIT_FILE_BYTES

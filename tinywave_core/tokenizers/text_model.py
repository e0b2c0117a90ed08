"""A teacher that starts from a text model: which text it keeps, and what is checked before anything starts. Reads small files only."""

from pathlib import Path

from tinywave_core.checkpoints.architectures import ARCHITECTURES, require_architecture
from tinywave_core.checkpoints.bounds import read_json
from tinywave_core.checkpoints.teacher import teacher_folder
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError
from tinywave_core.tokenizers.byte_pairs import rule_of
from tinywave_core.tokenizers.enlarged import FAST, TextPart, is_text_model, read_text_part, require_as_tokenized
from tinywave_core.tokenizers.text import SPECIALS
from tinywave_core.tokenizers.vocabulary import Vocabulary

MOST_IDS = 1 << 16
"""Token shards and cached logits hold ids of 16 bits."""
_MARKERS = 2


def text_model_of(config: PipelineConfig) -> Path | None:
    """The directory of the text model that the teacher starts from; None where it starts from anything else."""
    folder = teacher_folder(config)
    return folder if folder is not None and is_text_model(folder) else None


def trains_on_text(config: PipelineConfig) -> bool:
    """Whether any sequence has text in it."""
    tokenization = config.tokenization
    return tokenization.interleaving.policy != "speech" or tokenization.text.source is not None


def text_tokens(config: PipelineConfig) -> int | None:
    """How many text tokens the enlarged vocabulary has; None where the teacher is no text model."""
    folder = text_model_of(config)
    if folder is None:
        return None
    part = read_text_part(folder)
    keeps = trains_on_text(config) or config.adaptation.text_rows == "keep"
    return len((part.within(config.adaptation.most_text_tokens) if keeps else part.of_speech_alone()).names)


def sources_of(folder: Path, vocabulary: Vocabulary, most: int | None) -> TextPart:
    """The text part of an enlarged vocabulary: of the text of the model in `folder` at most so many tokens, or none."""
    if vocabulary.is_speech_only:
        return read_text_part(folder).of_speech_alone()
    part = read_text_part(folder).within(most)
    require_as_tokenized(folder, part, vocabulary)
    return part


def check_text_model(config: PipelineConfig, speech_tokens: int) -> None:
    """Refuse a text model that cannot become this run's teacher; `speech_tokens` is how many units there will be."""
    folder, text = text_model_of(config), text_tokens(config)
    if config.adaptation.most_text_tokens is not None and (text is None or text == len(SPECIALS)):
        why = "the teacher is no text model" if text is None else "no text is trained on, so none is kept"
        raise ConfigError(
            f"adaptation.most_text_tokens is {config.adaptation.most_text_tokens}, but {why}: leave it out"
        )
    if folder is None or text is None:
        return
    about = read_json(folder / "config.json")
    require_architecture(about, folder)
    room = MOST_IDS - speech_tokens - _MARKERS
    if text > room:
        raise ConfigError(
            f"the text model {folder} has {text:,} text tokens; with the units that is more than the {MOST_IDS:,} ids that shards and "
            f"cached logits can name. Keep those that its byte-pair encoding made first (--adaptation.most_text_tokens {room}: rarer "
            "words are then written in parts), or train on speech alone (tokenization.interleaving.policy speech, "
            "adaptation.text_rows as_needed: no text is kept)"
        )
    if config.adaptation.method == "lora":
        raise ConfigError(
            f"adaptation.method is lora, but {folder} is a text model: adapters would leave the embeddings of its new units as they were "
            "drawn. Set adaptation.method full"
        )
    positions = about.get("max_position_embeddings")
    if ARCHITECTURES[about["model_type"]].own_positions and isinstance(positions, int):
        longest = max(config.adaptation.own_training.sequence_length, config.distillation.training.sequence_length)
        if longest > positions:
            raise ConfigError(
                f"{folder} knows {positions:,} positions, a training row has {longest:,} tokens: lower "
                "adaptation.training.sequence_length and distillation.training.sequence_length"
            )
    row = ARCHITECTURES[about["model_type"]]
    if config.export.gguf and (fault := _fault_of_gguf(folder, row.gguf, text, config)):
        raise ConfigError(f"{folder}: {fault}. Export without GGUF files (--export.gguf none)")


def _fault_of_gguf(folder: Path, architecture: str | None, text: int, config: PipelineConfig) -> str:
    """Why no GGUF file can be made of its student; empty where one can."""
    if architecture is None:
        return "students of this architecture are not written as GGUF files"
    keeps = text > len(SPECIALS) and "speech" not in (config.export.vocabulary, config.distillation.vocabulary)
    if not keeps or rule_of(read_json(folder / FAST)) is not None:
        return ""
    return "its text has no form that GGUF files are written with here"

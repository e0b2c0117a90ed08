"""Settings of export: the student as a directory that plain transformers loads."""

from typing import Literal

from pydantic import Field, field_validator

from tinywave_core.config.base import Config

Quantization = Literal["bf16", "f16", "q8_0", "q4_0"]


class ExportConfig(Config):
    """Form of the exported model."""

    name: str = Field("tinywave-student", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$")
    """Name in the model card."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the exported weights."""
    vocabulary: Literal["full", "speech"] = "full"
    """`full`: all that the teacher knows. `speech`: only markers and units, for a model that neither reads nor writes text;
    its ids are renumbered (the directory's tokenizer and speech.json have the new ones), its speech is the same."""
    gguf: tuple[Quantization, ...] = ("q8_0", "q4_0")
    """GGUF files for llama.cpp beside it, one per form of the weights; `none` for none. `q8_0`: 8.5 bits a weight; `q4_0`: 4.5 (the
    output projection 8.5), half the memory to read per token; `bf16`, `f16`: as they are, for measuring the others."""
    perplexity_tokens: int = Field(4096, ge=0)
    """Most held-out tokens for measuring how much perplexity each GGUF file loses; 0: not measured."""

    @field_validator("gguf", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """What the command line gives: names with commas between, or `none`."""
        if not isinstance(value, str):
            return value
        return tuple(name.strip() for name in value.split(",")) if value not in ("", "none") else ()

"""The part of the model card about files: which there are, what they need per token, and what rounding the weights costs."""

from collections.abc import Sequence

from pydantic import Field

from tinywave_core.config.export import Quantization
from tinywave_core.steps.base import Summary
from tinywave_core.tokenizers.vocabulary import Vocabulary
from tinywave_core.wording import figure


class GgufFile(Summary):
    """One GGUF file of an export."""

    file: str
    """Its name in the model's directory."""
    quantization: Quantization
    bytes: int
    sha256: str


class RoundingLoss(Summary):
    """Perplexity of an export and of its GGUF files on the same held-out tokens; nothing is set where none was measured.

    None is a perplexity that no number holds.
    """

    tokens: int = 0
    exported: float | None = None
    gguf: dict[Quantization, float | None] = Field(default_factory=dict)
    loss: dict[Quantization, float | None] = Field(default_factory=dict)
    """Relative to `exported`: 0.01 is one percent more."""


def files_section(files: Sequence[GgufFile], losses: RoundingLoss, vocabulary: Vocabulary, dtype: str) -> str:
    """Markdown; nothing where there are no GGUF files."""
    if not files:
        return ""
    space = ", with one space before the prompt" if vocabulary.convention == "slow" else ""
    units = f"For speech alone ban the ids below {vocabulary.first['hubert']} but 2 (`logit_bias`)."
    return f"""
## Files

| file | weights | size | perplexity |
|---|---|---|---|
| `*.safetensors` | {dtype} | for transformers and vLLM | {_perplexity(losses, None)} |
{chr(10).join(_row(file, losses) for file in files)}

{_how(losses)}GGUF files are for llama.cpp. Give it prompts as lists of ids: `speech.json` has golden prompts with theirs, and its own tokenizer
gives the same{space}. {units}
"""


def _row(file: GgufFile, losses: RoundingLoss) -> str:
    name = file.quantization
    return f"| `{file.file}` | {name.upper()} | {file.bytes / 1e6:,.1f} MB | {_perplexity(losses, name)} |"


def _perplexity(losses: RoundingLoss, name: Quantization | None) -> str:
    if not losses.tokens:
        return "not measured"
    if name is None:
        return figure(losses.exported, ".3f")
    if losses.loss[name] is None:
        return figure(losses.gguf[name], ".3f")
    return f"{losses.gguf[name]:.3f} ({losses.loss[name]:+.2%})"


def _how(losses: RoundingLoss) -> str:
    if not losses.tokens:
        return ""
    return (
        f"Perplexity is on {losses.tokens:,} held-out tokens, with the rounded weights read back as float32; llama.cpp also\nrounds "
        "activations to 8 bits, which is not in it.\n\n"
    )

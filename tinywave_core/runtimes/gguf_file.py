"""The header of a GGUF file, checked before llama.cpp opens it: on a bad file that ends the process or says little."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFReader, LlamaFileType, TokenType

from tinywave_core.errors import CheckpointError
from tinywave_core.exporters.gguf_tokens import VOCABULARY_KEY, byte_names
from tinywave_core.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class GgufFile:
    """A whole file of the architecture llama."""

    path: Path
    context: int
    tokens: int
    vocabulary: Vocabulary | None
    """None in files that TinyWave did not write."""
    partial_characters: list[int]
    """Ids of tokens that are a byte of a longer character."""
    is_rearranged: bool
    """Whether llama.cpp keeps the weights in another order than the file: mapping the file would hold them twice."""

    @classmethod
    def read(cls, path: Path) -> "GgufFile":
        """Read keys and the table of tensors; CheckpointError where it is no GGUF, is truncated, or is no Llama."""
        if not path.is_file():
            raise CheckpointError(
                f"{path} does not exist: expected a GGUF file, which `--export.gguf q8_0,q4_0` writes"
            )
        try:
            reader = GGUFReader(path)
        except (ValueError, OSError, IndexError, KeyError) as error:
            raise CheckpointError(f"{path} is no GGUF file, or a truncated one ({error}): copy it again") from error
        if (kind := _value(reader, "general.architecture")) != "llama":
            raise CheckpointError(f"{path} is a model of the architecture {kind!r}; expected 'llama'")
        vocabulary_json = _value(reader, VOCABULARY_KEY)
        return cls(
            path,
            int(_value(reader, "llama.context_length")),
            len(reader.fields["tokenizer.ggml.tokens"].data),
            Vocabulary.from_json(json.loads(vocabulary_json)) if vocabulary_json else None,
            _partial_characters(reader),
            is_rearranged=_value(reader, "general.file_type") == LlamaFileType.MOSTLY_Q4_0,
        )

    def require(self, vocabulary: Vocabulary) -> None:
        """CheckpointError where the file's ids are not those of `vocabulary`."""
        rows = self.vocabulary or self.tokens
        if rows != (vocabulary if self.vocabulary else vocabulary.tokens):
            raise CheckpointError(
                f"{self.path} has another vocabulary than the speech.json beside it: found {_describe(self.vocabulary, self.tokens)}, "
                f"expected {_describe(vocabulary, vocabulary.tokens)}. The same id would mean different things: take the GGUF file of "
                "this export"
            )


def _describe(vocabulary: Vocabulary | None, tokens: int) -> str:
    parts = vocabulary.to_json() if vocabulary else {}
    return f"{tokens} tokens" + (f" ({', '.join(f'{k} {v}' for k, v in parts.items())})" if parts else "")


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _partial_characters(reader: Any) -> list[int]:
    bytes_of = {name.encode(): byte for byte, name in byte_names().items()}
    field, types = reader.fields["tokenizer.ggml.tokens"], reader.fields["tokenizer.ggml.token_type"].contents()
    pieces = enumerate(zip((bytes(field.parts[part]) for part in field.data), types, strict=True))
    if _value(reader, "tokenizer.ggml.model") == "gpt2":
        return [i for i, (piece, kind) in pieces if kind == TokenType.NORMAL and bytes_of.get(piece, 0) > 0x7F]
    return [i for i, (piece, kind) in pieces if kind == TokenType.BYTE and int(piece[1:-1], 16) > 0x7F]

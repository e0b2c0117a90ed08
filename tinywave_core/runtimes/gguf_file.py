"""The header of a GGUF file, checked before llama.cpp opens it: on a bad file that ends the process or says little."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFReader, LlamaFileType, TokenType

from tinywave_core.checkpoints.architectures import ARCHITECTURES
from tinywave_core.checkpoints.gguf_header import fault_of_gguf
from tinywave_core.errors import CheckpointError
from tinywave_core.exporters.gguf_tokens import VOCABULARY_KEY, byte_names
from tinywave_core.tokenizers.vocabulary import Vocabulary

KINDS = tuple(dict.fromkeys(row.gguf for row in ARCHITECTURES.values() if row.gguf))
MOST_BLOCKS = 512  # more end the process in llama.cpp


@dataclass(frozen=True)
class GgufFile:
    """A whole file of an architecture that exporters/gguf.py writes."""

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
        """Read keys and the table of tensors; CheckpointError where it is no GGUF, is truncated, or is of an architecture that is not
        written here."""
        if not path.is_file():
            raise CheckpointError(
                f"{path} does not exist: expected a GGUF file, which `--export.gguf q8_0,q4_0` writes"
            )
        try:
            if fault := fault_of_gguf(path):
                raise ValueError(fault)
            reader = GGUFReader(path)
            kind = _value(reader, "general.architecture")
        except (ValueError, OSError, LookupError) as error:
            raise CheckpointError(f"{path} is no GGUF file, or a truncated one ({error}): copy it again") from error
        if kind not in KINDS:
            raise CheckpointError(
                f"{path} is a model of the architecture {kind!r}; expected {' or '.join(map(repr, KINDS))}"
            )
        try:
            if wrong := _contradictions(reader, kind):
                raise ValueError("; ".join(wrong))
            vocabulary_json = _value(reader, VOCABULARY_KEY)
            return cls(
                path,
                _value(reader, f"{kind}.context_length"),
                len(reader.fields["tokenizer.ggml.tokens"].data),
                Vocabulary.from_json(json.loads(vocabulary_json)) if vocabulary_json else None,
                _partial_characters(reader),
                is_rearranged=_value(reader, "general.file_type") == LlamaFileType.MOSTLY_Q4_0,
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{path} contradicts itself ({error}): it was not written by an exporter of Llama models, export it again"
            ) from error

    def require(self, vocabulary: Vocabulary) -> None:
        """CheckpointError where the file's ids are not those of `vocabulary`."""
        rows = self.vocabulary or self.tokens
        if rows != (vocabulary if self.vocabulary else vocabulary.tokens):
            raise CheckpointError(
                f"{self.path} has another vocabulary than the speech.json beside it: found {_describe(self.vocabulary, self.tokens)}, "
                f"expected {_describe(vocabulary, vocabulary.tokens)}. The same id would mean different things: take the GGUF file of "
                "this export"
            )


def digit_ids(path: Path, digits: str) -> list[int]:
    """Ids of the tokens that are one of these digits, as far as a file has them."""
    reader = GGUFReader(path)
    field = reader.fields["tokenizer.ggml.tokens"]
    pieces = {bytes(field.parts[part]): i for i, part in enumerate(field.data)}
    return [pieces[digit.encode()] for digit in digits if digit.encode() in pieces]


def _describe(vocabulary: Vocabulary | None, tokens: int) -> str:
    parts = vocabulary.to_json() if vocabulary else {}
    return f"{tokens} tokens" + (f" ({', '.join(f'{k} {v}' for k, v in parts.items())})" if parts else "")


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _contradictions(reader: Any, architecture: str) -> list[str]:
    """Where keys and tensors say different things: llama.cpp believes the keys, and ends the process or reads beyond a list."""
    sizes = {tensor.name: [int(n) for n in tensor.shape] for tensor in reader.tensors}
    blocks = len({name.split(".")[1] for name in sizes if name.startswith("blk.")})
    width, rows = sizes["token_embd.weight"]
    names = ("context_length", "block_count", "embedding_length", "feed_forward_length", "attention.head_count")
    claimed = {name: _value(reader, f"{architecture}.{name}") for name in names}
    claimed["attention.head_count_kv"] = _value(reader, f"{architecture}.attention.head_count_kv") or claimed[names[-1]]
    if wrong := [f"{architecture}.{name} is {found!r:.40}" for name, found in claimed.items() if not _is_size(found)]:
        return wrong
    heads, kept = claimed["attention.head_count"], claimed["attention.head_count_kv"]
    lists = {name: reader.get_field(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "scores")}
    wanted = {"tokens": "STRING", "token_type": "INT32", "scores": "FLOAT32"}
    held = {"block_count": blocks, "embedding_length": width, "feed_forward_length": sizes["blk.0.ffn_up.weight"][1]}
    kind = _value(reader, "tokenizer.ggml.model")
    return [
        *(
            f"{architecture}.{name} is {claimed[name]:,}, its tensors have {n:,}"
            for name, n in held.items()
            if claimed[name] != n
        ),
        *([f"{blocks:,} blocks, expected {MOST_BLOCKS} at most"] if blocks > MOST_BLOCKS else []),
        *([f"{heads:,} heads, {kept:,} with keys, over a width of {width:,}"] if width % heads or heads % kept else []),
        *(["it has experts"] if _value(reader, f"{architecture}.expert_count") else []),
        *([f"a tokenizer of the kind {kind!r:.40}, expected llama or gpt2"] if kind not in ("llama", "gpt2") else []),
        *(
            f"tokenizer.ggml.{name} is no list of {rows:,} {wanted[name]}"
            for name, each in lists.items()
            if each is not None and (len(each.data) != rows or [t.name for t in each.types] != ["ARRAY", wanted[name]])
        ),
    ]


def _is_size(found: object) -> bool:
    return type(found) is int and 0 < found < 1 << 31


def _partial_characters(reader: Any) -> list[int]:
    bytes_of = {name: byte for byte, name in byte_names().items()}
    field, types = reader.fields["tokenizer.ggml.tokens"], reader.fields["tokenizer.ggml.token_type"].contents()
    pieces = enumerate(zip((bytes(field.parts[part]) for part in field.data), types, strict=True))
    if _value(reader, "tokenizer.ggml.model") == "gpt2":
        return [i for i, (piece, kind) in pieces if kind == TokenType.NORMAL and not _is_text(piece.decode(), bytes_of)]
    return [i for i, (piece, kind) in pieces if kind == TokenType.BYTE and int(piece[1:-1], 16) > 0x7F]


def _is_text(piece: str, bytes_of: Mapping[str, int]) -> bool:
    """Whether the bytes that a piece stands for are whole characters."""
    try:
        bytes(bytes_of.get(character, 0) for character in piece).decode()
    except UnicodeDecodeError:
        return False
    return True

"""A vocabulary as llama.cpp's files hold it: pieces, their types and scores, and what its tokenizer does around them.

- Text of a sentencepiece model: its pieces with their scores, bytes as BYTE; llama.cpp tokenizes it as sentencepiece does.
- Byte-level pairs of a text model: its pieces and merges, where llama.cpp knows the rule that cuts a text before.
- Bytes as text, and no text at all: llama.cpp's byte-level kind, where one character stands for each byte. Its sentencepiece
  kind would turn every space into ▁, which such a vocabulary has no piece for.

Markers and units are USER_DEFINED: found in any prompt before the text is looked at. As CONTROL they would need a flag, as NORMAL
pieces they would not be found (infra/decisions/0019-runtimes-and-gguf.md). Padding rows are left out: no id names them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf import TokenType

from tinywave_core.checkpoints.bounds import read_json
from tinywave_core.checkpoints.pieces import fault_of_pieces
from tinywave_core.errors import CheckpointError
from tinywave_core.tokenizers.byte_pairs import RULES, rule_of
from tinywave_core.tokenizers.text import SPECIALS
from tinywave_core.tokenizers.vocabulary import BYTE_TEXT, Vocabulary

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SENTENCEPIECE, FAST = "tokenizer.model", "tokenizer.json"
VOCABULARY_KEY = "tinywave.vocabulary"
"""Under which a file holds the vocabulary whose ids it has, as JSON."""
# llama.cpp's byte-level kind cannot be without merges: this one joins two bytes that no UTF-8 text has.
_NEVER = (0xFF, 0xFE)


@dataclass(frozen=True)
class Pieces:
    """The tokenizer part of a GGUF file."""

    model: str
    """llama.cpp's kind: `llama` (sentencepiece) or `gpt2` (bytes)."""
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    pre: str = ""
    """Of the kind `gpt2`: llama.cpp's name of the rule that cuts a text before its bytes are merged."""
    add_space_prefix: bool = False
    """Whether a word boundary goes before a text and after every marker, as in transformers' fast tokenizer. The slow convention
    has one before the whole prompt: llama.cpp gives its ids for a prompt with one space before it."""


def pieces_of(folder: Path, vocabulary: Vocabulary) -> Pieces:
    """Of the model in `folder`; CheckpointError where its text has no form that llama.cpp reads."""
    if vocabulary.is_speech_only:
        return _of_characters(vocabulary, [] if vocabulary.boundary is None else [0x20])
    if (folder / SENTENCEPIECE).is_file():
        return _of_sentencepiece(folder / SENTENCEPIECE, vocabulary)
    if vocabulary.text == BYTE_TEXT:
        return _of_characters(vocabulary, list(range(256)))
    if (folder / FAST).is_file() and (about := read_json(folder / FAST)) and (pre := rule_of(about)):
        return _of_byte_pairs(about, pre, vocabulary)
    raise CheckpointError(
        f"{folder} has no {SENTENCEPIECE}, and its {vocabulary.text} text pieces are no bytes: llama.cpp would need the scores of "
        f"a sentencepiece model, or byte-level pairs cut as in {', '.join(RULES)}. Export without GGUF (--export.gguf none), or for speech alone (--export.vocabulary speech)"
    )


def byte_names() -> dict[int, str]:
    """The character that stands for each byte in byte-level vocabularies (GPT-2's table): itself where it can be seen, else one from
    256 on.
    """
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + n) for n, byte in enumerate(unseen)}


def _of_characters(vocabulary: Vocabulary, text_bytes: list[int]) -> Pieces:
    names = byte_names()
    units = vocabulary.names()
    return Pieces(
        "gpt2",
        [*SPECIALS.values(), *(names[byte] for byte in text_bytes), *units],
        [*_special_types(), *[TokenType.NORMAL] * len(text_bytes), *[TokenType.USER_DEFINED] * len(units)],
        merges=[" ".join(names[byte] for byte in _NEVER)],
        pre="gpt-2",
    )


def _of_byte_pairs(about: dict[str, Any], pre: str, vocabulary: Vocabulary) -> Pieces:
    """Of an enlarged tokenizer.json, whose ids are those of `vocabulary`."""
    ids, units = about["model"]["vocab"], vocabulary.names()
    special = {token["content"] for token in about["added_tokens"] if token["special"]}
    text = sorted((name for name, i in ids.items() if len(SPECIALS) <= i < vocabulary.text), key=ids.__getitem__)
    return Pieces(
        "gpt2",
        [*SPECIALS.values(), *text, *units],
        [
            *_special_types(),
            *(TokenType.CONTROL if name in special else TokenType.NORMAL for name in text),
            *[TokenType.USER_DEFINED] * len(units),
        ],
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in about["model"]["merges"]],
        pre=pre,
    )


def _of_sentencepiece(path: Path, vocabulary: Vocabulary) -> Pieces:
    from sentencepiece import SentencePieceProcessor

    if fault := fault_of_pieces(path):
        raise CheckpointError(f"{path} is no sentencepiece model, or a truncated one ({fault}): copy it again")
    processor = SentencePieceProcessor()
    processor.LoadFromSerializedProto(path.read_bytes())
    if processor.get_piece_size() < vocabulary.text:
        raise CheckpointError(
            f"{path} has {processor.get_piece_size()} pieces, the vocabulary {vocabulary.text} of text: they are not of one model"
        )
    units = vocabulary.names()
    text = range(len(SPECIALS), vocabulary.text)
    return Pieces(
        "llama",
        [*SPECIALS.values(), *(processor.id_to_piece(i) for i in text), *units],
        [*_special_types(), *(_type(processor, i) for i in text), *[TokenType.USER_DEFINED] * len(units)],
        scores=[*(processor.get_score(i) for i in range(vocabulary.text)), *[0.0] * len(units)],
        add_space_prefix=vocabulary.convention == "fast",
    )


def _special_types() -> list[int]:
    return [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]


def _type(processor: "SentencePieceProcessor", piece: int) -> int:
    if processor.is_byte(piece):
        return TokenType.BYTE
    if processor.is_control(piece):
        return TokenType.CONTROL
    return TokenType.UNUSED if processor.is_unused(piece) else TokenType.NORMAL

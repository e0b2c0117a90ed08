"""The tokenizer of a text model, enlarged by the units: its own text tokens in the order and under the names of this project.

In: the directory of a causal language model of transformers with a tokenizer.json that has no units (Llama, Qwen, SmolLM, GPT-NeoX,
OPT). Out: which of its ids each new id of text was (`TextPart`), and a tokenizer.json whose ids are those of `Vocabulary`: <unk>, <s>,
</s>, all other text tokens in their old order, [Text], [Speech], units. <s> is added, </s> is not, as in every tokenizer here.

A text model's own beginning and end of a text become <s> and </s>. Text splits and merges as before, for names, rules and merges are
untouched; only numbers change. As TWIST starts from text models (Hassid et al., arXiv 2305.13009), a run without text keeps none of it.

Where fewer tokens are kept than there are, those that the merges make first stay: byte-pair encoding applies its merges in this order,
so what is written is what it has before the merges that went, and a token that went is written as its parts.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from tinywave_core.checkpoints.bounds import read_json
from tinywave_core.errors import CheckpointError
from tinywave_core.tokenizers.speech_only import build_speech_tokenizer
from tinywave_core.tokenizers.streams import LETTERS
from tinywave_core.tokenizers.text import SPECIALS, save_tokenizer
from tinywave_core.tokenizers.vocabulary import BOS_ID, Vocabulary

SENTENCEPIECE, FAST, VOCABULARY = "tokenizer.model", "tokenizer.json", "vocabulary.json"
_UNIT = b'"[Hu0]"'
_MARKER = re.compile(rf"\[(?:Text|Speech|(?:{LETTERS})[0-9]+)\]")


@dataclass(frozen=True)
class TextPart:
    """The text tokens of an enlarged vocabulary."""

    names: tuple[str, ...]
    """By new id."""
    sources: tuple[int | None, ...]
    """The id in the text model whose embedding each starts with; None: none, its embedding is new."""
    made: tuple[int, ...]
    """When its byte-pair encoding makes each: the number of the first merge that gives it; -1: it is there without a merge."""

    def of_speech_alone(self) -> "TextPart":
        """Without all text but <unk>, <s> and </s>."""
        return self._of(range(len(SPECIALS)))

    def within(self, most: int | None) -> "TextPart":
        """At most so many tokens, the earliest made; None: all. CheckpointError where that is too few to write every text."""
        if most is None or most >= len(self.names):
            return self
        fewest = sum(when < 0 for when in self.made)
        if most < fewest:
            raise CheckpointError(
                f"{most:,} text tokens are too few for this text model: {fewest:,} of its {len(self.names):,} are there without a merge "
                f"(characters, bytes, markers of its own). Set adaptation.most_text_tokens to {fewest:,} or more"
            )
        return self._of(sorted(sorted(range(len(self.made)), key=self.made.__getitem__)[:most]))

    def _of(self, kept: Sequence[int]) -> "TextPart":
        return TextPart(
            tuple(self.names[i] for i in kept), tuple(self.sources[i] for i in kept), tuple(self.made[i] for i in kept)
        )


def is_text_model(folder: Path) -> bool:
    """Whether a directory has a tokenizer.json and no units anywhere: a text model, whose vocabulary has to be enlarged."""
    path = folder / FAST
    if (folder / VOCABULARY).is_file() or not path.is_file():
        return False
    pieces = folder / SENTENCEPIECE
    if pieces.is_file() and b"[Hu0]" in pieces.read_bytes():
        return False
    about = path.stat()
    return not _names_units(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=8)
def _names_units(path: Path, _size: int, _changed: int) -> bool:
    return _UNIT in path.read_bytes()


def read_text_part(folder: Path) -> TextPart:
    """The text tokens of the model in `folder`; CheckpointError where its tokenizer cannot be enlarged."""
    about = (folder / FAST).stat()
    return _text_part(folder, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=8)
def _text_part(folder: Path, _size: int, _changed: int) -> TextPart:
    about = read_json(folder / FAST)
    ids = _ids(about, folder / FAST)
    config = read_json(folder / "config.json")
    edges = {"<unk>": None, "<s>": _edge(config, "bos_token_id", "eos_token_id"), "</s>": _edge(config, "eos_token_id")}
    others = [name for name in sorted(ids, key=ids.__getitem__) if name not in edges]
    # A model with tokens of these names has them where they are; another one has an edge of a text that means the same.
    first = [ids.get(name, edges[name]) for name in SPECIALS.values()]
    made: dict[str, int] = {}
    for when, pair in enumerate(_merges(about)):
        made.setdefault("".join(pair), when)
    names = (*SPECIALS.values(), *others)
    added = {*SPECIALS.values(), *(token["content"] for token in about.get("added_tokens") or [])}
    return TextPart(
        names,
        (*first, *(ids[name] for name in others)),
        tuple(-1 if name in added else made.get(name, -1) for name in names),
    )


def _merges(about: Any) -> list[tuple[str, str]]:
    """The merges of a tokenizer.json in their order, which it writes as pairs or as two words in one string."""
    merges = about["model"].get("merges") or []
    return [(first, second) for first, second in (m.split(" ", 1) if isinstance(m, str) else m for m in merges)]


def _edge(config: Mapping[str, Any], *names: str) -> int | None:
    """The first id that a config gives under these names; of several the first."""
    for name in names:
        value = config.get(name)
        value = value[0] if isinstance(value, list) and value else value
        if type(value) is int:
            return value
    return None


def _ids(about: Any, path: Path) -> dict[str, int]:
    """Every token's id; CheckpointError where the file is of another kind, or cannot take the names of units."""
    model = about.get("model") if isinstance(about, dict) else None
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else None
        raise CheckpointError(
            f"{path} is a tokenizer of kind {kind!r:.40}, which cannot be enlarged by units here; expected byte-pair encoding "
            "(BPE), as Llama, Qwen, SmolLM, GPT-NeoX and OPT have it: choose such a model"
        )
    added = about.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(t, dict) and {"id", "content"} <= t.keys() for t in added):
        raise CheckpointError(f"{path} has added_tokens that are none: copy the file again")
    ids = {**model["vocab"], **{token["content"]: token["id"] for token in added}}
    if not all(isinstance(name, str) and type(i) is int and i >= 0 for name, i in ids.items()):
        raise CheckpointError(f"{path} has a token without a number: copy the file again")
    if len(set(ids.values())) < len(ids):
        raise CheckpointError(f"{path} gives two tokens one number: copy the file again")
    taken = next((name for name in ids if _MARKER.fullmatch(name)), None)
    if taken is not None:
        raise CheckpointError(
            f"{path} has a token {taken} of its own, which is the name of a token of speech: it cannot be enlarged; choose another "
            "text model"
        )
    return ids


def enlarged_tokenizer(folder: Path, vocabulary: Vocabulary) -> Tokenizer:
    """The tokenizer of the text model in `folder` with the ids of `vocabulary`; for one without text, that of speech alone."""
    if vocabulary.is_speech_only:
        return build_speech_tokenizer(vocabulary)
    part, about = read_text_part(folder).within(vocabulary.text), read_json(folder / FAST)
    require_as_tokenized(folder, part, vocabulary)
    numbers = {name: i for i, name in enumerate((*part.names, *vocabulary.names()))}
    known = {token["content"]: token for token in about.get("added_tokens") or []}
    kept = set(part.names)
    about["model"]["merges"] = [pair for pair in _merges(about) if {*pair, "".join(pair)} <= kept]
    about["model"]["vocab"] = numbers
    about["added_tokens"] = [
        *(known.get(name, _added(name, special=True)) | {"id": numbers[name]} for name in SPECIALS.values()),
        *(token | {"id": numbers[name]} for name, token in known.items() if name not in SPECIALS.values()),
        *(_added(name, special=False) | {"id": numbers[name]} for name in vocabulary.names()),
    ]
    # What it put around a text was in the old numbers; <s> alone goes there now.
    about |= {"post_processor": None, "truncation": None, "padding": None}
    tokenizer = _opened(about, folder)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS_ID)]
    )
    found = tokenizer.get_vocab()
    wrong = next((name for name, i in numbers.items() if found.get(name) != i), None)
    if wrong is not None:
        raise CheckpointError(
            f"{folder / FAST} cannot be enlarged: {wrong} would have the id {found.get(wrong)} and not {numbers[wrong]}; choose another "
            "text model"
        )
    return tokenizer


def require_as_tokenized(folder: Path, part: TextPart, vocabulary: Vocabulary) -> None:
    """CheckpointError where the text tokens are not as many as when the speech was tokenized."""
    if len(part.names) != vocabulary.text:
        raise CheckpointError(
            f"{folder / FAST} has {len(part.names)} tokens of text, the vocabulary {vocabulary.text}: the tokenizer was changed since "
            "the speech was tokenized; run tokenization again"
        )


def _added(name: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": name, "special": special, **flags}


def _opened(about: dict[str, Any], folder: Path) -> Tokenizer:
    from tinywave_core.tokenizers.directory import opening

    with opening(folder / FAST):
        return Tokenizer.from_str(json.dumps(about))


def write_enlarged_tokenizer(source: Path, folder: Path, vocabulary: Vocabulary) -> None:
    """Give the model in `folder` the enlarged tokenizer of the text model in `source`, and the vocabulary."""
    save_tokenizer(enlarged_tokenizer(source, vocabulary), folder)
    (folder / VOCABULARY).write_text(json.dumps(vocabulary.to_json()), encoding="utf-8")

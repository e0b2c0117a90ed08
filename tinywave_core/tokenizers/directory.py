"""The tokenizer of a model directory: which vocabulary it has, and how it goes into another directory.

Directories of this project say so in vocabulary.json; SpiritLM's have a sentencepiece `tokenizer.model` with the unit pieces
inside; others a `tokenizer.json` with the unit tokens after the text.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tinywave_core.checkpoints.bounds import check_tokenizer_config, read_json
from tinywave_core.checkpoints.pieces import fault_of_pieces
from tinywave_core.errors import CheckpointError, TokenError
from tinywave_core.tokenizers.enlarged import enlarged_tokenizer, is_text_model
from tinywave_core.tokenizers.speech_only import build_speech_tokenizer
from tinywave_core.tokenizers.streams import STREAMS
from tinywave_core.tokenizers.text import save_tokenizer
from tinywave_core.tokenizers.vocabulary import Convention, Vocabulary

VOCABULARY, SENTENCEPIECE, FAST = "vocabulary.json", "tokenizer.model", "tokenizer.json"
_FAST_FILES = (FAST, "tokenizer_config.json", "special_tokens_map.json")


def read_directory(folder: Path, convention: Convention = "slow") -> Vocabulary:
    """Vocabulary of the model in `folder`; `convention` is how a tokenizer.model is to be used (tokenizer.json has its own)."""
    # Ours comes first: it alone tells the rates, and that a tokenizer.json beside it gives the slow ids.
    if (folder / VOCABULARY).is_file():
        try:
            return Vocabulary.from_json(read_json(folder / VOCABULARY))
        except TokenError as error:
            raise CheckpointError(f"{folder / VOCABULARY}: {error}. Copy the directory again") from error
    rows = _rows(folder)
    # Before tokenizer.json: SpiritLM's prompts are exact only in the slow form, and the fast one puts ▁ in other places.
    if (folder / SENTENCEPIECE).is_file():
        from tinywave_core.tokenizers.sentencepiece_text import read_vocabulary

        vocabulary = read_vocabulary(folder / SENTENCEPIECE, rows)
        return vocabulary if convention == "slow" else replace(vocabulary, boundary=None)
    if (folder / FAST).is_file():
        return _of_fast(folder / FAST, rows)
    raise CheckpointError(
        f"{folder} has no tokenizer: a text model needs its {FAST} (`AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` of "
        f"transformers writes one), a speech language model {SENTENCEPIECE} or {FAST} with the unit tokens in it"
    )


def load_tokenizer(folder: Path, vocabulary: Vocabulary) -> Tokenizer:
    """The text tokenizer of the model in `folder`, in the convention of `vocabulary`; of a text model, enlarged by the units."""
    if is_text_model(folder):
        return enlarged_tokenizer(folder, vocabulary)
    # With a vocabulary.json the directory was written here: its tokenizer.json gives the slow ids and was checked when it was written.
    if (folder / SENTENCEPIECE).is_file() and not (folder / VOCABULARY).is_file() and vocabulary.convention == "slow":
        from tinywave_core.tokenizers.sentencepiece_text import build_exact_tokenizer

        return build_exact_tokenizer(folder / SENTENCEPIECE)
    if (folder / FAST).is_file():
        return open_fast(folder / FAST)
    return _from_pieces(folder).backend_tokenizer


def open_fast(path: Path) -> Tokenizer:
    """A tokenizer.json; CheckpointError names it where it is damaged, or deeper or larger than any is."""
    # A damaged file can be of any size and depth: both are bounded before the library reads it.
    read_json(path)
    with opening(path):
        tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()  # a file can ask for texts of any length
    tokenizer.no_truncation()
    return tokenizer


def open_as_transformers(folder: Path) -> Any:
    """The tokenizer that AutoTokenizer finds in a directory: files of that folder alone, none of its code."""
    from transformers import AutoTokenizer

    check_tokenizer_config(folder)
    for path in sorted(folder.glob("*.json")):
        read_json(path)
    with opening(folder):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _from_pieces(folder: Path) -> Any:
    """transformers' fast tokenizer of a tokenizer.model."""
    from transformers import LlamaTokenizerFast

    check_tokenizer_config(folder)
    if fault := fault_of_pieces(folder / SENTENCEPIECE):
        raise CheckpointError(f"{folder / SENTENCEPIECE} is no sentencepiece model ({fault}): copy it again")
    with opening(folder):
        return LlamaTokenizerFast.from_pretrained(folder, local_files_only=True)


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """The libraries of tokenizers fail on damaged files with every kind of error, and with panics, which are no `Exception`s."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if isinstance(error, MemoryError):  # says nothing about the file
            raise
        raise CheckpointError(f"{path} cannot be read as a tokenizer ({error!s:.300}): copy it again") from error


def copy_tokenizer(source: Path, folder: Path, vocabulary: Vocabulary) -> None:
    """Give the model in `folder` the tokenizer of the one in `source`, in the convention of `vocabulary`, and the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    has_pieces = (source / SENTENCEPIECE).is_file()
    if has_pieces and not (source / VOCABULARY).is_file():
        _write_from_pieces(source, folder, vocabulary)
    else:
        for name in (*_FAST_FILES, SENTENCEPIECE):
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    (folder / VOCABULARY).write_text(json.dumps(vocabulary.to_json()), encoding="utf-8")


def write_speech_tokenizer(folder: Path, vocabulary: Vocabulary) -> None:
    """Give the model in `folder` the tokenizer of a vocabulary without text, and the vocabulary."""
    save_tokenizer(build_speech_tokenizer(vocabulary), folder)
    (folder / VOCABULARY).write_text(json.dumps(vocabulary.to_json()), encoding="utf-8")


def _write_from_pieces(source: Path, folder: Path, vocabulary: Vocabulary) -> None:
    if vocabulary.convention == "slow":
        from tinywave_core.tokenizers.sentencepiece_text import write_release_tokenizer

        write_release_tokenizer(source, folder)
        return
    _from_pieces(source).save_pretrained(folder)


def _rows(folder: Path) -> int:
    try:
        return int(read_json(folder / "config.json")["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} has no vocab_size: expected the config of a Llama model"
        ) from error


def _of_fast(path: Path, rows: int) -> Vocabulary:
    ids = open_fast(path).get_vocab()
    if not {"[Text]", "[Speech]", "[Hu0]"} <= ids.keys():
        raise CheckpointError(
            f"{path} has no [Text], [Speech] and [Hu…] tokens: it is not the tokenizer of a speech language model"
        )
    hubert, pitch, style = (
        sum(name.startswith(f"[{kind}") for name in ids) for kind in (stream.letters for stream in STREAMS)
    )
    vocabulary = Vocabulary(ids["[Text]"], hubert, pitch, style, padded=rows)
    if vocabulary.tokens > rows:
        raise CheckpointError(
            f"{path} has {vocabulary.tokens:,} tokens but the model has {rows:,} rows only: they are not of one model"
        )
    # From here on ids are computed from sizes and never looked up: one unit out of its place would be taken for another.
    wrong = [name for i, name in enumerate(vocabulary.names()) if ids.get(name) != vocabulary.text + i]
    if wrong:
        raise CheckpointError(
            f"{path} gives {wrong[0]} the id {ids.get(wrong[0])}: expected [Text], [Speech], [Hu…], [Pi…], [St…] one after "
            "the other"
        )
    return vocabulary

"""Plain-text corpora -> documents -> sequences of ids, and which of them make up a share of the training tokens.

A document is a paragraph of a .txt (what blank lines keep apart), the field `text` of a line of a .jsonl, or a row of the
column `text` of a .parquet; a folder is read recursively, in the order of its paths. Its id is a hash of its text, so
where it lies and in which company does not matter. What is no document is told to `reject` with its place, and reading
goes on.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from tinywave_core.errors import ConfigError, SourceError
from tinywave_core.sequences.interleaving import EncodeText
from tinywave_core.storage import foreign_parquet
from tinywave_core.tokenizers.vocabulary import EOS_ID, Ids, Vocabulary

LONGEST = 1 << 24  # bytes of a document or line: a file without line breaks must not fill the memory
# Tokenizers take these for tokens wherever they stand, and a text must not end a sequence or change its modality.
_TOKEN = re.compile(r"\[(?:Text|Speech|(?:Hu|Pi|St)[0-9]{1,4})\]|</?s>|<unk>")


@dataclass(frozen=True)
class Document:
    """One text to train on."""

    id: str
    """SHA-256 of the text; 32 hex digits."""
    text: str
    source: str
    """File, and line or row counted from 1: "stories/a.jsonl:17"."""


@dataclass(frozen=True)
class Rejected:
    """What could not be read as a document."""

    source: str
    """File, and line or row where there is one."""
    reason: str


Reject = Callable[[Rejected], object]


def read_documents(path: Path, reject: Reject) -> Iterator[Document]:
    """All documents of a file or folder, duplicates included; SourceError where there is no text file at all."""
    files = _files(path)
    return (document for file, name in files for document in _documents(file, name, reject))


def text_ids(document: Document, vocabulary: Vocabulary, encode_text: EncodeText) -> Ids:
    """<s> [Text] text </s>; slow: <s> ▁ [Text] text </s>."""
    prompt = vocabulary.prompt_ids(vocabulary.text_marker)
    return np.array([*prompt, *encode_text(document.text), EOS_ID], np.int64)


def choose_for_share(tokens: Mapping[str, int], speech_tokens: int, share: float, seed: int) -> list[str]:
    """Ids of documents until text is `share` of all tokens, in the order of a hash of (seed, id); all if there are too few.

    `tokens` maps document ids to their lengths. With more speech, or a larger share, the same choice goes on. New documents
    slip in between: of the old ones, a first part of the old choice stays.
    """
    if not 0 <= share < 1:
        raise ConfigError(
            f"the share of text is {share}; expected 0 to less than 1: with 1 there would be no speech left"
        )
    wanted = speech_tokens * share / (1 - share)
    chosen, taken = [], 0
    for document in sorted(tokens, key=lambda document: hashlib.sha256(f"{seed}/{document}".encode()).digest()):
        if taken >= wanted:
            break
        chosen.append(document)
        taken += tokens[document]
    return chosen


def lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Lines of a file with their numbers from 1, without their ends; None for one longer than LONGEST."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            is_long = len(line) > LONGEST and not line.endswith(b"\n")
            rest = line
            while is_long and rest and not rest.endswith(b"\n"):
                rest = file.readline(LONGEST)
            yield number, None if is_long else line.rstrip(b"\r\n")


def _files(path: Path) -> list[tuple[Path, str]]:
    """Text files at or below `path` with the names by which they are reported; hidden files and links are left alone."""
    if path.is_file() and path.suffix.lower() in _READERS:
        return [(path, path.name)]
    if not path.is_dir():
        found = f"is a {path.suffix or 'file without a suffix'}" if path.is_file() else "does not exist"
        raise SourceError(f"the text corpus {path} {found}; expected a folder or a file: {', '.join(_READERS)}")
    names = {file: file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() in _READERS}
    seen = [
        (file, name.as_posix())
        for file, name in names.items()
        if file.is_file() and not file.is_symlink() and not any(part.startswith(".") for part in name.parts)
    ]
    if not seen:
        raise SourceError(f"the text corpus {path} has no {', '.join(_READERS)} in it")
    return sorted(seen, key=lambda pair: pair[1])


@dataclass(frozen=True)
class _Fault:
    """In place of a text: why there is none."""

    reason: str


# Line or row, and what is there.
_Rows = Iterator[tuple[int, str | _Fault]]


def _documents(path: Path, name: str, reject: Reject) -> Iterator[Document]:
    try:
        for number, found in _READERS[path.suffix.lower()](path):
            source = f"{name}:{number}" if number else name
            text = _checked(found)
            if isinstance(text, _Fault):
                reject(Rejected(source, text.reason))
            else:
                yield Document(hashlib.sha256(text.encode()).hexdigest()[:32], text, source)
    except (OSError, pa.ArrowException) as error:
        reject(Rejected(name, f"the file cannot be read: {error}"))


def _checked(found: str | _Fault) -> str | _Fault:
    if isinstance(found, _Fault):
        return found
    text = found.strip()
    if not text:
        return _Fault("the text is empty")
    if "\0" in text or not _is_encodable(text):
        return _Fault("the text has characters that are none: zero bytes or halves of surrogate pairs")
    if token := _TOKEN.search(text):
        return _Fault(f"{token[0]} stands in the text: expected words, not tokens")
    if len(text) > LONGEST:
        return _TOO_LONG
    return text


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decoded(raw: bytes) -> str | _Fault:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _Fault(f"expected UTF-8: {error}")


def _of_txt(path: Path) -> _Rows:
    """Paragraphs, by the numbers of their first lines; their line breaks stay."""
    held: list[bytes] = []
    first = size = 0
    for number, line in chain(lines(path), [(0, b"")]):
        if line is None or line.strip():
            first = first if size else number
            size += LONGEST + 1 if line is None else len(line) + 1
            if line is not None and size <= LONGEST:
                held.append(line)
        elif size:
            yield first, _decoded(b"\n".join(held)) if size <= LONGEST else _TOO_LONG
            held, size = [], 0


def _of_jsonl(path: Path) -> _Rows:
    for number, line in lines(path):
        if line is None:
            yield number, _TOO_LONG
        elif line.strip():
            yield number, _field(line)


def _field(line: bytes) -> str | _Fault:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _Fault(f"expected JSON: {error}")
    text = row.get("text") if isinstance(row, dict) else None
    return text if isinstance(text, str) else _Fault('expected an object with a string under "text"')


def _of_parquet(path: Path) -> _Rows:
    schema = foreign_parquet.schema(path)
    column = schema.field("text").type if "text" in schema.names else None
    if column not in (pa.string(), pa.large_string()):
        yield 0, _Fault(f"expected a column text of strings, found the columns {', '.join(schema.names)}")
        return
    number = 0
    for batch in foreign_parquet.batches(path, ["text"]):
        for value in batch.column(0):
            number += 1
            yield number, _value(value)


def _value(value: pa.Scalar) -> str | _Fault:
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:
        return _Fault(f"expected UTF-8: {error}")
    return _Fault("the row has no text") if text is None else text


_TOO_LONG = _Fault(f"the text is longer than {LONGEST} bytes")
_READERS: dict[str, Callable[[Path], _Rows]] = {".txt": _of_txt, ".jsonl": _of_jsonl, ".parquet": _of_parquet}

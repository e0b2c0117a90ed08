"""`tinywave slamkit`: the tokens of a store as slamkit's features.jsonl and tokens.jsonl."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tasks import terminal
from tinywave_core.errors import ConfigError, MissingInputError
from tinywave_core.sequences.interleaving import text_decoder
from tinywave_core.sequences.slamkit import write_features, write_tokens
from tinywave_core.storage.schemas import TOKENS_FILE
from tinywave_core.storage.shards import rows_of
from tinywave_core.storage.store import Artifact, Store
from tinywave_core.tokenizers.directory import open_fast, read_directory
from tinywave_core.tokenizers.speech import Streams
from tinywave_core.tokenizers.text import build_tokenizer
from tinywave_core.tokenizers.vocabulary import Ids, Vocabulary


def write_slamkit(root: str, artifact: str, folder: str) -> int:
    """Write both files of a `tokens` artifact; text needs the tokenizer of bytes or of a teacher trained on these tokens."""
    store = Store(root, create=False)
    tokens = store.resolve(artifact)
    if tokens.part != "tokens":
        raise MissingInputError(
            f"{tokens.id} is of the part {tokens.part!r}; expected a `tokens` artifact (`tinywave inspect --root {root}`)"
        )
    vocabulary = Vocabulary.from_json(tokens.summary["vocabulary"])
    out = Path(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be made a folder ({error}): pass the name of one, or of a new one") from error
    write_features(
        out / "features.jsonl", ((row["utterance_id"], Streams.of_row(row)) for row in _rows(tokens) if row["units"])
    )
    sequences: Iterator[tuple[str, Ids]] = (
        (row["utterance_id"], np.asarray(row["ids"], np.int64)) for row in _rows(tokens)
    )
    write_tokens(out / "tokens.jsonl", sequences, vocabulary, text_decoder(_tokenizer(store, vocabulary), vocabulary))
    terminal.say(f"{out / 'features.jsonl'}\n{out / 'tokens.jsonl'}")
    return 0


def _rows(tokens: Artifact) -> Iterator[dict[str, Any]]:
    for shard in tokens.summary["shards"]:
        yield from rows_of(tokens.store.find(shard["id"]).path(TOKENS_FILE))


def _tokenizer(store: Store, vocabulary: Vocabulary) -> Any:
    """The text tokenizer: bytes for a fresh teacher's vocabulary, else that of a teacher in the store."""
    if vocabulary.is_of_bytes:
        return build_tokenizer(vocabulary)
    for artifact in map(store.find, store.artifact_ids("adaptation")):
        if artifact.part == "teacher" and read_directory(artifact.path("teacher")) == vocabulary:
            return open_fast(artifact.path("teacher") / "tokenizer.json")
    raise MissingInputError(
        f"{store.url} has no teacher with the vocabulary of these tokens, whose tokenizer spells their text: run adaptation first"
    )

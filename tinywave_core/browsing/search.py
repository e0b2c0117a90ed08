"""What a few characters find: artifacts by id, part or stage, utterances by id, recording or speaker, files that gave no speech.

Shards are read a column at a time and let go; the search ends when enough is found.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tinywave_core.audio.utterances import FILES_FILE, UTTERANCES_FILE
from tinywave_core.browsing.holdings import Entry, Holdings, Reader
from tinywave_core.browsing.tables import opened, rows_where
from tinywave_core.errors import TinyWaveError

MOST = 50
"""Results of a kind."""
SHORTEST = 2
"""Characters that are searched for."""
_COLUMNS = ("utterance_id", "path", "speaker", "transcript", "split", "num_samples")


@dataclass(frozen=True)
class Result:
    """What was found; one more than MOST of a kind says that there are others."""

    artifacts: Sequence[Entry]
    utterances: Sequence[dict[str, Any]]
    files: Sequence[dict[str, Any]]
    unread: Sequence[str]
    """Shards that could not be searched, with the reason."""


def search(reader: Reader, holdings: Holdings, query: str) -> Result:
    """Everything that has these characters in its name; an utterance that several shards hold is found once, with all of them."""
    text = query.strip().lower()
    if len(text) < SHORTEST:
        return Result([], [], [], [])
    artifacts = [e for e in holdings.of() if e.id.startswith(text) or text in e.label or _digest(e).startswith(text)]
    unread: list[str] = []
    shards = [entry.id for entry in holdings.of("ingestion", "shard")]
    utterances = _each_once(_utterances(reader, shards, text, unread))
    files = list(islice(_files(reader, shards, text, unread), MOST + 1))
    return Result(artifacts[: MOST + 1], utterances, files, list(dict.fromkeys(unread)))


def _digest(entry: Entry) -> str:
    return entry.id.split("/")[1]


def _each_once(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """By id, with the newest shard and the `others` that hold it too: recordings that were taken in twice, with other settings."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        first = found.setdefault(row["utterance_id"], row | {"others": []})
        if first["shard"] != row["shard"]:
            first["others"].append(row["shard"])
        if len(found) > MOST:
            break
    return list(found.values())


def _utterances(reader: Reader, shards: Sequence[str], text: str, unread: list[str]) -> Iterator[dict[str, Any]]:
    def keep(batch: pa.RecordBatch) -> Any:
        by_id = pc.starts_with(batch["utterance_id"], text)
        by_name = pc.match_substring(batch["path"], text, ignore_case=True)
        by_speaker = pc.fill_null(pc.equal(pc.utf8_lower(batch["speaker"]), text), fill_value=False)
        return pc.or_(pc.or_(by_id, by_name), by_speaker)

    yield from _rows(reader, shards, UTTERANCES_FILE, _COLUMNS, keep, unread)


def _files(reader: Reader, shards: Sequence[str], text: str, unread: list[str]) -> Iterator[dict[str, Any]]:
    def keep(batch: pa.RecordBatch) -> Any:
        by_name = pc.match_substring(batch["path"], text, ignore_case=True)
        return pc.and_(pc.not_equal(batch["status"], "accepted"), by_name)

    yield from _rows(reader, shards, FILES_FILE, ("path", "status", "reason", "detail"), keep, unread)


def _rows(
    reader: Reader, shards: Sequence[str], name: str, columns: Sequence[str], keep: Any, unread: list[str]
) -> Iterator[dict[str, Any]]:
    for shard in shards:
        try:
            with opened(reader.artifact(shard), name) as file:
                for row in rows_where(file, columns, keep):
                    yield {"shard": shard, **row}
        except TinyWaveError as error:  # the others are searched all the same, and this one is named
            unread.append(str(error))

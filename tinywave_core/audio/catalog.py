"""The catalog of a corpus: a numbered log that says which content was taken from the source, and in which shards.

A record has `files` (path, bytes, stamp, SHA-256, and which of the record's shards holds the content, or None) and `shards`
(artifact ids). Content is known by its SHA-256, so renamed, copied or touched files are never taken again. What lay under a
path before other content did is replaced: people who save a better take under the old name do not want both.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tinywave_core.audio.source import SourceFile
from tinywave_core.storage.forgotten import forgotten
from tinywave_core.storage.store import Log, Store

Row = dict[str, Any]
Place = tuple[str, str]  # source (the first part of a stamp) and path in it


@dataclass(frozen=True)
class Catalog:
    """The catalog of the corpus that `key` names."""

    store: Store = field(repr=False)
    key: str

    @cached_property
    def log(self) -> Log:
        """Its records in the store."""
        return self.store.log(f"catalog/{self.key}")

    @property
    def is_empty(self) -> bool:
        return not self.log.records()

    @cached_property
    def forgotten(self) -> frozenset[str]:
        """Content that was removed for good, whichever corpus had it."""
        return forgotten(self.store)

    def shard_ids(self) -> list[str]:
        """All shards that were ever made, in that order."""
        return list(dict.fromkeys(shard for record in self.log.records() for shard in record["shards"]))

    def contents(self) -> dict[str, set[str]]:
        """Digests of the files in each shard."""
        contents: dict[str, set[str]] = {}
        for record in self.log.records():
            for file in record["files"]:
                if file["shard"] is not None:
                    contents.setdefault(record["shards"][file["shard"]], set()).add(file["sha256"])
        return contents

    def digests(self) -> dict[tuple[str, int, str], str]:
        """Digest by path, size and stamp: files that look the same need not be read again."""
        return {(f["path"], f["bytes"], f["stamp"]): f["sha256"] for r in self.log.records() for f in r["files"]}

    def current(self, seen: Iterable[Row] = ()) -> dict[Place, str]:
        """Digest of what lay at each place when it was last looked at; `seen` are stat records of today."""
        return {place_of(row): row["sha256"] for row in self._sightings(seen)}

    def replaced(self, seen: Iterable[Row] = ()) -> dict[str, str]:
        """Digests of content under whose names other content lies today, and of that content.

        Content that lies under another name too is not replaced, nor is content whose files are only gone.
        """
        seen = list(seen)
        current = self.current(seen)
        last = {row["sha256"]: place_of(row) for row in self._sightings(seen)}
        # In the source where it was seen last: a folder that was moved is another source, with the same names.
        held = {digest for (source, _), digest in current.items() if last[digest][0] == source}
        return {digest: current[place] for digest, place in last.items() if digest not in held}

    def _sightings(self, seen: Iterable[Row]) -> Iterator[Row]:
        for record in self.log.records():
            yield from record["files"]
        yield from seen

    def usable_shards(self, made: Iterable[str]) -> list[str]:
        """Shards without any forgotten recording, and those that were `made` now, which it need not have."""
        contents = self.contents()
        shards = dict.fromkeys([*self.shard_ids(), *made])
        return [shard for shard in shards if not contents.get(shard, set()) & self.forgotten]

    def known_and_lost(self) -> tuple[set[str], list[list[str]]]:
        """Content that whole shards hold, and the content of each shard that is lost and not replaced.

        A shard that holds a forgotten recording counts as lost; what else it held goes into a new one. Replaced content is not
        asked for: its files are gone.
        """
        contents, gone = self.contents(), self.forgotten | self.replaced().keys()
        sound = [shard for shard, digests in contents.items() if not digests & self.forgotten]
        whole = {shard.id for shard in self.store.find_all(sound, "shard") if shard.complete}
        known = set().union(*(contents[shard] for shard in whole))
        lost = (tuple(sorted(contents[shard] - known - gone)) for shard in contents if shard not in whole)
        return known, [list(digests) for digests in dict.fromkeys(lost) if digests]

    def remember(self, seen: Sequence[Row], made: Sequence[tuple[str, Sequence[tuple[SourceFile, str]]]]) -> None:
        """Append what this run took: stat records, and shards with their files and digests.

        If another run was faster, what it did not append.
        """
        while True:
            listed = set(self.shard_ids())
            new = [(shard, files) for shard, files in made if shard not in listed]
            record = {"files": _file_rows(seen, [files for _, files in new]), "shards": [shard for shard, _ in new]}
            if not record["files"] and not new:
                return
            try:
                self.log.append(record)
                return
            except FileExistsError:  # another run appended first: what it took is left out of the next try
                continue


def _file_rows(seen: Sequence[Row], shards: Sequence[Sequence[tuple[SourceFile, str]]]) -> list[Row]:
    shard_of = {digest: number for number, files in enumerate(shards) for _, digest in files}
    hashed = {row["sha256"] for row in seen}
    rows = [{**row, "shard": shard_of.get(row["sha256"])} for row in seen]
    # Content of a lost shard that was made again under another id: its stat is known already, its shard is not.
    again = [(file, digest) for files in shards for file, digest in files if digest not in hashed]
    return rows + [{**stat_row(file, digest), "shard": shard_of[digest]} for file, digest in again]


def stat_row(file: SourceFile, digest: str) -> Row:
    """By what a file is recognised without reading it, and its content."""
    return {"path": file.path, "bytes": file.bytes, "stamp": file.stamp, "sha256": digest}


def place_of(row: Row) -> Place:
    """Where a stat record says that its content lay."""
    return row["stamp"].partition(".")[0], row["path"]

"""Forget: remove one recording and everything made from it; ingestion never takes it in again.

A recording is known by the SHA-256 of its file; files with the same decoded samples are the same recording. What stays of
it is the digest in the log `forgotten`, beside the ids of what was removed with it. The order is such that a run after an interruption is safe and `forget` can go on.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from tinywave_core.errors import DamagedArtifactError, MissingInputError
from tinywave_core.storage.care.census import (
    ASIDE,
    POINTERS,
    Census,
    Folder,
    Records,
    dependants,
    dependants_first,
    labels_of_runs,
    pointed_at,
    report_of,
)
from tinywave_core.storage.care.verify import work_folders
from tinywave_core.storage.forgotten import FORGOTTEN, forgotten, removed_with
from tinywave_core.storage.records import seal
from tinywave_core.storage.shards import rows_of
from tinywave_core.storage.store import Store
from tinywave_core.storage.uploads import WORK

FILES_FILE, LABELS_FILE = "files.parquet", "labels.parquet"
Row = dict[str, Any]


@dataclass(frozen=True)
class Traces:
    """A recording and everything made from it."""

    digests: tuple[str, ...]  # of its file and of every file with the same samples
    paths: tuple[str, ...]
    artifacts: tuple[Folder, ...]  # dependants before inputs
    pins: tuple[str, ...]  # logs that pin or publish one of those
    reports: tuple[str, ...]  # reports of runs that used them: these hold pictures and sound
    neighbours: int  # further files in the same shards: the next run needs them in its source


def find_traces(census: Census, name: str) -> Traces:
    """What was made from the recording called `name`: a path, a file name, or a SHA-256 or its first 8 digits or more."""
    rows = _Files(census)
    digests = _digests(census.store, name, rows)
    # The same speech in another file format is the same recording to whoever wants it forgotten.
    samples = {row["recording_id"] for row in rows if row["sha256"] in digests} - {None}
    digests |= {row["sha256"] for row in rows if row["recording_id"] in samples}

    own = [row for row in rows if row["sha256"] in digests]
    # The shard itself may have gone in a call that was interrupted: the catalog still names it.
    reached = dependants(census.artifacts, {row["shard"] for row in own if row["shard"]})
    paths = tuple(sorted({row["path"] for row in own if row["path"]}))
    reached |= set(_naming(census, paths))
    holding = {row["shard"] for row in own if row["in_table"]}
    neighbours = {row["sha256"] for i in sorted(holding) for row in _rows(census, i)} - digests
    return Traces(
        tuple(sorted(digests)),
        paths,
        tuple(census.artifacts[i] for i in dependants_first(census.artifacts, reached)),
        tuple(log.name for log in census.of(*POINTERS) if any(reached & {*pointed_at(r)} for r in log.readable)),
        tuple(_reports(census, reached)),
        len(neighbours),
    )


def forget(census: Census, traces: Traces) -> None:
    """Remove it all. Run it under the store's lock; after an interruption, run it again with the digest."""
    store = census.store
    # First of all: should this be stopped, no run can take the recording in again meanwhile.
    removed = {folder.id for folder in traces.artifacts}
    if set(traces.digests) - forgotten(store) or removed - removed_with(store):
        store.log(FORGOTTEN).append({"sha256": list(traces.digests), "removed": sorted(removed)})
    # Before the artifacts: a run must not follow a pin to something that is gone.
    for name in traces.pins:
        _rewrite(store, census.logs[name], [r for r in census.logs[name].readable if not removed & {*pointed_at(r)}])
    for name in traces.reports:
        store.delete(name)
    # Checkpoints and what was set aside do not record which recordings they hold.
    for work in work_folders(store):
        store.check_lease()
        shutil.rmtree(work)
    if not store.local:
        store.delete(WORK)
    # Indices go with their artifacts; of artifacts that are long gone there may be some too.
    shutil.rmtree(store.index_folder("any/any").parent, ignore_errors=True)
    store.delete(ASIDE)
    for folder in traces.artifacts:
        store.discard(folder.id)
    # Last: until the artifacts are gone the catalog is how an interrupted call finds them again.
    for log in census.of("catalog"):
        _scrub(store, log, set(traces.digests))


# Finding it ------------------------------------------------------------------------------------------------------


def _shards(census: Census) -> list[str]:
    return [i for i, f in census.artifacts.items() if f.manifest is not None and (f.stage, f.manifest.part) == AUDIO]


AUDIO = ("ingestion", "shard")


@dataclass(frozen=True)
class _Files:
    """Every file of every shard, then of the catalogs, read anew each time that it is gone through: path, sha256, recording_id, and the
    shard that holds it."""

    census: Census

    def __iter__(self) -> Iterator[Row]:
        for artifact_id in _shards(self.census):
            for row in _rows(self.census, artifact_id):
                yield row | {"shard": artifact_id, "in_table": True}
        for log in self.census.of("catalog"):
            for record in log.readable:
                yield from _catalog_rows(record)


def _rows(census: Census, artifact_id: str) -> Iterator[Row]:
    try:
        path = census.store.find(artifact_id).path(FILES_FILE)
    except (DamagedArtifactError, MissingInputError) as error:
        raise DamagedArtifactError(
            f"{artifact_id} is damaged, so nobody knows which recordings it holds; nothing was removed: run `tinywave "
            "repair` first"
        ) from error
    yield from rows_of(path, ["path", "sha256", "recording_id"])


def _catalog_rows(record: Row) -> Iterator[Row]:
    for file in record["files"]:
        shard = None if file["shard"] is None else record["shards"][file["shard"]]
        yield {"path": file["path"], "sha256": file["sha256"], "recording_id": None, "shard": shard, "in_table": False}


def _digests(store: Store, name: str, rows: Iterable[Row]) -> set[str]:
    """The digest of the one recording called `name`."""
    if len(name) >= 8 and (digests := {d for d in forgotten(store) if d.startswith(name.lower())}):
        return digests  # of a call that was interrupted
    by_digest, by_name, by_path = set[str](), set[str](), set[str]()
    for row in rows:
        digest, path = row["sha256"], row["path"]
        by_digest |= {digest} if len(name) >= 8 and digest.startswith(name.lower()) else set()
        by_name |= {digest} if path == name else set()
        by_path |= {digest} if path and _is_path(name, path) else set()
    digests = by_digest or by_name or by_path
    if not digests:
        raise MissingInputError(
            f"no recording in {store.url} is called {name!r}; expected its path in the source, its file name or its "
            "SHA-256: see `tinywave lineage`"
        )
    if len(digests) > 1:
        paths = sorted({f"{row['sha256'][:12]}…  {row['path']}" for row in rows if row["sha256"] in digests})
        choices = "\n  ".join(paths[:12])
        raise MissingInputError(f"{len(digests)} recordings are called {name!r}; name one of:\n  {choices}")
    return digests


def _is_path(name: str, path: str) -> bool:
    """Whether what a person typed means this path below a source."""
    return path.endswith(f"/{name}") or name.endswith(f"/{path}")


def _naming(census: Census, paths: Sequence[str]) -> Iterator[str]:
    """What tells of labels by the names of these files. Nothing is made from it, and the next run makes it anew."""
    names = {PurePosixPath(path).stem for path in paths}
    for artifact_id in sorted(labels_of_runs(census.artifacts)):
        artifact = census.store.find(artifact_id)
        listed = (row["place"] for row in rows_of(artifact.path(LABELS_FILE), ["place"]))
        firsts = [origin["first"] for origin in artifact.summary["origins"]]
        if any(name in place for place in chain(firsts, listed) for name in names):
            yield artifact_id


def _reports(census: Census, reached: set[str]) -> Iterator[str]:
    for log in census.of("runs"):
        for run in log.readable:
            used = {i for ids in run["artifacts"].values() for i in ids} | set(run.get("outputs", {}).values())
            if used & reached and run.get("report"):
                yield report_of(run)


# Removing it -----------------------------------------------------------------------------------------------------


def _scrub(store: Store, catalog: Records, digests: set[str]) -> None:
    """Write the catalog's records again without the rows of these files."""
    for index, record in enumerate(catalog.records):
        if record is None:
            continue
        files = [file for file in record["files"] if file["sha256"] not in digests]
        if len(files) < len(record["files"]):
            store.replace(catalog.path(index), seal({**record, "files": files}))


def _rewrite(store: Store, log: Records, records: Sequence[Row]) -> None:
    """Replace a log by `records`; it can be counted up after each step."""
    for index, record in enumerate(records):
        if log.records[index] != record:
            store.replace(log.path(index), seal(record))
    # From the end, since logs are read by counting up: a gap would hide what comes after.
    for index in range(len(log.records) - 1, len(records) - 1, -1):
        store.delete(log.path(index))

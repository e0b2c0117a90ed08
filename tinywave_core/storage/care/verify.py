"""Verify: check everything that a reader relies on; faults come out as findings, and nothing is changed.

Every file of every artifact is read once, in blocks, and compared with size and SHA-256 in its manifest; manifests, records of
logs and `store.json` with their own digests, and so are checkpoints of unfinished work. Pins and catalogs are followed. Runs are
history: what they name may have been collected since, but a report that is there must be as it was written.
"""

import contextlib
import errno
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tinywave_core.counts import count
from tinywave_core.storage.care.census import (
    NEWER,
    POINTERS,
    Census,
    Folder,
    Records,
    pointed_at,
    report_of,
    shard_contents,
)
from tinywave_core.storage.care.unfinished import damaged_uploads, uploaded_bytes
from tinywave_core.storage.forgotten import FORGOTTEN
from tinywave_core.storage.indices import damaged_indices
from tinywave_core.storage.records import RecordFault, unseal
from tinywave_core.storage.store import ABOUT, FileEntry, Store, sha256_of
from tinywave_core.storage.uploads import STATE_FILE

BLOCK_BYTES = 8 << 20
_READERS = 4  # files read at a time; each holds one or two blocks

# What a finding can be, and what a person does about it.
ADVICE = {
    "missing file": "tinywave repair, then run",
    "wrong size": "tinywave repair, then run",
    "wrong digest": "tinywave repair, then run",
    "unreadable file": "check the disk; tinywave repair, then run",
    "bad manifest": "tinywave repair, then run",
    NEWER: "update TinyWave",
    "foreign file": "tinywave repair moves it away",
    "dangling input": "run with the settings that made it",
    "bad record": "tinywave repair",
    "altered report": "tinywave repair moves it away",
    "bad checkpoint": "tinywave repair deletes it",
    "damaged index": "tinywave repair deletes it; the next run makes it anew",
    "lost pin": "run: it is made again",
    "lost model": "run with the settings that made it: what is published is gone",
    "lost shard": "run with the source that has its files",
    "removed by forget": "harmless: the next run takes them again, from a source that has them",
    "half-written": "harmless: tinywave repair sweeps it",
    "unfinished work": "harmless: the next run goes on from it",
}
# What a killed run leaves by design, and `forget`: the exit status of `tinywave verify` must not cry wolf over it.
HARMLESS = ("half-written", "unfinished work", "removed by forget")
DAMAGE = ("missing file", "wrong size", "wrong digest", "unreadable file", "bad manifest")


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be. `where` is an artifact id, a record or a folder below the root."""

    where: str
    what: str
    detail: str

    @property
    def harmless(self) -> bool:
        return self.what in HARMLESS

    @property
    def advice(self) -> str:
        return ADVICE[self.what]


OnProgress = Callable[[int, int], None]
"""Gets bytes checked and bytes in all."""


def verify(census: Census, on_progress: OnProgress = lambda _done, _total: None) -> list[Finding]:
    """Everything that is wrong in the store, by artifact; an empty list for a sound store without leftovers."""
    return _sorted(
        [
            *_contents(census, on_progress),
            *_reports(census),
            *_checkpoints(census.store),
            *_uploads(census),
            *_indices(census.store),
            *check_listing(census),
        ]
    )


def check_listing(census: Census) -> list[Finding]:
    """Findings from the listing, the manifests and the logs alone; the files of artifacts are not read."""
    faults = [Finding(ABOUT, "bad record", census.fault)] if census.fault else []
    return _sorted([*faults, *_folders(census), *_logs(census), *_work(census)])


def _sorted(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: (f.harmless, f.where, f.what, f.detail))


def _folders(census: Census) -> Iterator[Finding]:
    """Findings from the listing and the manifests."""
    for folder in census.folders.values():
        if folder.manifest is None:
            if not folder.fault:
                yield Finding(folder.id, "half-written", f"{count(len(folder.files), 'file')} without a manifest")
            elif folder.fault == NEWER:
                yield Finding(folder.id, NEWER, "written by a newer TinyWave")
            else:
                yield Finding(folder.id, "bad manifest", folder.fault)
            continue
        listed = {entry.name: entry.bytes for entry in folder.manifest.files}
        for name, size in listed.items():
            if name not in folder.files:
                yield Finding(folder.id, "missing file", name)
            elif folder.files[name] != size:
                yield Finding(folder.id, "wrong size", f"{name} has {folder.files[name]:,} B, expected {size:,} B")
        yield from (Finding(folder.id, _kind_of(name), name) for name in folder.files if name not in listed)
        # A manifest without its inputs is still a whole result, but its lineage ends here.
        for upstream in sorted(folder.inputs):
            if upstream not in census.artifacts and not _of_newer(census, upstream):
                yield Finding(folder.id, "dangling input", upstream)


def _kind_of(unlisted: str) -> str:
    """Kind of a file that no manifest names: half-written if it has a temporary name of `Store.create`, else foreign."""
    return "half-written" if unlisted.rpartition("/")[2].startswith(".new-") else "foreign file"


def _of_newer(census: Census, artifact_id: str) -> bool:
    return artifact_id in census.folders and census.folders[artifact_id].fault == NEWER


# Files -----------------------------------------------------------------------------------------------------------


def _contents(census: Census, on_progress: OnProgress) -> Iterator[Finding]:
    """Compare the digests of all files that have the right size."""
    # What is missing or has another size is a finding of the listing: no need to read it.
    todo = [
        (folder, entry)
        for folder in census.artifacts.values()
        for entry in (folder.manifest.files if folder.manifest else [])
        if folder.files.get(entry.name) == entry.bytes
    ]
    total, done = sum(entry.bytes for _, entry in todo), 0
    with ThreadPoolExecutor(_READERS) as pool:
        for (_, entry), finding in zip(todo, pool.map(partial(_check, census.store), todo), strict=True):
            done += entry.bytes
            on_progress(done, total)
            if finding is not None:
                yield finding


def _check(store: Store, item: tuple[Folder, FileEntry]) -> Finding | None:
    folder, entry = item
    try:
        digest = _digest(store, f"{folder.id}/{entry.name}")
    except FileNotFoundError:
        return Finding(folder.id, "missing file", entry.name)
    except Exception as error:  # noqa: BLE001 - as in Store: each filesystem has its own errors
        # A dying disk fails on single files: the others are still worth checking, and this one worth naming.
        if store.local and isinstance(error, OSError) and error.errno == errno.EIO:
            return Finding(folder.id, "unreadable file", f"{entry.name}: {error.strerror}")
        store.refuse(error, "read", "read")
    if digest == entry.sha256:
        return None
    return Finding(folder.id, "wrong digest", f"{entry.name} has {digest[:12]}…, expected {entry.sha256[:12]}…")


def _digest(store: Store, name: str) -> str:
    """SHA-256 of a file, read in blocks; never from a copy that an earlier read left on this machine."""
    digest = hashlib.sha256()
    path = f"{store.root.rstrip('/')}/{name}"
    options: dict[str, Any] = {} if store.local else {"block_size": BLOCK_BYTES, "cache_type": "readahead"}
    with store.filesystem.open(path, "rb", **options) as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _reports(census: Census) -> Iterator[Finding]:
    """Reports that are not as their run wrote them; a missing one is no fault."""
    runs = [run for log in census.of("runs") for run in log.readable if run.get("report_sha256")]
    for name, expected in {report_of(run): run["report_sha256"] for run in runs}.items():
        with contextlib.suppress(FileNotFoundError):
            if (digest := _digest(census.store, name)) != expected:
                yield Finding(name, "altered report", f"it has {digest[:12]}…, expected {expected[:12]}…")


def _checkpoints(store: Store) -> Iterator[Finding]:
    """Checkpoints, of training and of other steps, that a run would refuse."""
    for work in work_folders(store):
        for path in sorted(work.glob("resume/*.json")) + sorted(work.glob("resume/step-*/state.json")):
            checkpoint = path if path.name != STATE_FILE else path.parent
            if fault := _fault_of(path):
                yield Finding(f".work/{work.name}/{checkpoint.relative_to(work).as_posix()}", "bad checkpoint", fault)


def _uploads(census: Census) -> Iterator[Finding]:
    for where, fault in damaged_uploads(census, partial(_digest, census.store)):
        yield Finding(where, "bad checkpoint", fault)


def _fault_of(path: Path) -> str:
    try:
        record = unseal(path.read_bytes())
        files: dict[str, str] = record["sha256"] if path.name == STATE_FILE else {}
        wrong = [name for name, digest in files.items() if sha256_of(path.parent / name) != digest]
    except (RecordFault, OSError) as fault:
        return str(fault)
    return f"{wrong[0]} is not as it was written" if wrong else ""


# Logs and leftovers ----------------------------------------------------------------------------------------------


def _logs(census: Census) -> Iterator[Finding]:
    for log in census.logs.values():
        for index, record in enumerate(log.records):
            if record is None:
                yield Finding(log.path(index), "bad record", "missing, or not as it was written")
        for name in log.foreign:
            yield Finding(log.name, _kind_of(name), name)
    yield from (finding for log in census.of(*POINTERS) for finding in _pointer(census, log))
    yield from (finding for log in census.of("catalog") for finding in _catalog(census, log))


def _pointer(census: Census, log: Records) -> Iterator[Finding]:
    """Only the newest record is ever followed."""
    for artifact in pointed_at(log.readable[-1]) if log.readable else []:
        if artifact not in census.artifacts and not _of_newer(census, artifact):
            yield Finding(log.name, "lost pin" if log.kind == "pins" else "lost model", artifact)


def _catalog(census: Census, log: Records) -> Iterator[Finding]:
    """Recordings of the corpus that no whole shard holds; a shard that was lost and replaced is no fault."""
    records = [record for log in census.of(FORGOTTEN) for record in log.readable]
    forgotten = {digest for record in records for digest in record["sha256"]}
    removed = {artifact for record in records for artifact in record.get("removed", [])}
    contents = shard_contents(log)
    # Content counts, not shards: after a repair the same recordings are in new shards.
    whole = {i for i in contents if i in census.folders and census.folders[i].whole}
    present = forgotten.union(*(contents[i] for i in whole))
    for shard, digests in contents.items():
        if shard not in whole and digests - present:
            what = "removed by forget" if shard in removed else "lost shard"
            yield Finding(log.name, what, f"{shard}: {count(len(digests - present), 'recording')}")


def _work(census: Census) -> Iterator[Finding]:
    for folder in work_folders(census.store):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        yield Finding(f".work/{folder.name}", "unfinished work", f"{size / 1e6:,.1f} MB in {folder}")
    for name, size in uploaded_bytes(census).items():
        yield Finding(name, "unfinished work", f"{size / 1e6:,.1f} MB in {census.store.url_of(name)}")


def _indices(store: Store) -> Iterator[Finding]:
    for path in damaged_indices(store):
        yield Finding(f".index/{path.parent.name}/{path.name}", "damaged index", f"of what training reads: {path}")


def work_folders(store: Store) -> list[Path]:
    """Work folders of this store on this machine."""
    parent = store.work_folder("any/any").parent
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []

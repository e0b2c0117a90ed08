"""What lies below a store's root, from one listing and the manifests: artifacts, logs, and what is neither.

Nothing here reads the files of an artifact. The manifests come without their parameters, which for a large corpus hold
every transcript.
"""

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from graphlib import TopologicalSorter
from typing import Any

from tinywave_core.config.pipeline import STAGES
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.records import RecordFault, unseal
from tinywave_core.storage.store import ABOUT, MANIFEST, STORE_VERSION, Manifest, Store
from tinywave_core.storage.uploads import WORK

LOGS = ("catalog", "pins", "published", "runs", "forgotten", "starts", "labels")
POINTERS = ("pins", "published")  # logs whose newest record is followed to an artifact
LABELS = ("ingestion", "labels")
ASIDE = ".damaged"
RECORD = re.compile(r"\d{6}\.json")
NEWER = "newer manifest"
_READERS = 8  # manifests read at a time: on an object store each is a round trip


@dataclass(frozen=True)
class Folder:
    """An artifact's folder. `manifest` is None where there is none, or where it is of no use, which `fault` says."""

    id: str
    files: Mapping[str, int] = field(repr=False)  # bytes by name, without the manifest
    changed: float  # seconds since 1970, of the newest file
    manifest: Manifest | None = field(default=None, repr=False)
    fault: str = ""

    @property
    def stage(self) -> str:
        return self.id.partition("/")[0]

    @property
    def bytes(self) -> int:
        return sum(self.files.values())

    @property
    def inputs(self) -> frozenset[str]:
        return frozenset(i for ids in self.manifest.inputs.values() for i in ids) if self.manifest else frozenset()

    @property
    def whole(self) -> bool:
        """Whether a reader takes it for an artifact: a manifest, and every file of it there in its size."""
        return self.manifest is not None and all(self.files.get(e.name) == e.bytes for e in self.manifest.files)


@dataclass(frozen=True)
class Records:
    """A numbered log: what each number holds (None: missing or damaged), and files that are no records."""

    name: str
    records: tuple[dict[str, Any] | None, ...]
    foreign: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return self.name.partition("/")[0]

    @property
    def readable(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record is not None]

    def path(self, index: int) -> str:
        return f"{self.name}/{index + 1:06d}.json"


@dataclass(frozen=True)
class Census:
    """Everything below the root."""

    store: Store = field(repr=False)
    folders: Mapping[str, Folder]  # by artifact id
    logs: Mapping[str, Records]  # by name
    aside: Mapping[str, tuple[int, float]]  # bytes and time of what was set aside, by name below the root
    fault: str = ""  # of store.json
    # Checkpoints of unfinished training in a store elsewhere: bytes and time by file, by step.
    work: Mapping[str, Mapping[str, tuple[int, float]]] = field(default_factory=dict)

    @property
    def artifacts(self) -> dict[str, Folder]:
        """Folders with a manifest that can be read."""
        return {i: folder for i, folder in self.folders.items() if folder.manifest is not None}

    def of(self, *kinds: str) -> list[Records]:
        return [log for log in self.logs.values() if log.kind in kinds]


def take_census(store: Store) -> Census:
    """List the store once and read its manifests and logs."""
    below: dict[str, dict[str, tuple[int, float]]] = {}
    logs: dict[str, list[str]] = {}
    aside: dict[str, tuple[int, float]] = {}
    work: dict[str, dict[str, tuple[int, float]]] = {}
    for name, size, changed in _listing(store):
        top, *rest = name.split("/")
        if top in LOGS and rest:
            logs.setdefault("/".join([top, *rest[:-1]]), []).append(rest[-1])
        elif top == ASIDE and rest:
            before, _ = aside.get(f"{ASIDE}/{rest[0]}", (0, 0.0))
            since = int(rest[0]) / 1e9 if rest[0].isdecimal() else 0.0
            aside[f"{ASIDE}/{rest[0]}"] = (before + size, since)
        elif top == WORK and len(rest) > 1 and not store.local:
            work.setdefault(rest[0], {})["/".join(rest[1:])] = (size, changed)
        elif len(rest) > 1 and top in STAGES:
            below.setdefault(f"{top}/{rest[0]}", {})["/".join(rest[1:])] = (size, changed)
    # Manifests are small: the time is the round trip, so several are read at a time.
    with ThreadPoolExecutor(_READERS) as pool:
        folders = {folder.id: folder for folder in pool.map(lambda item: _folder(store, *item), sorted(below.items()))}
    records = {name: _records(store, name, files) for name, files in sorted(logs.items())}
    return Census(
        store,
        folders | _unlisted(store, folders, records.values()),
        records,
        dict(sorted(aside.items())),
        _fault_of(store, ABOUT),
        work,
    )


def _unlisted(store: Store, folders: Mapping[str, Folder], logs: Iterable[Records]) -> dict[str, Folder]:
    """What a listing that lags leaves out although pins, catalogs or the last run name it, with what it was made from."""
    queue = {i for log in logs if log.readable for i in _ids_in(log)}
    unlisted: dict[str, Folder] = {}
    while queue:
        if (artifact_id := queue.pop()) not in folders and artifact_id not in unlisted:
            folder = _folder(store, artifact_id, {})
            if folder.manifest is not None:
                unlisted[artifact_id] = folder
                queue |= folder.inputs
    return unlisted


def _ids_in(log: Records) -> Iterable[str]:
    if log.kind in POINTERS:
        return pointed_at(log.readable[-1])
    if log.kind == "runs":
        return list(log.readable[-1].get("outputs", {}).values())
    if log.kind == "labels":
        return relabelled(log)
    return shard_contents(log) if log.kind == "catalog" else []


def _fault_of(store: Store, name: str) -> str:
    """What is wrong with a record; nothing of one that is not there."""
    try:
        unseal(store.read(name))
    except FileNotFoundError:
        return ""
    except RecordFault as fault:
        return str(fault)
    return ""


def _listing(store: Store) -> Iterable[tuple[str, int, float]]:
    """Name below the root, bytes and time of last change of every file."""
    store.filesystem.invalidate_cache()
    try:
        listing = store.filesystem.find(store.root, detail=True)
    except Exception as error:  # noqa: BLE001 - as in Store: each filesystem has its own errors
        store.refuse(error, "read", "read")
    for path, info in sorted(listing.items()):
        if not path.endswith("/"):
            yield path[len(store.root) :].strip("/"), int(info["size"] or 0), _changed(info)


def _changed(info: Mapping[str, Any]) -> float:
    when = info.get("mtime") or info.get("LastModified") or info.get("created")
    return when.timestamp() if isinstance(when, datetime) else float(when or 0)


def _folder(store: Store, artifact_id: str, files: dict[str, tuple[int, float]]) -> Folder:
    sizes = {name: size for name, (size, _) in files.items() if name != MANIFEST}
    changed = max((time for _, time in files.values()), default=0.0)
    try:
        manifest = read_manifest(store, artifact_id)
    except FileNotFoundError:  # asked for by name, since a listing may lag
        return Folder(artifact_id, sizes, changed)
    except RecordFault as fault:
        return Folder(artifact_id, sizes, changed, None, str(fault))
    # An object that was just written may be missing in the listing, or stand there in its old size.
    unsure = [entry.name for entry in manifest.files if sizes.get(entry.name) != entry.bytes]
    sizes_by_name = {name: size for name in unsure if (size := store.size_of(f"{artifact_id}/{name}")) is not None}
    sizes = {name: size for name, size in sizes.items() if name not in unsure} | sizes_by_name
    return Folder(artifact_id, sizes, changed, manifest.model_copy(update={"params": {}}))


def read_manifest(store: Store, artifact_id: str) -> Manifest:
    """The manifest in full; RecordFault unless it is as it was written and its contents hash to the name of its folder."""
    content = unseal(store.read(f"{artifact_id}/{MANIFEST}"))
    if content["store_version"] > STORE_VERSION:
        raise RecordFault(NEWER)
    manifest = Manifest.model_validate(content)
    names = ("stage", "part", "version", "config", "params", "inputs")
    if artifact_id != f"{manifest.stage}/{fingerprint({name: getattr(manifest, name) for name in names})}":
        raise RecordFault("its settings and inputs do not hash to the name of its folder")
    return manifest


# Logs ------------------------------------------------------------------------------------------------------------


def _records(store: Store, name: str, files: list[str]) -> Records:
    # Numbers, not names: records are counted from 1 without a gap, and a gap is a lost record.
    numbers = [int(file[:6]) for file in files if RECORD.fullmatch(file) and int(file[:6])]
    foreign = tuple(sorted(file for file in files if not RECORD.fullmatch(file) or not int(file[:6])))
    records = [_record(store, name, number) for number in range(1, max(numbers, default=0) + 1)]
    while (later := _record(store, name, len(records) + 1)) is not None:  # a listing may lag
        records.append(later)
    return Records(name, tuple(records), foreign)


def _record(store: Store, name: str, number: int) -> dict[str, Any] | None:
    try:
        return unseal(store.read(f"{name}/{number:06d}.json"))
    except (FileNotFoundError, RecordFault):
        return None


def pointed_at(record: dict[str, Any]) -> list[str]:
    """Artifacts that a record of `pins` or `published` names."""
    return [record["artifact"]] if "artifact" in record else [record["model"], record["student"]]


def relabelled(log: Records) -> list[str]:
    """The shards with labels of today that a log of `labels` names."""
    return list(log.readable[-1]["shards"].values()) if log.readable else []


def report_of(run: Mapping[str, Any]) -> str:
    """Name below the root of the report that a record of `runs` has."""
    return f"reports/{run['report'].rpartition('/')[2]}"


def shard_contents(catalog: Records) -> dict[str, set[str]]:
    """Digests of the files in each shard that a catalog names."""
    contents: dict[str, set[str]] = {}
    for record in catalog.readable:
        for file in record["files"]:
            if file["shard"] is not None:
                contents.setdefault(record["shards"][file["shard"]], set()).add(file["sha256"])
    return contents


# The graph -------------------------------------------------------------------------------------------------------


def lineage(folders: Mapping[str, Folder], roots: Iterable[str]) -> set[str]:
    """`roots` and everything that they were made from, as far as it is in the store."""
    reached: set[str] = set()
    queue = [i for i in roots if i in folders]
    while queue:
        if (current := queue.pop()) not in reached:
            reached.add(current)
            queue += [i for i in folders[current].inputs if i in folders]
    return reached


def labels_of_runs(folders: Mapping[str, Folder]) -> set[str]:
    """Artifacts that say what labels a run saw in its source: an end of the lineage, and no result."""
    return {i for i, f in folders.items() if f.manifest is not None and (f.stage, f.manifest.part) == LABELS}


def dependants(folders: Mapping[str, Folder], roots: Iterable[str]) -> set[str]:
    """`roots` and everything that was made from them."""
    users: dict[str, list[str]] = {}
    for folder in folders.values():
        for upstream in folder.inputs:
            users.setdefault(upstream, []).append(folder.id)
    reached: set[str] = set()
    queue = list(roots)
    while queue:
        if (current := queue.pop()) not in reached:
            reached.add(current)
            queue += users.get(current, [])
    return reached & folders.keys()


def dependants_first(folders: Mapping[str, Folder], ids: Iterable[str]) -> list[str]:
    """`ids` in an order in which nothing comes before what was made from it."""
    ids = sorted(ids)
    # Whoever is stopped in between must never have removed an input of something that is still there.
    sorter = TopologicalSorter({i: sorted(folders[i].inputs & set(ids)) for i in ids})
    return list(sorter.static_order())[::-1]

"""What a store holds, as far as pages need it at once: an entry per artifact, who was made from whom, and the runs.

In: an opened store, which is only read. Out: `Holdings`, looked up anew for each page. What was whole is remembered, since an artifact
never changes; what is damaged is looked at again each time, since it may have been mended.
"""

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import ValidationError

from tinywave_core.config.pipeline import STAGES
from tinywave_core.errors import DamagedArtifactError, MissingInputError, SchemaVersionError, StoreError
from tinywave_core.run.record import RunRecord
from tinywave_core.steps.runs import RUNS
from tinywave_core.storage.store import ABOUT, Artifact, Manifest, Store

_ID = re.compile(r"[a-z_]+/[0-9a-f]{1,64}")
_AT_ONCE = 500
"""Artifacts whose manifests are in memory together when a store is first looked at: those of shards list all their files."""


@dataclass(frozen=True)
class Entry:
    """An artifact in a list: of its manifest what lists need."""

    id: str
    part: str
    created_at: str
    seconds: float
    bytes: int
    inputs: Mapping[str, Sequence[str]]

    @property
    def stage(self) -> str:
        return self.id.split("/")[0]

    @property
    def label(self) -> str:
        """`stage/part`."""
        return f"{self.stage}/{self.part}"

    @property
    def made_of(self) -> list[str]:
        """Ids of all inputs, each once."""
        return list(dict.fromkeys(i for ids in self.inputs.values() for i in ids))


@dataclass(frozen=True)
class Run:
    """A numbered run: its record, or why it cannot be read."""

    number: int
    record: RunRecord | None
    fault: str = ""


@dataclass(frozen=True)
class Group:
    """All artifacts of one part of a stage."""

    stage: str
    part: str
    artifacts: int
    bytes: int
    newest: str


@dataclass(frozen=True)
class Holdings:
    """What was in the store when it was looked at."""

    entries: Mapping[str, Entry]
    """By id; whole ones only."""
    damaged: Mapping[str, str]
    """Why, by id."""

    @cached_property
    def users(self) -> Mapping[str, Sequence[str]]:
        """By id, what was made from it."""
        users: dict[str, list[str]] = {}
        for entry in self.entries.values():
            for source in entry.made_of:
                users.setdefault(source, []).append(entry.id)
        return users

    def of(self, stage: str = "", part: str = "") -> list[Entry]:
        """Entries in the order of stages, newest first within one."""
        found = [e for e in self.entries.values() if stage in ("", e.stage) and part in ("", e.part)]
        newest = sorted(found, key=lambda entry: (entry.created_at, entry.id), reverse=True)
        return sorted(newest, key=lambda entry: _place(entry.stage))

    def groups(self) -> list[Group]:
        """The parts of all stages, with numbers and bytes."""
        groups: dict[tuple[str, str], list[Entry]] = {}
        for entry in self.of():
            groups.setdefault((entry.stage, entry.part), []).append(entry)
        return [
            Group(stage, part, len(found), sum(e.bytes for e in found), found[0].created_at)
            for (stage, part), found in sorted(groups.items(), key=lambda item: (_place(item[0][0]), item[0][1]))
        ]

    def before(self, artifact_id: str) -> list[str]:
        """Ids of everything that it was made of, nearest first."""
        return _reached(artifact_id, lambda i: self.entries[i].made_of if i in self.entries else ())

    def after(self, artifact_id: str) -> list[str]:
        """Ids of everything that was made of it, nearest first."""
        return _reached(artifact_id, lambda i: self.users.get(i, ()))


def _place(stage: str) -> tuple[int, str]:
    return (STAGES.index(stage) if stage in STAGES else len(STAGES), stage)


def _reached(start: str, step: Callable[[str], Iterable[str]]) -> list[str]:
    seen, wave = {start: None}, [start]
    while wave:
        wave = [i for i in dict.fromkeys(i for j in wave for i in step(j)) if i not in seen]
        seen |= dict.fromkeys(wave)
    return list(seen)[1:]


def open_store(root: str) -> Store:
    """The store at `root`, which has to be one; StoreError otherwise. Makes nothing."""
    store = Store(root, create=False)
    try:
        found = store.exists(ABOUT)
    except Exception as error:  # noqa: BLE001 - each filesystem has its own errors
        store.refuse(error, "read", "read")
    if not found:
        raise StoreError(
            f"there is no store at {store.url}: expected a folder or prefix with {ABOUT} in it; pass another --root, or make one "
            "with `tinywave run`"
        )
    return store


@dataclass
class Reader:
    """Looks at a store, and remembers what cannot change."""

    store: Store
    _entries: dict[str, Entry] = field(default_factory=dict)
    _runs: dict[int, Run] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def holdings(self) -> Holdings:
        """What is there now."""
        with self._lock:
            ids = self.store.artifact_ids()
            new = [i for i in ids if i not in self._entries]
            damaged: dict[str, str] = {}
            for start in range(0, len(new), _AT_ONCE):
                damaged |= self._look_at(new[start : start + _AT_ONCE])
            self._entries = {i: self._entries[i] for i in ids if i in self._entries}
            return Holdings(dict(self._entries), damaged)

    def _look_at(self, ids: Sequence[str]) -> dict[str, str]:
        """Remember those that are whole; why others are not."""
        damaged = {}
        for artifact_id, found in self._found(ids):
            if isinstance(found, str):
                damaged[artifact_id] = found
            else:
                self._entries[artifact_id] = _entry(found)
        return damaged

    def _found(self, ids: Sequence[str]) -> Iterable[tuple[str, Manifest | str]]:
        try:
            artifacts = self.store.find_all(ids)
            return [(a.id, a.manifest or "files are missing or cut") for a in artifacts]
        except (DamagedArtifactError, SchemaVersionError, ValidationError):  # one of them: which, is asked one by one
            return [(i, self._manifest_or_fault(i)) for i in ids]

    def _manifest_or_fault(self, artifact_id: str) -> Manifest | str:
        try:
            return self.store.find(artifact_id).manifest or "files are missing or cut"
        except ValidationError:
            return "its manifest is of another version of TinyWave"
        except (DamagedArtifactError, SchemaVersionError) as error:
            return str(error)

    def artifact(self, artifact_id: str) -> Artifact:
        """A whole artifact, looked at anew; MissingInputError where there is none, DamagedArtifactError where it is not whole."""
        if not _ID.fullmatch(artifact_id):
            raise MissingInputError(f"{artifact_id!r} is no id of an artifact: expected stage/fingerprint")
        artifact = self.store.find(artifact_id)
        if artifact.manifest is None and self.store.exists(f"{artifact_id}/manifest.json"):
            raise DamagedArtifactError(
                f"{artifact_id} is damaged: files are missing or cut. Run `tinywave repair --root {self.store.url}`, then run again"
            )
        if artifact.manifest is None:
            raise MissingInputError(f"{artifact_id} is not in the store: it was removed, or never made")
        return artifact

    def runs(self) -> list[Run]:
        """All of them, newest first; one that cannot be read is there with the reason."""
        found: list[Run] = []
        while (run := self._run(len(found) + 1)) is not None:
            found.append(run)
        return found[::-1]

    def run(self, number: int) -> RunRecord:
        """The record of one run; MissingInputError or DamagedArtifactError."""
        run = self._run(number) if 0 < number < 1_000_000 else None
        if run is None:
            raise MissingInputError(f"there is no run {number} in this store")
        if run.record is None:
            raise DamagedArtifactError(f"the record of run {number} cannot be shown: {run.fault}")
        return run.record

    def _run(self, number: int) -> Run | None:
        if number not in self._runs:
            try:
                content = self.store.read_record(f"{RUNS}/{number:06d}.json")
                self._runs[number] = Run(number, RunRecord.model_validate({**content, "number": number}))
            except FileNotFoundError:
                return None
            except DamagedArtifactError as error:
                return Run(number, None, str(error))
            except ValidationError:
                return Run(number, None, "another version of TinyWave wrote it")
        return self._runs[number]


def _entry(manifest: Manifest) -> Entry:
    return Entry(
        f"{manifest.stage}/{manifest.fingerprint}",
        manifest.part,
        manifest.created_at,
        manifest.seconds,
        manifest.total_bytes,
        manifest.inputs,
    )

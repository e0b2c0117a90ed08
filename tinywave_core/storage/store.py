"""The store: `<root>/<stage>/<fingerprint>/`, a folder that is whole when its `manifest.json` exists.

Files are written to a work folder, moved into place, and only then named, with size and SHA-256, in a manifest that is
created if absent and never changed. A folder without a manifest does not exist for a reader. The root is a local folder
or any fsspec URL (s3://…, memory://…). Numbered logs (`Log`) hold what grows: the catalog, the pins, the runs. Manifests and
what logs hold are records (`records.py`), which end with a digest of their own.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict

from tinywave_core.errors import (
    DamagedArtifactError,
    MissingInputError,
    SchemaVersionError,
    StoreError,
    StoreFullError,
    SurroundingError,
)
from tinywave_core.storage import lease
from tinywave_core.storage.filesystem import open_url
from tinywave_core.storage.ranges import LocalRanges, Ranges, RemoteRanges
from tinywave_core.storage.records import RecordFault, seal, unseal

STORE_VERSION = 2
MANIFEST = "manifest.json"
ABOUT = "store.json"
# Under this much free space a failed write is reported as a full disk: torch and safetensors do not say ENOSPC.
FULL_DISK_BYTES = 8 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORMAT = "tinywave-store"
_ABOUT_OF_1 = b'{"format":"tinywave-store","version":1}'
_FEW = 3  # artifacts that are looked up one by one
# One per process, not per Store: the stages of a pipeline open the store anew and must not wait for their own run.
_held: dict[str, int] = {}  # numbers of the leases that this process holds, by the URL of the store


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What an artifact is, what it came from, and every file in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    store_version: int
    stage: str
    part: str
    version: int
    fingerprint: str
    config: dict[str, Any]
    params: dict[str, Any]
    inputs: dict[str, list[str]]
    summary: dict[str, Any]
    files: list[FileEntry]
    seconds: float
    created_at: str
    code_version: str

    @property
    def total_bytes(self) -> int:
        return sum(entry.bytes for entry in self.files)


@dataclass(frozen=True)
class Artifact:
    """An output of a stage: in the store when `manifest` is set, else only known by its fingerprint."""

    store: "Store" = field(repr=False, compare=False)
    """Where it lies."""
    stage: str
    """The stage that made it."""
    part: str
    """What it is: `corpus`, `tokens`, `student` …"""
    fingerprint: str
    """Hash of all that it was made from: settings, inputs, the version of the method."""
    manifest: Manifest | None = field(default=None, repr=False, compare=False)
    """What it was made from, and its files with sizes and SHA-256; None while it is only planned."""

    @property
    def id(self) -> str:
        """`stage/fingerprint`."""
        return f"{self.stage}/{self.fingerprint}"

    @property
    def complete(self) -> bool:
        """Whether it is whole in the store."""
        return self.manifest is not None

    @property
    def summary(self) -> dict[str, Any]:
        """Numbers that the stage reported; NotYetComputedError while the artifact is only planned."""
        return self._manifest().summary

    @property
    def files(self) -> list[str]:
        """Names of its files."""
        return [entry.name for entry in self._manifest().files]

    @property
    def url(self) -> str:
        """Where its folder lies."""
        return self.store.url_of(self.id)

    def path(self, name: str = "") -> Path:
        """Local path of one file, or of the whole folder (""), checked against the manifest's digests."""
        entries = [e for e in self._manifest().files if e.name == name or not name or e.name.startswith(f"{name}/")]
        if not entries:
            raise MissingInputError(f"{self.id} has no file {name!r}; it has {self.files}")
        return self.store.checked_path(self._manifest(), name, entries)

    def opened(self, name: str) -> Path:
        """Local path of one file for readers that verify what they read of it: its size alone is compared."""
        (entry,) = (entry for entry in self._manifest().files if entry.name == name)
        return self.store.checked_path(self._manifest(), name, [entry], digests=False)

    def size(self, name: str) -> int:
        """Bytes of one file, as its manifest has it."""
        return next(entry.bytes for entry in self._manifest().files if entry.name == name)

    def ranges(self, name: str, *, copied: bool = True) -> Ranges:
        """One file to be read in parts, by readers that verify what they read; of a store elsewhere without a copy on this machine
        unless it is to be `copied`."""
        if self.store.local or copied:
            return LocalRanges(self.opened(name))
        self.store.drop_files(self.id)
        return RemoteRanges(self.store.filesystem, f"{self.store.root.rstrip('/')}/{self.id}/{name}")

    def _manifest(self) -> Manifest:
        if self.manifest is None:
            raise NotYetComputedError(self)
        return self.manifest


def is_about(data: bytes) -> bool:
    """Whether a `store.json` is that of a store, be it damaged or of another version."""
    return _FORMAT.encode() in data or b'"digest"' in data  # one flipped bit leaves one of the two


class NotYetComputedError(MissingInputError):
    """A plan needs the summary of something that is not computed yet."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(f"{artifact.id} ({artifact.part}) is not in the store yet: run {artifact.stage} first")
        self.artifact = artifact


class Store:
    """A root folder and the rules of reading and writing it."""

    def __init__(self, root: str, *, create: bool = True, mend: bool = False) -> None:
        """Open `root`, a folder or fsspec URL; raises StoreError when it cannot be made, read or understood.

        With `mend` a damaged `store.json` is left to `verify` and `repair`.
        """
        if root.startswith(("http://", "https://")):
            raise StoreError(f"--root {root!r} is a web address; expected a folder, or s3://BUCKET/FOLDER")
        try:
            self.filesystem, self.root = open_url(root)
        except SurroundingError:
            raise
        except (ImportError, ValueError) as error:
            raise StoreError(f"--root {root!r} is not a folder or URL that fsspec knows: {error}") from error
        self.local = isinstance(self.filesystem, LocalFileSystem)
        self.url = self.root if self.local else self.filesystem.unstrip_protocol(self.root)
        # A file is hashed once per process, as long as its size and time stay: stages read the same shards again and again.
        self._verified: set[tuple[str, int, int]] = set()
        self._inherited: int | None = None
        if create:
            self._create()
        self._check_version(mend)

    # Opening ---------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        try:
            if self.local:  # elsewhere this would make a bucket where a name is misspelt
                self.filesystem.makedirs(self.root, exist_ok=True)
            if not self.exists(ABOUT):
                self.create_about()
            # A folder can exist and refuse writes (read-only mounts, other users'): better known now than after hours of work.
            if self.local:
                tempfile.NamedTemporaryFile("wb", prefix=".probe-", dir=self.root).close()
        except FileExistsError as error:
            if self.local and not Path(self.root).is_dir():
                raise StoreError(f"--root {self.url} is a file; expected a folder") from error
        except Exception as error:  # noqa: BLE001 - each filesystem has its own errors: botocore's, aiohttp's, OSError
            self.refuse(error, "written", "write")

    def refuse(self, error: Exception, what: str, permission: str) -> NoReturn:
        """Raise one clear sentence for a root that cannot be used; other faults are raised as they are."""
        if isinstance(error, StoreError) or (self.local and not isinstance(error, OSError)):
            raise error
        self.explain(error)
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StoreError(
            f"the store {self.url} cannot be {what} ({reason.rstrip('.')}); expected an existing folder or bucket with "
            f"{permission} permission: pass another --root"
            + ("" if self.local else ", or check the credentials and AWS_ENDPOINT_URL")
        ) from error

    def create_about(self) -> None:
        """Write `store.json`, which says what this folder is and in which version."""
        self.create_record(ABOUT, {"format": _FORMAT, "version": STORE_VERSION})

    def _check_version(self, mend: bool) -> None:
        try:
            data = self.read(ABOUT)
        except FileNotFoundError:
            return
        except Exception as error:  # noqa: BLE001 - as in `_create`
            self.refuse(error, "read", "read")
        # Somebody else's store.json is not ours to mend: `repair` would set it aside.
        if not is_about(data):
            raise StoreError(f"{self.url} is not a TinyWave store ({ABOUT} is something else); pass another --root")
        if data == _ABOUT_OF_1:
            raise SchemaVersionError(
                f"the store {self.url} is from before TinyWave's first release, and its records have no digests: run into "
                "another --root"
            )
        try:
            version = self.parse_record(ABOUT, data)["version"]
        except DamagedArtifactError:
            if mend:
                return
            raise
        if version > STORE_VERSION:
            raise SchemaVersionError(
                f"the store {self.url} has version {version}, this TinyWave reads up to {STORE_VERSION}: "
                "update TinyWave, or pass another --root"
            )

    @contextlib.contextmanager
    def lock(self, purpose: str, pace: lease.Pace = lease.Pace()) -> Iterator[None]:  # noqa: B008 - frozen
        """Hold the store for one run; StoreBusyError while another run holds it and lives.

        A run that holds the store may lock it again (the pipeline's stages do). A holder that was killed on this machine is
        known at once to be gone; one that is stopped, or on another machine, after a term without a sign of life.
        """
        # Reentrant by the URL: the pipeline holds the store while each of its stage flows asks for it.
        if self.url in _held:
            yield
            return
        holder = f"{purpose} (process {os.getpid()} on {socket.gethostname()}, since {utc_now()})"
        own_lease = lease.take(self, holder, pace)
        _held[self.url] = own_lease.number
        try:
            with lease.keep_alive(own_lease, pace):
                yield
        finally:
            del _held[self.url]

    @property
    def lease_number(self) -> int | None:
        """The number of the lease under which this process writes; None outside of any."""
        return _held.get(self.url, self._inherited)

    def inherit(self, number: int | None) -> None:
        """Write under the lease of the process that sent the work."""
        self._inherited = number

    def check_lease(self) -> None:
        """StoreError if this run was taken for dead and another has the store."""
        if self.lease_number is not None:
            lease.check(self, self.lease_number)

    def __getstate__(self) -> dict[str, Any]:
        """Workers in other processes write under the lease of this one."""
        return {**self.__dict__, "_inherited": self.lease_number}

    # Plain files -----------------------------------------------------------------------------------------------

    def url_of(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}"

    def _at(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        return bool(self.filesystem.exists(self._at(name)))

    def read(self, name: str) -> bytes:
        if self.local:
            return Path(self._at(name)).read_bytes()
        self.filesystem.invalidate_cache()
        return bytes(self.filesystem.cat_file(self._at(name)))

    def create(self, name: str, data: bytes) -> None:
        """Create a file in one step, whole and on disk; FileExistsError when it is there already."""
        self.check_lease()
        if not self.local:
            # If-None-Match on S3: of two writers exactly one wins, without a lock (decision 1).
            self.filesystem.pipe_file(self._at(name), data, mode="create")
            return
        with self._room_for(name, len(data)):
            self._link_new(Path(self._at(name)), data)

    def _link_new(self, target: Path, data: bytes) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                # On disk before it has its name, or a power cut could leave an empty manifest.
                os.fsync(file.fileno())
            # mkstemp makes files for their owner only; a store shared by a group would be unreadable to the others.
            os.chmod(temporary, _rights_in(target.parent))
            os.link(temporary, target)  # fails if present, unlike rename: two writers cannot both win
            # The name is on disk only when the folder is.
            fsync_folder(target.parent)
        finally:
            os.unlink(temporary)

    def replace(self, name: str, data: bytes) -> None:
        """Write a file whether it is there or not, in one step."""
        self.check_lease()
        if not self.local:
            self.filesystem.pipe_file(self._at(name), data)
            return
        target = Path(self._at(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # In the target's own folder, since a rename is one step within a filesystem only.
        partial = target.with_name(f".new-{uuid.uuid4().hex}-{target.name}")  # containers share process numbers
        with self._room_for(name, len(data)):
            try:
                partial.write_bytes(data)
                fsync_file(partial)
                os.replace(partial, target)
            finally:
                partial.unlink(missing_ok=True)
        fsync_folder(target.parent)

    # Records ---------------------------------------------------------------------------------------------------

    def create_record(self, name: str, content: Mapping[str, Any] | BaseModel) -> None:
        """Create a record with its digest; FileExistsError when it is there already."""
        self.create(name, seal(content))

    def read_record(self, name: str) -> dict[str, Any]:
        """A record as it was written; DamagedArtifactError if a bit of it changed, FileNotFoundError without it."""
        return self.parse_record(name, self.read(name))

    def parse_record(self, name: str, data: bytes) -> dict[str, Any]:
        """What a record's bytes say; `name` is for the error."""
        try:
            return unseal(data)
        except RecordFault as fault:
            raise DamagedArtifactError(f"{self.url_of(name)} is damaged: {fault}: {self._advice}") from fault

    @property
    def _advice(self) -> str:
        return f"`tinywave repair --root {self.url}`, then run again"

    # Artifacts -------------------------------------------------------------------------------------------------

    def find(self, artifact_id: str, part: str = "") -> Artifact:
        """The artifact with its manifest if it is whole (every file there in its size), else without one."""
        stage, _, digest = artifact_id.partition("/")
        planned = Artifact(self, stage, part, digest)
        try:
            manifest = self._read_manifest(artifact_id)
        except FileNotFoundError:
            return planned
        # Sizes only: hashing all inputs of a plan would read the whole store. Digests are checked when a file is read (decision 1).
        if any(self.size_of(f"{artifact_id}/{entry.name}") != entry.bytes for entry in manifest.files):
            return planned
        return Artifact(self, stage, manifest.part, digest, manifest)

    def find_all(self, artifact_ids: Sequence[str], part: str = "") -> list[Artifact]:
        """`find` for many ids; on an object store with one listing per stage and all manifests read at once."""
        if self.local or len(artifact_ids) <= _FEW:
            return [self.find(artifact_id, part) for artifact_id in artifact_ids]
        # A question per file would be a round trip each, for thousands of shards.
        sizes: dict[str, int] = {}
        for stage in sorted({artifact_id.partition("/")[0] for artifact_id in artifact_ids}):
            listed = self.filesystem.find(self._at(stage), detail=True)
            sizes |= {name: int(info["size"]) for name, info in listed.items()}
        paths = {i: self._at(f"{i}/{MANIFEST}") for i in dict.fromkeys(artifact_ids)}
        # A listing may lag: what it lacks is asked for by name.
        read = self.filesystem.cat(list(paths.values()), on_error="return")
        artifacts = {}
        for artifact_id, path in paths.items():
            if isinstance(read[path], FileNotFoundError):
                continue
            if isinstance(read[path], Exception):
                raise read[path]
            manifest = self._parse_manifest(artifact_id, read[path])
            stage, _, digest = artifact_id.partition("/")
            listed = {entry.name: sizes.get(self._at(f"{artifact_id}/{entry.name}")) for entry in manifest.files}
            if all(
                e.bytes == listed[e.name] or e.bytes == self.size_of(f"{artifact_id}/{e.name}") for e in manifest.files
            ):
                artifacts[artifact_id] = Artifact(self, stage, manifest.part, digest, manifest)
        planned = [(i, *i.split("/", 1)) for i in artifact_ids]
        return [artifacts.get(i) or Artifact(self, stage, part, digest) for i, stage, digest in planned]

    def _read_manifest(self, artifact_id: str) -> Manifest:
        return self._parse_manifest(artifact_id, self.read(f"{artifact_id}/{MANIFEST}"))

    def _parse_manifest(self, artifact_id: str, data: bytes) -> Manifest:
        content = self.parse_record(f"{artifact_id}/{MANIFEST}", data)
        if content["store_version"] > STORE_VERSION:
            raise SchemaVersionError(
                f"{artifact_id} was written with store version {content['store_version']}, this TinyWave reads up to "
                f"{STORE_VERSION}: update TinyWave, or pass another --root"
            )
        return Manifest.model_validate(content)

    def size_of(self, name: str) -> int | None:
        """Bytes of a file below the root; None where there is none."""
        try:
            if (
                self.local
            ):  # fsspec's own takes ten times as long, and a run asks for the size of every file of every shard
                return os.stat(self._at(name)).st_size
            return int(self.filesystem.size(self._at(name)))
        except FileNotFoundError:
            return None

    def artifact_ids(self, stage: str = "*") -> list[str]:
        """Ids of everything with a manifest, for people who look around; no computation decides from a listing."""
        manifests = self.filesystem.glob(self._at(f"{stage}/*/{MANIFEST}"))
        return sorted("/".join(str(path).split("/")[-3:-1]) for path in manifests)

    def newest(self, stage: str, part: str) -> Artifact | None:
        """The artifact of a part that was made last, for people who look around; None where there is none."""
        found = [(artifact.manifest, artifact) for artifact in map(self.find, self.artifact_ids(stage))]
        made = [(manifest.created_at, artifact) for manifest, artifact in found if manifest and manifest.part == part]
        return max(made, key=lambda each: each[0])[1] if made else None

    def resolve(self, name: str) -> Artifact:
        """The one whole artifact whose id, fingerprint or stage starts with `name`, and that no other one of them is made of;
        MissingInputError otherwise."""
        prefix = name.removeprefix(self.url).strip("/").removesuffix(f"/{MANIFEST}")
        matches = [i for i in self.artifact_ids() if i.startswith(prefix) or i.split("/")[1].startswith(prefix)]
        if not matches:
            raise MissingInputError(
                f"no artifact in {self.url} starts with {prefix!r}: see `tinywave inspect --root …`"
            )
        if len(matches) > 1:
            # What others of them are made of is not meant: of a stage's artifacts its results are.
            manifests = [each.manifest for each in self.find_all(matches) if each.manifest]
            made_of = {i for manifest in manifests for ids in manifest.inputs.values() for i in ids}
            matches = [i for i in matches if i not in made_of] or matches
        if len(matches) > 1:
            choices = "\n  ".join(matches[:12])
            raise MissingInputError(f"{len(matches)} artifacts start with {prefix!r}; name one of:\n  {choices}")
        return self.find(matches[0])

    def work_folder(self, artifact_id: str) -> Path:
        """Local folder where an artifact is made; it survives a crash, so that the work goes on from there."""
        name = artifact_id.replace("/", "-")
        # Below the root, so that moving a finished file into place is a rename and not a copy.
        if self.local:
            return Path(self.root, ".work", name)
        return self.scratch("work") / name

    def index_folder(self, artifact_id: str) -> Path:
        """Local folder for what is made from an artifact to read it fast (`indices.py`)."""
        folder = Path(self.root, ".index") if self.local else self.scratch("index")
        return folder / artifact_id.replace("/", "-")

    def commit(self, manifest: Manifest, output: Path) -> Artifact:
        """Move the files of `output` into place, then create the manifest: the moment at which the artifact exists."""
        artifact_id = f"{manifest.stage}/{manifest.fingerprint}"
        # Looked at before files are placed: they would lie beside a manifest of another run with other bytes (decision 14).
        self._set_damaged_aside(artifact_id)
        if self.exists(f"{artifact_id}/{MANIFEST}"):
            return self._made_by_another(manifest)
        for entry in manifest.files:
            self._move_in(output / entry.name, f"{artifact_id}/{entry.name}")
        try:
            self.create_record(f"{artifact_id}/{MANIFEST}", manifest)
        except FileExistsError:
            return self._made_by_another(manifest)
        return self.find(artifact_id)

    def _made_by_another(self, ours: Manifest) -> Artifact:
        """The artifact that another run committed meanwhile; StoreError if its files differ from ours."""
        artifact_id = f"{ours.stage}/{ours.fingerprint}"
        # On a GPU two runs of the same inputs can differ in their last bits, and their files must never be mixed.
        theirs = self._read_manifest(artifact_id)
        if theirs.files == ours.files:
            return self.find(artifact_id)
        differ = ", ".join(sorted({entry.name for entry in set(theirs.files) ^ set(ours.files)}))
        raise StoreError(
            f"two runs made {artifact_id} from the same inputs with different bytes in {differ}: one finished at "
            f"{theirs.created_at} with TinyWave {theirs.code_version} and is in {self.url}, this one at {ours.created_at} with "
            f"{ours.code_version} is not; run `tinywave verify --root {self.url}`, then go on from what is there"
        )

    def upload(self, source: Path, name: str) -> None:
        """Copy a file of this machine to a store elsewhere, where it appears whole."""
        self.check_lease()
        self.filesystem.put_file(str(source), self._at(name))

    def download(self, name: str, target: Path) -> None:
        """Copy a file of a store elsewhere to this machine; FileNotFoundError when it is not there."""
        self.filesystem.get_file(self._at(name), str(target))

    def _move_in(self, source: Path, name: str) -> None:
        if not self.local:
            self.upload(source, name)
            return
        self.check_lease()
        target = Path(self._at(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # safetensors and tempfile make files for their owner only.
        os.chmod(source, _rights_in(target.parent))
        # The manifest comes later and vouches for these bytes: they are on disk before they have their name.
        fsync_file(source)
        os.replace(source, target)
        fsync_folder(target.parent)

    def _set_damaged_aside(self, artifact_id: str) -> None:
        """Set aside a manifest whose files are missing or cut: it would block the new commit."""
        manifest = f"{artifact_id}/{MANIFEST}"
        if self.exists(manifest) and not self.find(artifact_id).complete:
            self.set_aside(manifest)

    def checked_path(self, manifest: Manifest, name: str, entries: list[FileEntry], *, digests: bool = True) -> Path:
        """Local path of a file or folder of an artifact after its size and SHA-256 were found to be as recorded; the size alone
        without `digests`."""
        artifact_id = f"{manifest.stage}/{manifest.fingerprint}"
        base = Path(self._at(artifact_id)) if self.local else self.scratch("read") / artifact_id / _content(manifest)
        for entry in entries:
            path = base / entry.name
            if not self.local and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                # Other threads and processes of this machine read the same copy: none may see it half-written.
                partial = path.with_name(f"{path.name}.part-{os.getpid()}-{threading.get_ident()}")
                try:
                    self.filesystem.get_file(self._at(f"{artifact_id}/{entry.name}"), str(partial))
                except FileNotFoundError as error:  # a listing that lags still had it
                    partial.unlink(missing_ok=True)
                    raise self._missing_file(f"{artifact_id}/{entry.name}") from error
                except OSError as error:
                    partial.unlink(missing_ok=True)
                    self.explain(error, f"{artifact_id}/{entry.name} needs {entry.bytes:,} bytes")
                    raise
                os.replace(partial, path)
            self._verify(path, entry, artifact_id, digests=digests)
        return base / name if name else base

    def discard(self, artifact_id: str) -> None:
        """Delete an artifact, its manifest first: whatever stops this, no reader takes the rest for whole."""
        self.delete(f"{artifact_id}/{MANIFEST}")
        self.delete(artifact_id)
        self.drop_copy(artifact_id)

    def delete(self, name: str) -> None:
        """Delete a file or folder below the root, if it is there."""
        self.check_lease()
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.rm(self._at(name), recursive=True)

    def set_aside(self, name: str) -> str:
        """Move an artifact, or one file below the root, to `.damaged/`; returns its new name."""
        self.check_lease()
        # Moved, not deleted, so that people can look at it; `gc` tells its age by the stamp.
        stamp = time.time_ns()
        while self.exists(aside := f".damaged/{stamp}/{name}"):  # the clock was put back
            stamp += 1
        source = self._at(name)
        if self.local:
            Path(self._at(aside)).parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                os.rename(source, self._at(aside))
            self.drop_copy(name)
            return aside
        # A listing may lag: what decides is moved by its name, and first.
        known_by_name = [path for path in (f"{source}/{MANIFEST}", source) if self.filesystem.isfile(path)]
        for path in dict.fromkeys([*known_by_name, *sorted(self.filesystem.find(source))]):
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.mv(path, self._at(aside) + path.removeprefix(source))
        self.drop_copy(name)
        return aside

    def drop_copy(self, artifact_id: str) -> None:
        """Delete what this machine has of an artifact besides itself: its indices, and the local copy of a remote one."""
        shutil.rmtree(self.index_folder(artifact_id), ignore_errors=True)
        self.drop_files(artifact_id)

    def drop_files(self, artifact_id: str) -> None:
        """Delete the local copy of a remote artifact; its indices stay."""
        if not self.local:
            shutil.rmtree(self.scratch("read") / artifact_id, ignore_errors=True)
            self._verified.clear()

    def scratch(self, purpose: str) -> Path:
        """Local folder for what a remote store needs on this machine."""
        return Path(tempfile.gettempdir(), f"tinywave-{os.getuid()}", key_of(self.url), purpose)

    def _verify(self, path: Path, entry: FileEntry, artifact_id: str, *, digests: bool) -> None:
        try:
            status = path.stat()
        except FileNotFoundError as error:
            raise self._missing_file(f"{artifact_id}/{entry.name}") from error
        # The time in nanoseconds: a file that is replaced by one of the same size within a second is hashed again.
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key in self._verified or (not digests and status.st_size == entry.bytes):
            return
        digest = sha256_of(path)
        if status.st_size != entry.bytes or digest != entry.sha256:
            if not self.local:  # the next read takes it from the store again, where it may have been mended
                path.unlink()
            raise DamagedArtifactError(
                f"{artifact_id}/{entry.name} is damaged: it has {status.st_size} bytes and SHA-256 {digest[:12]}…, its "
                f"manifest says {entry.bytes} and {entry.sha256[:12]}…: {self._advice}"
            )
        self._verified.add(key)

    def _missing_file(self, name: str) -> DamagedArtifactError:
        return DamagedArtifactError(f"{name} is gone from {self.url}: run its stage again")

    def log(self, name: str) -> "Log":
        """A numbered log under the root."""
        return Log(self, name)

    def explain(self, error: BaseException, needs: str = "a run needs a few megabytes") -> None:
        """Raise StoreFullError if the disk under a local store, or under the copies of a remote one, is full, whatever torch or Arrow
        called it."""
        folder = Path(self.root) if self.local else self.scratch("read")
        while not folder.exists():
            folder = folder.parent
        # torch and Arrow wrap ENOSPC in errors of their own, without the number: free space tells it whatever the error says.
        total, _, free = shutil.disk_usage(folder)
        if (total and free < FULL_DISK_BYTES) or (isinstance(error, OSError) and error.errno in _FULL):
            where = self.url if self.local else f"{folder}, where copies of {self.url} lie,"
            other = "pass another --root" if self.local else "name another folder in TMPDIR"
            raise StoreFullError(
                f"the disk under {where} is full: {needs}, and {free:,} bytes are free: make room, or {other}, and run again; "
                "finished work is kept"
            ) from error

    @contextlib.contextmanager
    def _room_for(self, name: str, size: int) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            raise
        except OSError as error:
            self.explain(error, f"{name} needs {size:,} bytes")
            raise


@dataclass(frozen=True)
class Log:
    """Records 000001.json, 000002.json, … each created if absent: a second writer of one number is refused."""

    store: Store = field(repr=False)
    name: str

    @cached_property
    def _read_so_far(self) -> list[dict[str, Any]]:
        return []

    def records(self) -> list[dict[str, Any]]:
        """All records, oldest first; found by counting up, never by listing. DamagedArtifactError if one is damaged."""
        # A listing may lag behind on S3, and would give a number twice; reading by name never does.
        while True:
            try:
                self._read_so_far.append(self.store.read_record(self._file(len(self._read_so_far) + 1)))
            except FileNotFoundError:
                return list(self._read_so_far)

    def latest(self) -> dict[str, Any] | None:
        records = self.records()
        return records[-1] if records else None

    def append(self, record: dict[str, Any]) -> int:
        """Write the next record and return its number; FileExistsError if another run was faster."""
        # Create-if-absent is what orders two writers: there is no counter to lock.
        number = len(self.records()) + 1
        self.store.create_record(self._file(number), record)
        return number

    def _file(self, number: int) -> str:
        return f"{self.name}/{number:06d}.json"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_files(folder: Path) -> list[FileEntry]:
    """Every file below `folder`, by name, with size and SHA-256."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        FileEntry(name=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in paths
    ]


def utc_now() -> str:
    """The time now as ISO 8601 in UTC, for people; no decision depends on it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def key_of(root: str) -> str:
    """A short name for a store, 12 hex digits; the same for a folder however its path is written."""
    # Resolved: ./store and /data/store are one store and must not have two leases or two copies.
    url = root if "://" in root else open_url(root)[1]
    return hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:12]


def _content(manifest: Manifest) -> str:
    """A name for what the files hold: stores that share a URL (another endpoint, an emptied bucket) share no copies."""
    return hashlib.sha256("".join(entry.sha256 for entry in manifest.files).encode()).hexdigest()[:12]


def _rights_in(folder: Path) -> int:
    """Permissions of a new file: those of its folder. Some libraries, safetensors among them, make files for one user only."""
    return folder.stat().st_mode & 0o666


def fsync_file(path: Path) -> None:
    """Wait until the file's content is on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def fsync_folder(path: Path) -> None:
    """Wait until the names in the folder are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

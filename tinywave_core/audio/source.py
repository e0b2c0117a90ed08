"""An audio source: a folder or fsspec URL (s3://bucket/prefix), everything below it, and its bytes.

Text and documents are sidecars, hidden files are skipped, and everything else is a candidate whatever its name says.
Symbolic links are not followed: a target inside the source is found anyway, and one outside is not read.
"""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from fsspec.implementations.local import LocalFileSystem

from tinywave_core.errors import SourceError, StoreError
from tinywave_core.storage.filesystem import open_url
from tinywave_core.storage.store import sha256_of

SIDECAR = re.compile(
    r".*\.(txt|csv|tsv|json|jsonl|parquet|md|rst|textgrid|ctm|lab|srt|vtt|xml|ya?ml|toml|html|pdf|log)"
    r"|(.*/)?(licen[sc]e|copying|notice|readme|authors|changelog|citation|attribution|md5sum|sha256sums)"
    r"|(.*/)?(wav\.scp|feats\.scp|cmvn\.scp|text|segments|utt2spk|spk2utt|spk2gender|utt2dur|reco2dur|utt2num_frames)",
    re.IGNORECASE | re.DOTALL,
)
# Reading waits for the disk or the network, and hashlib lets go of the GIL: a few threads fill either.
HASH_THREADS = 4


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    path: str  # relative to the source, printable
    location: str  # what the filesystem opens
    bytes: int
    stamp: str  # changes when the file changes


@dataclass(frozen=True)
class Listing:
    """What lies below a source, by path."""

    audio: tuple[SourceFile, ...]  # candidates
    sidecars: tuple[SourceFile, ...]
    links: int = 0  # symbolic links, left alone
    unreadable: tuple[str, ...] = field(default=())  # folders that may not be listed


class Source:
    """A folder or URL that is only read."""

    def __init__(self, url: str) -> None:
        try:
            self.filesystem, root = open_url(url)
        except (ImportError, ValueError) as error:
            raise SourceError(f"--source {url!r} is not a folder or URL that fsspec knows: {error}") from error
        self.url = url
        self.local = isinstance(self.filesystem, LocalFileSystem)
        self.root = os.path.realpath(root) if self.local else root.rstrip("/")
        # Part of every stamp: the same name, size and time in another source say nothing about its content.
        self._tag = hashlib.sha256(
            (self.root if self.local else url.rstrip("/")).encode("utf-8", "surrogateescape")
        ).hexdigest()[:8]

    # Listing ------------------------------------------------------------------------------------------------------

    def listing(self) -> Listing:
        """Everything below the source; SourceError when it is missing, no folder, unreadable or has no candidate."""
        links, unreadable = [0], list[str]()
        entries = list(self._walk(links, unreadable) if self.local else self._find())
        files = sorted((file for file in entries if not _hidden(file.path)), key=lambda file: file.path)
        audio = tuple(file for file in files if not is_sidecar(file.path))
        if not audio:
            raise SourceError(
                f"--source {self.url} holds no audio ({len(files)} text files, {links[0]} symbolic links, "
                f"{len(entries) - len(files)} hidden files, {len(unreadable)} unreadable folders); expected WAV, FLAC, "
                "Ogg, Opus or MP3 files in it or below: pass another --source"
            )
        return Listing(audio, tuple(file for file in files if is_sidecar(file.path)), links[0], tuple(unreadable))

    def _walk(self, links: list[int], unreadable: list[str]) -> Iterator[SourceFile]:
        self._check_local_root()
        for folder, subfolders, names in os.walk(
            self.root, onerror=lambda error: unreadable.append(str(error.filename))
        ):
            links[0] += sum(os.path.islink(os.path.join(folder, name)) for name in subfolders)
            for name in names:
                location = os.path.join(folder, name)
                try:
                    status = os.lstat(location)
                except FileNotFoundError:
                    continue  # gone since the folder was listed
                # A link could lead out of the source, to a private file or round in a circle.
                if stat.S_ISLNK(status.st_mode):
                    links[0] += 1
                elif stat.S_ISREG(status.st_mode):
                    # ctime as well: tools that copy set mtime back, and then new content would look known.
                    stamp = f"{self._tag}.{status.st_mtime_ns}.{status.st_ctime_ns}"
                    yield SourceFile(printable(os.path.relpath(location, self.root)), location, status.st_size, stamp)

    def _check_local_root(self) -> None:
        if not os.path.exists(self.root):
            raise SourceError(f"--source {self.url} does not exist; expected a folder with audio files: check the path")
        if not os.path.isdir(self.root):
            raise SourceError(
                f"--source {self.url} is a file; expected a folder with audio files: pass {Path(self.root).parent}"
            )
        try:
            os.listdir(self.root)
        except OSError as error:
            raise SourceError(
                f"--source {self.url} cannot be read ({error.strerror}): check its permissions"
            ) from error

    def _find(self) -> Iterator[SourceFile]:
        try:
            listing = self.filesystem.find(self.root, detail=True)
            if list(listing) == [self.root]:
                raise SourceError(f"--source {self.url} is a file; expected a folder with audio files: pass its folder")
            if not listing:
                self.filesystem.ls(self.root)  # a missing bucket has no files either: this one tells
        except SourceError:
            raise
        except Exception as error:  # noqa: BLE001 - each filesystem has its own errors: botocore's, aiohttp's, OSError
            self._refuse(error)
        for name, info in listing.items():
            if not name.endswith("/"):
                version = info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("created") or ""
                path = printable(name[len(self.root) :].lstrip("/"))
                yield SourceFile(path, name, int(info["size"]), f"{self._tag}.{str(version).strip(chr(34))}")

    def _refuse(self, error: Exception) -> NoReturn:
        """Raise one clear sentence for what went wrong with a remote source."""
        if isinstance(error, StoreError):  # it says where, how long, and what to do
            raise SourceError(f"--source {self.url} cannot be read: {error}") from error
        what = f"{type(error).__name__}: {error}".rstrip(". ")
        if isinstance(error, FileNotFoundError):
            advice = "expected an existing bucket and prefix: check the URL"
        elif isinstance(error, PermissionError) or "Credentials" in what:
            advice = (
                "expected credentials that may list and read it: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret"
            )
        else:
            advice = "expected a reachable service: check the network and AWS_ENDPOINT_URL, and run again"
        raise SourceError(f"--source {self.url} cannot be read ({what}); {advice}") from error

    # Reading ------------------------------------------------------------------------------------------------------

    def hashes(self, files: Sequence[SourceFile]) -> list[str | None]:
        """SHA-256 of each file's bytes, streamed; None where a file cannot be read."""
        with ThreadPoolExecutor(HASH_THREADS) as pool:
            return list(pool.map(self._hash, files))

    def _hash(self, file: SourceFile) -> str | None:
        try:
            if self.local:
                return sha256_of(Path(file.location))
            digest = hashlib.sha256()
            with self.filesystem.open(file.location, "rb", block_size=8 << 20, cache_type="readahead") as stream:
                while block := stream.read(8 << 20):
                    digest.update(block)
            return digest.hexdigest()
        except (FileNotFoundError, PermissionError):
            return None
        except Exception as error:  # noqa: BLE001 - as in `_find`
            if self.local and isinstance(error, OSError):
                return None
            self._refuse(error)

    def texts(self, files: Iterable[SourceFile]) -> dict[str, bytes]:
        """The bytes of sidecars by path; those that cannot be read are left out."""
        files = list(files)
        if not files:
            return {}
        if not self.local:
            try:
                contents = self.filesystem.cat([file.location for file in files], on_error="omit")
            except Exception as error:  # noqa: BLE001 - as in `_find`
                self._refuse(error)
            return {file.path: contents[file.location] for file in files if file.location in contents}
        texts = {}
        for file in files:
            try:
                texts[file.path] = Path(file.location).read_bytes()
            except OSError:
                continue
        return texts

    @contextmanager
    def local_path(self, location: str, scratch: Path) -> Iterator[Path]:
        """A path that a decoder can open: the file itself, or a copy that is deleted afterwards."""
        if self.local:
            yield Path(location)
            return
        scratch.mkdir(parents=True, exist_ok=True)
        copy = scratch / "download"
        try:
            self.filesystem.get_file(location, str(copy))
        except FileNotFoundError as error:
            raise SourceError(f"{location} is gone since the source was listed: run again") from error
        except Exception as error:  # noqa: BLE001 - as in `_find`
            self._refuse(error)
        try:
            yield copy
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def is_sidecar(path: str) -> bool:
    """Whether a name is that of a text or document: labels, tables, licences."""
    return SIDECAR.fullmatch(path) is not None


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def printable(name: str) -> str:
    """A file name as text that can be stored: bytes that are no UTF-8 become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

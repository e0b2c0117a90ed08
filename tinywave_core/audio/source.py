"""An audio source: a folder or fsspec URL (s3://bucket/prefix), everything below it, in its tars and in its tables of sound, and its bytes.

Text and documents are sidecars, and every other file is a candidate whatever its name says. What is neither is counted by
kind (`left_out.py`): hidden files, pipes, what may not be read, and a TinyWave store with all that it holds, whose speech a
pipeline made itself. Symbolic links are not followed: a target inside the source is found anyway, and one outside is not read.
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tarfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from tinywave_core.audio import left_out
from tinywave_core.audio.archives import Place, is_tar, members, place_in
from tinywave_core.audio.audio_tables import (
    ARROW,
    ArrowTable,
    ParquetTable,
    RowPlace,
    SoundRow,
    arrow_table,
    is_audio_table,
    parquet_table,
    row_in,
)
from tinywave_core.audio.ffmpeg import HEAD_BYTES
from tinywave_core.audio.labels.tables import label_columns
from tinywave_core.audio.left_out import LeftOut
from tinywave_core.config.pipeline import STAGES
from tinywave_core.errors import SourceError, StoreError, SurroundingError
from tinywave_core.storage.care.census import LOGS
from tinywave_core.storage.filesystem import open_url
from tinywave_core.storage.store import ABOUT, is_about, sha256_of

SIDECAR = re.compile(
    r".*\.(txt|csv|tsv|json|jsonl|jsonl\.gz|parquet|md|rst|textgrid|ctm|lab|srt|vtt|xml|ya?ml|toml|html|pdf|log)"
    r"|(.*/)?(licen[sc]e|copying|notice|readme|authors|changelog|citation|attribution|md5sum|sha256sums)"
    r"|(.*/)?(wav\.scp|feats\.scp|cmvn\.scp|text|segments|utt2spk|spk2utt|spk2gender|reco2file_and_channel|utt2dur|reco2dur|utt2num_frames)",
    re.IGNORECASE | re.DOTALL,
)
# The folders that a store makes in its root. Where the source is that root, people's recordings may lie beside them.
STORE_FOLDERS = frozenset({*STAGES, *LOGS})
ABOUT_BYTES = 4096  # `store.json` is far smaller; what is larger is something else
_SPECIAL = (
    (stat.S_ISFIFO, left_out.PIPE),
    (stat.S_ISSOCK, left_out.SOCKET),
    (stat.S_ISBLK, left_out.DEVICE),
    (stat.S_ISCHR, left_out.DEVICE),
)
_BLOCK = 8 << 20  # bytes that are read at once
_SMALL_BLOCK = 1 << 18  # where a footer and some small columns are read
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
    left_out: LeftOut = field(default_factory=LeftOut)  # everything else
    tables: tuple[SourceFile, ...] = ()  # whose rows are among the candidates, and have labels


class Source:
    """A folder or URL that is only read."""

    def __init__(self, url: str) -> None:
        try:
            self.filesystem, root = open_url(url)
        except SurroundingError:
            raise
        except (ImportError, ValueError) as error:
            raise SourceError(f"--source {url!r} is not a folder or URL that fsspec knows: {error}") from error
        self.url = url
        self.local = isinstance(self.filesystem, LocalFileSystem)
        self.root = os.path.realpath(root) if self.local else root.rstrip("/")
        # Part of every stamp: the same name, size and time in another source say nothing about its content.
        self._tag = hashlib.sha256(
            (self.root if self.local else url.rstrip("/")).encode("utf-8", "surrogateescape")
        ).hexdigest()[:8]
        self._unpacked: dict[str, Path] = {}  # rows of tables that lie ready, by location

    # Listing ------------------------------------------------------------------------------------------------------

    def listing(self) -> Listing:
        """Everything below the source; SourceError when it is missing, no folder, unreadable or has no candidate."""
        aside, tables = LeftOut(), list[SourceFile]()
        files = sorted(self._opened(self._entries(aside), aside, tables), key=lambda file: file.path)
        audio = tuple(file for file in files if not is_sidecar(file.path))
        if not audio:
            raise self._no_audio(len(files), aside)
        return Listing(audio, tuple(file for file in files if is_sidecar(file.path)), aside, tuple(tables))

    def require_audio(self) -> None:
        """SourceError as of `listing`, from a look that ends at the first candidate of a folder."""
        aside, texts = LeftOut(), 0
        for file in self._opened(self._entries(aside), aside, []):
            if not is_sidecar(file.path):
                return
            texts += 1
        raise self._no_audio(texts, aside)

    def _no_audio(self, texts: int, aside: LeftOut) -> SourceError:
        what = "; ".join([f"{texts} text files", *filter(None, [aside.line()])])
        return SourceError(
            f"--source {self.url} holds no audio ({what}); expected WAV, FLAC, Ogg, Opus or MP3 files in it or below, or "
            "tables with a column of sound: pass another --source"
        )

    def _opened(self, files: Iterable[SourceFile], aside: LeftOut, tables: list[SourceFile]) -> Iterator[SourceFile]:
        """The files, in place of each tar those that are in it, and of each table of sound its rows: these are noted in `tables`.
        What is neither in spite of its name is a file like others."""
        for file in files:
            if is_tar(file.path):
                yield from self._members(file, aside)
            elif is_audio_table(file.path):
                yield from self._rows(file, tables, aside)
            else:
                yield file

    def _rows(self, file: SourceFile, tables: list[SourceFile], aside: LeftOut) -> Iterator[SourceFile]:
        try:
            with self._table(file.location) as table:
                rows = list(_required(table).rows())
                column = _required(table).column
        except pa.ArrowException:
            yield file
            return
        tables += [file]
        for name in column.others:
            aside.add(left_out.COLUMN, printable(f"{file.path}: {name}, taken is {column.name}"))
        for row in rows:
            if row.place is not None:
                place = row.place
                stamp = f"{place.group}.{place.at}" if isinstance(place, RowPlace) else str(place.start)
                yield SourceFile(row_path(file, row), place.location, row.bytes, f"{file.stamp}.{stamp}")

    def sound_rows(self, file: SourceFile, *, labels: bool = False) -> Iterator[SoundRow]:
        """The rows of a table with a column of sound, where they may be recordings; with their `labels` where asked for.

        pa.ArrowInvalid where it is none, or damaged.
        """
        with self._table(file.location) as found:
            table = _required(found)
            yield from table.rows(label_columns(table.schema) if labels else ())

    @contextlib.contextmanager
    def _table(self, location: str, block: int = _SMALL_BLOCK) -> Iterator[ParquetTable | ArrowTable | None]:
        try:
            if location.lower().endswith(ARROW):
                with self._stream(location, block) as stream:
                    yield arrow_table(stream, stream.seek(0, os.SEEK_END), location)
            elif self.local:
                yield parquet_table(Path(location), location)
            else:
                with self._stream(location, block) as stream:
                    yield parquet_table(stream, location)
        except pa.ArrowException:
            raise
        except OSError as error:
            if not self.local:
                self._refuse(error)
            raise pa.ArrowInvalid(str(error)) from error

    def _members(self, file: SourceFile, aside: LeftOut) -> Iterator[SourceFile]:
        found = 0
        try:
            with self._stream(file.location) as stream:
                for member in members(stream, file.bytes):
                    found += 1
                    name = f"{file.path}/{printable(member.name)}"
                    if not member.name or _hidden(member.name):
                        aside.add(left_out.HIDDEN if member.name else left_out.OUTSIDE, name)
                        continue
                    place = Place(file.location, member.start, member.size)
                    yield SourceFile(name, place.location, member.size, f"{file.stamp}.{member.start}")
        except tarfile.TarError:
            if found:
                aside.add(left_out.CUT_OFF, file.path)
            else:
                yield file
        except OSError as error:
            if not self.local:
                self._refuse(error)
            aside.add(left_out.CLOSED_FILE, file.path)

    def _stream(self, location: str, block: int = _BLOCK) -> Any:
        return Path(location).open("rb") if self.local else self.filesystem.open(location, "rb", block_size=block)

    def _entries(self, aside: LeftOut) -> Iterator[SourceFile]:
        """Candidates and sidecars; everything else is counted in `aside`."""
        return self._walk(aside) if self.local else self._find(aside)

    def _walk(self, aside: LeftOut) -> Iterator[SourceFile]:
        self._check_local_root()

        def closed(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):  # else gone since its name was read
                aside.add(left_out.CLOSED_FOLDER, self._below(str(error.filename)))

        for folder, subfolders, names in os.walk(self.root, onerror=closed):
            subfolders.sort()  # so that the examples of what is left out are the same each time
            if ABOUT in names and _is_local_store(folder) and self._leave_store(folder, subfolders, aside):
                continue
            for name in [*sorted(names), *(n for n in subfolders if os.path.islink(os.path.join(folder, n)))]:
                location = os.path.join(folder, name)
                try:
                    status = os.lstat(location)
                except FileNotFoundError:
                    continue  # gone since the folder was listed
                if kind := self._kind(location, status):
                    aside.add(kind, self._below(location))
                    continue
                # ctime as well: tools that copy set mtime back, and then new content would look known.
                stamp = f"{self._tag}.{status.st_mtime_ns}.{status.st_ctime_ns}"
                yield SourceFile(self._below(location), location, status.st_size, stamp)

    def _below(self, location: str) -> str:
        return printable(os.path.relpath(location, self.root))

    def _leave_store(self, folder: str, subfolders: list[str], aside: LeftOut) -> bool:
        """Take a store's folders out of the walk; False where it is the source itself, beside which recordings may lie."""
        if folder != self.root:
            subfolders.clear()
            aside.add(left_out.STORE, self._below(folder))
            return True
        for name in sorted(STORE_FOLDERS.intersection(subfolders)):
            subfolders.remove(name)
            aside.add(left_out.OWN_FOLDER, printable(name))
        return False

    def _kind(self, location: str, status: os.stat_result) -> str | None:
        """As what a local entry is left out; None for a file that can be read."""
        if _hidden(self._below(location)):
            return left_out.HIDDEN
        if stat.S_ISLNK(status.st_mode):
            return self._kind_of_link(location)
        if special := next((kind for is_kind, kind in _SPECIAL if is_kind(status.st_mode)), None):
            return special
        return None if os.access(location, os.R_OK) else left_out.CLOSED_FILE

    def _kind_of_link(self, location: str) -> str:
        # A link could lead out of the source, to a private file or round in a circle: none is followed.
        target = os.path.realpath(location)
        if not os.path.exists(target):
            return left_out.LINK_LOST
        inside = target == self.root or target.startswith(os.path.join(self.root, ""))
        return left_out.LINK_IN if inside else left_out.LINK_OUT

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
        for around in Path(self.root).parents:
            if _is_local_store(around):
                self._refuse_inside(str(around), Path(self.root).relative_to(around).parts[0])

    def _refuse_inside(self, store: str, top: str) -> None:
        """SourceError for a source that a store made itself; `top` is the folder of the store in which it lies."""
        if top in STORE_FOLDERS:
            raise SourceError(
                f"--source {self.url} lies inside the store {store}: it is what a pipeline made, and would be learned as if people "
                "had said it; pass the folder with the recordings"
            )

    def _find(self, aside: LeftOut) -> Iterator[SourceFile]:
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
        self._check_around()
        stores = self._stores_among(listing)
        for store in sorted(stores - {""}):
            aside.add(left_out.STORE, printable(store))
        tops = {name[len(self.root) :].lstrip("/").partition("/")[0] for name in listing} if "" in stores else set()
        for top in sorted(tops & STORE_FOLDERS):
            aside.add(left_out.OWN_FOLDER, top)
        for name, info in sorted(listing.items()):
            below = name[len(self.root) :].lstrip("/")
            if name.endswith("/") or _is_in(below, stores):
                continue
            if _hidden(below):
                aside.add(left_out.HIDDEN, printable(below))
                continue
            version = info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("created") or ""
            yield SourceFile(printable(below), name, int(info["size"]), f"{self._tag}.{str(version).strip(chr(34))}")

    def _stores_among(self, listing: dict[str, Any]) -> set[str]:
        """Prefixes below the source, "" for itself, under which a store lies."""
        about = [
            name for name, info in listing.items() if name.endswith(f"/{ABOUT}") and int(info["size"]) <= ABOUT_BYTES
        ]
        return {name[len(self.root) : -len(ABOUT)].strip("/") for name in about if self._is_remote_store(name)}

    def _check_around(self) -> None:
        """SourceError where a prefix above the source is a store and the source one of its folders."""
        path = PurePosixPath(self.root)
        for around in path.parents:
            if (
                around.name
                and path.relative_to(around).parts[0] in STORE_FOLDERS
                and self._is_remote_store(f"{around}/{ABOUT}")
            ):
                self._refuse_inside(str(around), path.relative_to(around).parts[0])

    def _is_remote_store(self, name: str) -> bool:
        try:
            return is_about(self.filesystem.cat_file(name))
        except Exception:  # noqa: BLE001 - it is not there, or not for us to read; the listing has told what else is wrong
            return False

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
        of_rows = self._hashes_of_rows(_rows_among(files))
        with ThreadPoolExecutor(HASH_THREADS) as pool:
            return list(pool.map(lambda f: of_rows.get(f.location) if row_in(f.location) else self._hash(f), files))

    def _hashes_of_rows(self, places: Iterable[RowPlace]) -> dict[str, str]:
        return {place.location: hashlib.sha256(sound).hexdigest() for place, sound in self._sounds(places)}

    def _sounds(self, places: Iterable[RowPlace]) -> Iterator[tuple[RowPlace, pa.Buffer]]:
        """The sound of rows of Parquet tables, row group by row group; rows that cannot be read are left out."""
        wanted: dict[tuple[str, int], dict[int, RowPlace]] = defaultdict(dict)
        for place in places:
            wanted[place.table, place.group][place.at] = place
        for (location, group), rows in wanted.items():
            # Damage ends the row group: what was read of it stands.
            with contextlib.suppress(pa.ArrowException), self._table(location, _BLOCK) as table:
                if isinstance(table, ParquetTable):
                    yield from ((rows[at], sound) for at, sound in table.sound(group, rows))

    def heads(self, files: Sequence[SourceFile]) -> list[bytes]:
        """The first bytes of each file; none where it cannot be read."""
        sounds = self._sounds(_rows_among(files))
        of_rows = {place.location: sound[:HEAD_BYTES].to_pybytes() for place, sound in sounds}
        with ThreadPoolExecutor(HASH_THREADS) as pool:
            return list(pool.map(lambda f: of_rows.get(f.location) or self._head(f.location), files))

    def _head(self, location: str) -> bytes:
        try:
            place = place_in(location)
            if self.local or place:
                with self._stream(place.archive if place else location, _SMALL_BLOCK) as stream:
                    stream.seek(place.start if place else 0)
                    return bytes(stream.read(min(HEAD_BYTES, place.size) if place else HEAD_BYTES))
            return bytes(self.filesystem.cat_file(location, start=0, end=HEAD_BYTES))
        except Exception:  # noqa: BLE001 - as in `_find`; whoever reads the whole file will tell
            return b""

    def _hash(self, file: SourceFile) -> str | None:
        try:
            place = place_in(file.location)
            if self.local and place is None:
                return sha256_of(Path(file.location))
            digest = hashlib.sha256()
            for block in self._pieces(place) if place else self._blocks(file.location):
                digest.update(block)
            return digest.hexdigest()
        except (FileNotFoundError, PermissionError):
            return None
        except Exception as error:  # noqa: BLE001 - as in `_find`
            if self.local and isinstance(error, OSError):
                return None
            self._refuse(error)

    def _blocks(self, location: str) -> Iterator[bytes]:
        """The bytes of a remote file."""
        with self.filesystem.open(location, "rb", block_size=_BLOCK, cache_type="readahead") as stream:
            while block := stream.read(_BLOCK):
                yield block

    def _pieces(self, place: Place) -> Iterator[bytes]:
        """The bytes of a file in a tar; OSError where it ends too soon."""
        left = place.size
        with self._stream(place.archive) as stream:
            stream.seek(place.start)
            while left:
                block = stream.read(min(left, _BLOCK))
                if not block:
                    raise FileNotFoundError(f"{place.archive} is shorter than when it was listed")
                left -= len(block)
                yield block

    def texts(self, files: Iterable[SourceFile]) -> dict[str, bytes]:
        """The bytes of sidecars by path; those that cannot be read are left out."""
        whole, texts = list[SourceFile](), dict[str, bytes]()
        for file in files:
            if place := place_in(file.location):
                with contextlib.suppress(OSError):
                    texts[file.path] = b"".join(self._pieces(place))
            else:
                whole.append(file)
        return self._texts(whole) | texts

    def _texts(self, files: Sequence[SourceFile]) -> dict[str, bytes]:
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

    @contextlib.contextmanager
    def unpacked(self, locations: Collection[str], scratch: Path) -> Iterator[None]:
        """Has the rows of Parquet tables among these lie ready for `local_path`, so that each row group is read once."""
        places = [place for location in locations if (place := row_in(location))]
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            for number, (place, sound) in enumerate(self._sounds(places)):
                path = scratch / str(number)
                path.write_bytes(sound)
                self._unpacked[place.location] = path
            yield
        finally:
            for place in places:
                self._unpacked.pop(place.location, None)
            shutil.rmtree(scratch, ignore_errors=True)

    @contextlib.contextmanager
    def local_path(self, location: str, scratch: Path) -> Iterator[Path]:
        """A path that a decoder can open: the file itself, or a copy that is deleted afterwards."""
        if row_in(location):
            if location not in self._unpacked:
                raise SourceError(f"{location} is gone since the source was listed: run again")
            yield self._unpacked[location]
            return
        place = place_in(location)
        if self.local and place is None:
            yield Path(location)
            return
        scratch.mkdir(parents=True, exist_ok=True)
        copy = scratch / "download"
        try:
            if place is None:
                self.filesystem.get_file(location, str(copy))
            else:
                with copy.open("wb") as file:
                    file.writelines(self._pieces(place))
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


def _rows_among(files: Iterable[SourceFile]) -> list[RowPlace]:
    return [place for file in files if (place := row_in(file.location))]


def _required(table: ParquetTable | ArrowTable | None) -> ParquetTable | ArrowTable:
    if table is None:
        raise pa.ArrowInvalid("it has no column of sound")
    return table


def row_path(table: SourceFile, row: SoundRow) -> str:
    """What a row of a table is called as a file of the source."""
    name = printable(row.name)
    # A name of a text would make a text of it.
    return f"{table.path}/{name if not is_sidecar(name) else f'{name}.audio'}"


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _is_local_store(folder: str | Path) -> bool:
    about = Path(folder, ABOUT)
    try:
        return about.stat().st_size <= ABOUT_BYTES and about.is_file() and is_about(about.read_bytes())
    except OSError:
        return False


def _is_in(below: str, stores: set[str]) -> bool:
    """Whether a path lies in a store; where the source is one, whether it lies in a folder of that store."""
    if not stores:
        return False
    if "" in stores and below.partition("/")[0] in STORE_FOLDERS:
        return True
    return any(str(parent) in stores for parent in PurePosixPath(below).parents if parent.name)


def printable(name: str) -> str:
    """A file name as text that can be stored: bytes that are no UTF-8 become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

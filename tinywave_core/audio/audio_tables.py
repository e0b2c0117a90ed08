"""Tables with a column of sound, as Hugging Face `datasets` has them: each row is a recording where it lies, with its labels.

In: a Parquet file (the Hub's form) or an Arrow file (`save_to_disk`'s, a stream, or the file format). The column is a struct of `bytes`
and `path` (an Audio feature), or plain binary under a name of sound. Rows are listed without reading sound: Parquet from its footer and
the small column of paths, Arrow from its offsets. Sound is read row group by row group, and is never in memory as a whole column. A
row that has no bytes of its own names a file beside the table, or nothing.

The claims of a file are held against its bytes before anything is unpacked (`storage/foreign_parquet.py`, `foreign_arrow.py`).
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa

from tinywave_core.audio.archives import Place
from tinywave_core.storage import foreign_arrow, foreign_parquet

PARQUET, ARROW = ".parquet", ".arrow"
# Columns of plain bytes that are sound by their name; a struct says what it is by its fields.
SOUND_NAMES = ("audio", "audio_bytes", "audio_data", "sound", "speech", "recording", "wav", "flac", "mp3", "bytes")
# Structs of the same form that are something else, where the file does not say its features.
OTHER_MEDIA = re.compile(r"image|img|picture|video|pdf", re.IGNORECASE)
_ROW = re.compile(r"(?P<table>.*)#row:(?P<group>\d+)\+(?P<at>\d+)", re.DOTALL)
_MISSING = "row"  # begins the name of a row that has none


@dataclass(frozen=True)
class RowPlace:
    """A row of a Parquet table."""

    table: str
    """Location of its file."""
    group: int
    """Row group."""
    at: int
    """In the row group."""

    @property
    def location(self) -> str:
        """As a location that `row_in` reads."""
        return f"{self.table}#row:{self.group}+{self.at}"


@dataclass(frozen=True)
class SoundRow:
    """One row, without its sound."""

    number: int
    name: str
    """Below the table: its path, or its number. No two rows of a table have the same."""
    path: str
    """As the row has it; empty where it has none."""
    place: RowPlace | Place | None
    """Where its sound lies; None where it has none of its own."""
    bytes: int = 0
    """Of its sound; in Parquet the mean of its row group, for more would mean to read it."""
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SoundColumn:
    """The column of sound of a table."""

    name: str
    is_struct: bool
    has_path: bool = False
    others: tuple[str, ...] = ()
    """Further columns of sound of the table, which are not taken."""

    @property
    def sound(self) -> str:
        """The leaf with the bytes."""
        return f"{self.name}.bytes" if self.is_struct else self.name

    @property
    def paths(self) -> list[str]:
        """The leaf with the paths, if there is one."""
        return [f"{self.name}.path"] if self.has_path else []


def row_in(location: str) -> RowPlace | None:
    """The row that a location says; None for anything else."""
    match = _ROW.fullmatch(location)
    return RowPlace(match["table"], int(match["group"]), int(match["at"])) if match else None


def stretch_of(location: str) -> str:
    """What is read in one go with a location: its row group; nothing for other files, which are read by themselves."""
    place = row_in(location)
    return f"{place.table}#{place.group:09d}" if place else ""


def is_audio_table(name: str) -> bool:
    """Whether a file may be a table with sound, by its name."""
    return name.lower().endswith((PARQUET, ARROW))


def sound_column(schema: pa.Schema) -> SoundColumn | None:
    """The first column of sound, one that is called audio before others; None where there is none."""
    kinds = _features(schema)
    found = [column for each in schema if (column := _as_sound(each, kinds.get(each.name)))]
    first = min(found, key=lambda column: column.name.lower() != "audio", default=None)
    return first and replace(first, others=tuple(each.name for each in found if each is not first))


def _as_sound(each: pa.Field, kind: str | None) -> SoundColumn | None:
    if pa.types.is_struct(each.type):
        fields = {child.name: child.type for child in each.type}
        is_sound = kind == "Audio" or (kind is None and not OTHER_MEDIA.search(each.name))
        if is_sound and _is_binary(fields.get("bytes")):
            return SoundColumn(each.name, True, _is_text(fields.get("path")))
    elif _is_binary(each.type) and kind in (None, "Value", "Audio") and each.name.lower() in SOUND_NAMES:
        return SoundColumn(each.name, False)
    return None


def _is_binary(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _features(schema: pa.Schema) -> dict[str, str]:
    """What `datasets` says that each column is, where it wrote the file."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: kind["_type"] for name, kind in about.items() if isinstance(kind, dict) and "_type" in kind}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return {}


class _Names:
    """Names of rows below their table, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def name(self, number: int, path: str) -> str:
        """The path without what leads out of the table; the number before it where the path was there before, or alone."""
        parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", "..", "~")]
        name = "/".join(part for part in parts if not part.endswith(":"))
        if not name or name in self._taken:
            name = f"{_MISSING}-{number:07d}" + (f"/{name}" if name else "")
        self._taken.add(name)
        return name


# Parquet -----------------------------------------------------------------------------------------------------------


class ParquetTable:
    """A Parquet file with a column of sound."""

    def __init__(self, file: Path | BinaryIO, location: str, schema: pa.Schema, column: SoundColumn) -> None:
        self.column = column
        self.schema = schema
        self._file = file
        self._location = location

    def rows(self, labels: Collection[str] = ()) -> Iterator[SoundRow]:
        """All rows with these columns, flat ones; pa.ArrowInvalid where the file is damaged."""
        names, number = _Names(), 0
        for group, about in enumerate(foreign_parquet.outline(self._file)):
            has_sound = self._has_sound(group, about)
            size = about.bytes.get(self.column.sound, 0) // max(about.rows, 1)
            for at, row in enumerate(self._small(group, about.rows, labels)):
                path = _text((row.pop(self.column.name, None) or {}).get("path")) if self.column.has_path else ""
                place = RowPlace(self._location, group, at) if has_sound is None or has_sound[at] else None
                yield SoundRow(number, names.name(number, path), path, place, size, row)
                number += 1

    def _small(self, group: int, rows: int, labels: Collection[str]) -> Iterator[dict[str, Any]]:
        columns = [*self.column.paths, *labels]
        if not columns:
            return iter([{} for _ in range(rows)])
        return foreign_parquet.rows(self._file, columns, [group])

    def _has_sound(self, group: int, about: foreign_parquet.Group) -> list[bool] | None:
        """Which rows have bytes, None for all: from the footer, or from the sound itself where only some have."""
        missing = about.nulls.get(self.column.sound)
        if missing == 0:
            return None
        if missing is not None and missing >= about.rows:
            return [False] * about.rows
        found = [False] * about.rows
        for at, _ in self.sound(group):
            found[at] = True
        return found

    def sound(self, group: int, wanted: Collection[int] | None = None) -> Iterator[tuple[int, pa.Buffer]]:
        """The sound of the rows of a row group, or of those that are `wanted`, in order; rows without any are left out."""
        at = 0
        for batch in foreign_parquet.batches(self._file, [self.column.sound], [group]):
            values = batch.column(0).field("bytes") if self.column.is_struct else batch.column(0)
            for value in values:
                if value.is_valid and (wanted is None or at in wanted):
                    yield at, value.as_buffer()
                at += 1


def parquet_table(file: Path | BinaryIO, location: str) -> ParquetTable | None:
    """The table in a Parquet file; None where it is no such file, or has no column of sound."""
    try:
        schema = foreign_parquet.schema(file)
    except pa.ArrowException:
        return None
    column = sound_column(schema)
    return ParquetTable(file, location, schema, column) if column else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# Arrow -------------------------------------------------------------------------------------------------------------


class ArrowTable:
    """An Arrow file with a column of sound: a row's sound is a stretch of the file."""

    def __init__(self, file: foreign_arrow.ForeignArrow, location: str, column: SoundColumn) -> None:
        self.column = column
        self.schema = file.schema
        self._file = file
        self._location = location

    def rows(self, labels: Collection[str] = ()) -> Iterator[SoundRow]:
        """All rows with these columns, flat ones; pa.ArrowInvalid where the file is damaged, or packed."""
        names, number, file = _Names(), 0, self._file
        sound, paths = file.find(self.column.sound), [file.find(leaf) for leaf in self.column.paths]
        said = {name: file.find(name) for name in labels}
        for batch in file.batches():
            path_of = file.values(batch, paths[0]) if paths else [""] * batch.rows
            values = {name: file.values(batch, column) for name, column in said.items()}
            places = zip(file.stretches(batch, sound), self._has_sound(batch, sound), strict=True)
            for at, ((start, size), has_sound) in enumerate(places):
                path = path_of[at] or ""
                place = Place(self._location, start, size) if has_sound else None
                row = {name: column[at] for name, column in values.items()}
                yield SoundRow(number, names.name(number, path), path, place, size, row)
                number += 1

    def _has_sound(self, batch: foreign_arrow.Batch, sound: foreign_arrow.Column) -> list[bool]:
        whole = self._file.is_there(batch, self._file.find(self.column.name))
        return [a and b for a, b in zip(whole, self._file.is_there(batch, sound), strict=True)]


def arrow_table(file: BinaryIO, size: int, location: str) -> ArrowTable | None:
    """The table in an Arrow file of so many bytes; None where it is no such file, or has no column of sound."""
    try:
        arrow = foreign_arrow.ForeignArrow(file, size)
    except pa.ArrowException:
        return None
    column = sound_column(arrow.schema)
    return ArrowTable(arrow, location, column) if column else None

"""A Parquet table of somebody else -> its rows, a few at a time, in memory that its size in bytes allows.

A small table can claim any number of rows, and any size of a page; one text in a dictionary can be every row. So the claims of
the footer and of every page's header (Thrift's compact protocol, as the Parquet format says) are held against the bytes that are
there before a column is unpacked, and what comes out is counted. Every fault is a pa.ArrowInvalid: callers add the file's name.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

# Text packs to a tenth; a table of one text again and again to a hundredth.
_FREE_BYTES, _PAGE_RATIO, _TOTAL_RATIO = 1 << 24, 100, 1000
_FREE_ROWS = 100_000  # beyond these, each takes a byte of the file at least
_BATCH_BYTES, _BATCH_ROWS = 1 << 28, 256
_DAMAGE = (OSError, UnicodeDecodeError, OverflowError)  # as pyarrow calls it
_NONSENSE = (
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)  # numbers and structs that are not where they belong
_HEADER_BYTES = 1 << 16  # of a page; statistics of long texts are in it
_BUFFER = 1 << 20
Source = Path | bytes | BinaryIO


def batches(
    source: Source, columns: Sequence[str], row_groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """These columns of a table, or their leaves ("audio.path"); none of them may hold lists. All rows, or those of `row_groups`:
    then only what is read is looked at."""
    with _opened(source) as raw:
        size = raw.seek(0, io.SEEK_END)
        try:
            # Buffered: else a column is in memory as a whole, row group by row group.
            file = pq.ParquetFile(raw, page_checksum_verification=True, buffer_size=_BUFFER)
            largest = _largest_page(raw, file, size, columns, row_groups)
            rows, total = min(_BATCH_ROWS, max(1, _BATCH_BYTES // max(largest, 1))), 0
            for batch in file.iter_batches(rows, row_groups=row_groups, columns=list(columns)):
                total += batch.nbytes
                if total > _FREE_BYTES + _TOTAL_RATIO * size:
                    raise pa.ArrowInvalid(f"its {size:,} bytes unpack to more than {total:,}")
                yield batch
        except _DAMAGE as error:
            raise pa.ArrowInvalid(str(error)) from error


def rows(source: Source, columns: Sequence[str], row_groups: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of these columns."""
    for batch in batches(source, columns, row_groups):
        try:
            found = batch.to_pylist()
        except (ValueError, OverflowError) as error:  # dates that are none, too
            raise pa.ArrowInvalid(str(error)) from error
        yield from found


@dataclass(frozen=True)
class Group:
    """A row group, as the footer has it. Columns are leaves: "text", "audio.path"."""

    rows: int
    bytes: dict[str, int]
    """Of each column, packed."""
    nulls: dict[str, int]
    """Rows without a value, of each column that says so."""


def outline(source: Source) -> list[Group]:
    """The row groups of a table; nothing but its footer is read."""
    with _opened(source) as raw:
        size = raw.seek(0, io.SEEK_END)
        try:
            about = _footer(raw, size)
            groups = [_group(each) for each in about.get(4, [])]
            _require_rows(about, size)
        except _NONSENSE as error:
            raise pa.ArrowInvalid("its footer is damaged") from error
        except _DAMAGE as error:
            raise pa.ArrowInvalid(str(error)) from error
    return groups


def _group(about: dict[int, Any]) -> Group:
    """Of a column's chunk: 3 path_in_schema, 7 total_compressed_size, 12 statistics with 3 null_count."""
    chunks = {_leaf(chunk[3]): chunk[3] for chunk in about[1]}
    nulls = {name: chunk.get(12, {}).get(3) for name, chunk in chunks.items()}
    return Group(
        about[3],
        {name: chunk[7] for name, chunk in chunks.items()},
        {name: number for name, number in nulls.items() if isinstance(number, int) and number >= 0},
    )


def _leaf(chunk: dict[int, Any]) -> str:
    return ".".join(part.decode() for part in chunk[3])


def schema(source: Source) -> pa.Schema:
    """Names and types of all columns."""
    with _opened(source) as raw:
        try:
            return pq.read_schema(raw)
        except _DAMAGE as error:
            raise pa.ArrowInvalid(str(error)) from error


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    if isinstance(source, bytes | Path):
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as raw:
            yield raw
    else:
        yield source


def _largest_page(
    raw: BinaryIO, file: pq.ParquetFile, size: int, columns: Sequence[str], row_groups: Sequence[int] | None
) -> int:
    """Bytes of the largest page, unpacked: no cell is larger. ArrowInvalid where a claim does not fit the file's size."""
    for i in range(len(file.schema.names)):
        column = file.schema.column(i)
        if _is_among(column.path, columns) and column.max_repetition_level:
            raise pa.ArrowInvalid(f"its column {column.path} holds lists, expected single values")
    try:
        # Not by pyarrow's ColumnChunkMetaData: damage that it notices ends the whole process.
        about = _footer(raw, size)
        groups = about.get(4, [])
        _require_rows(about, size)
        if row_groups is None:
            chunks = [chunk[3] for group in groups for chunk in group[1]]
        else:
            read = [chunk[3] for number in row_groups for chunk in groups[number][1]]
            chunks = [chunk for chunk in read if _is_among(_leaf(chunk), columns)]
        pages = (page for chunk in chunks for page in _pages(raw, chunk, size))
        return max((page.unpacked for page in pages), default=0)
    except _NONSENSE as error:
        raise pa.ArrowInvalid("its footer or the headers of its pages are damaged") from error


def _is_among(leaf: str, columns: Sequence[str]) -> bool:
    return any(leaf == column or leaf.startswith(f"{column}.") for column in columns)


def _require_rows(about: dict[int, Any], size: int) -> None:
    if any(not 0 <= each[3] <= _FREE_ROWS + size for each in (about, *about.get(4, []))):
        raise pa.ArrowInvalid(f"it claims {about[3]:,} rows in {size:,} bytes")


@dataclass(frozen=True)
class _Page:
    packed: int
    unpacked: int


def _footer(raw: BinaryIO, size: int) -> dict[int, Any]:
    """FileMetaData of the format: 3 num_rows, 4 row_groups."""
    raw.seek(max(0, size - 8))
    length = int.from_bytes(raw.read(4), "little")
    raw.seek(max(0, size - 8 - length))
    return _Thrift(raw.read(length)).struct()


def _pages(raw: BinaryIO, chunk: dict[int, Any], size: int) -> Iterator[_Page]:
    """What the headers of a column's pages say; a chunk has 7 total_compressed_size, 9 data_page_offset, 11 dictionary_page_offset."""
    place = chunk[9] if not 0 < chunk.get(11, 0) < chunk[9] else chunk[11]
    end = place + chunk[7]
    if not 0 <= place <= end <= size:
        raise pa.ArrowInvalid(f"a column lies from byte {place:,} to {end:,} of {size:,}")
    while place < end:
        raw.seek(place)
        header = _Thrift(raw.read(min(_HEADER_BYTES, end - place)))
        fields = header.struct()
        page = _Page(packed=fields[3], unpacked=fields[2])
        if page.packed < 0 or not 0 <= page.unpacked <= _FREE_BYTES + _PAGE_RATIO * page.packed:
            raise pa.ArrowInvalid(f"a page of {page.packed:,} bytes claims to unpack to {page.unpacked:,}")
        yield page
        place += header.at + page.packed


@dataclass
class _Thrift:
    """A reader of one struct in Thrift's compact protocol; LookupError where it is none. Every value takes a byte at least."""

    data: bytes
    at: int = 0

    def struct(self) -> dict[int, Any]:
        """Values by field."""
        found, field = dict[int, Any](), 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            found[field] = kind == 1 if kind in (1, 2) else self._value(kind)  # a truth value is in the head itself
        return found

    def _value(self, kind: int) -> Any:
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind in (7, 8):
            length = 8 if kind == 7 else self._unsigned()
            self.at += length
            return self.data[self.at - length : self.at]
        if kind in (9, 10):
            head = self._byte()
            count = self._unsigned() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15) for _ in range(count)]
        if kind == 12:
            return self.struct()
        raise LookupError(f"no kind of value: {kind}")  # maps are in no footer and in no page's header

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while (byte := self._byte()) >= 128 and shift < 63:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

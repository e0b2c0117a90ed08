"""A Parquet table of somebody else -> its rows, a few at a time, in memory that its size in bytes allows.

A small table can claim any number of rows, and any size of a page; one text in a dictionary can be every row. So the claims of
the footer and of every page's header (Thrift's compact protocol, as the Parquet format says) are held against the bytes that are
there before a column is unpacked, and what comes out is counted. Every fault is a pa.ArrowInvalid: callers add the file's name.
"""

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
_HEADER_BYTES = 1 << 16  # of a page; statistics of long texts are in it


def batches(source: Path | bytes, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """These columns of a table; none of them may hold lists."""
    with _opened(source) as raw:
        size = raw.seek(0, io.SEEK_END)
        try:
            file = pq.ParquetFile(raw, page_checksum_verification=True)
            largest = _largest_page(raw, file, size, columns)
            rows, total = min(_BATCH_ROWS, max(1, _BATCH_BYTES // max(largest, 1))), 0
            for batch in file.iter_batches(rows, columns=list(columns)):
                total += batch.nbytes
                if total > _FREE_BYTES + _TOTAL_RATIO * size:
                    raise pa.ArrowInvalid(f"its {size:,} bytes unpack to more than {total:,}")
                yield batch
        except _DAMAGE as error:
            raise pa.ArrowInvalid(str(error)) from error


def rows(source: Path | bytes, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of these columns."""
    for batch in batches(source, columns):
        try:
            found = batch.to_pylist()
        except (ValueError, OverflowError) as error:  # dates that are none, too
            raise pa.ArrowInvalid(str(error)) from error
        yield from found


def schema(source: Path | bytes) -> pa.Schema:
    """Names and types of all columns."""
    with _opened(source) as raw:
        try:
            return pq.read_schema(raw)
        except _DAMAGE as error:
            raise pa.ArrowInvalid(str(error)) from error


def _opened(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _largest_page(raw: BinaryIO, file: pq.ParquetFile, size: int, columns: Sequence[str]) -> int:
    """Bytes of the largest page, unpacked: no cell is larger. ArrowInvalid where a claim does not fit the file's size."""
    for i in range(len(file.schema.names)):
        column = file.schema.column(i)
        if column.path.split(".")[0] in columns and column.max_repetition_level:
            raise pa.ArrowInvalid(f"its column {column.path} holds lists, expected single values")
    try:
        # Not by pyarrow's ColumnChunkMetaData: damage that it notices ends the whole process.
        about = _footer(raw, size)
        groups = about.get(4, [])
        if any(not 0 <= each[3] <= _FREE_ROWS + size for each in (about, *groups)):
            raise pa.ArrowInvalid(f"it claims {about[3]:,} rows in {size:,} bytes")
        chunks = [chunk[3] for group in groups for chunk in group[1]]
        pages = (page for chunk in chunks for page in _pages(raw, chunk, size))
        return max((page.unpacked for page in pages), default=0)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise pa.ArrowInvalid("its footer or the headers of its pages are damaged") from error


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

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
_BATCH_BYTES, _BATCH_ROWS = 1 << 28, 256
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
        except OSError as error:  # pyarrow's own for damage
            raise pa.ArrowInvalid(str(error)) from error


def rows(source: Path | bytes, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of these columns."""
    for batch in batches(source, columns):
        try:
            found = batch.to_pylist()
        except (ValueError, OverflowError) as error:  # text that is no UTF-8, dates that are none
            raise pa.ArrowInvalid(str(error)) from error
        yield from found


def schema(source: Path | bytes) -> pa.Schema:
    """Names and types of all columns."""
    with _opened(source) as raw:
        try:
            return pq.read_schema(raw)
        except OSError as error:
            raise pa.ArrowInvalid(str(error)) from error


def _opened(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _largest_page(raw: BinaryIO, file: pq.ParquetFile, size: int, columns: Sequence[str]) -> int:
    """Bytes of the largest page, unpacked: no cell is larger. ArrowInvalid where a claim does not fit the file's size."""
    about, largest = file.metadata, 0
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    if not 0 <= about.num_rows <= size or any(not 0 <= group.num_rows <= size for group in groups):
        raise pa.ArrowInvalid(f"it claims {about.num_rows:,} rows in {size:,} bytes")
    for i in range(about.num_columns):
        if file.schema.column(i).path.split(".")[0] not in columns:
            continue
        if file.schema.column(i).max_repetition_level:
            raise pa.ArrowInvalid(f"its column {file.schema.column(i).path} holds lists, expected single values")
        for group in groups:
            for page in _pages(raw, group.column(i), size):
                if page.unpacked > _FREE_BYTES + _PAGE_RATIO * page.packed:
                    raise pa.ArrowInvalid(f"a page of {page.packed:,} bytes claims to unpack to {page.unpacked:,}")
                largest = max(largest, page.unpacked)
    return largest


@dataclass(frozen=True)
class _Page:
    packed: int
    unpacked: int


def _pages(raw: BinaryIO, chunk: pq.ColumnChunkMetaData, size: int) -> Iterator[_Page]:
    """What the headers of a column's pages say, from the first to the last."""
    place = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < place:
        place = chunk.dictionary_page_offset
    end = place + chunk.total_compressed_size
    if not 0 <= place <= end <= size:
        raise pa.ArrowInvalid(f"a column lies from byte {place:,} to {end:,} of {size:,}")
    while place < end:
        raw.seek(place)
        header = _Thrift(raw.read(min(_HEADER_BYTES, end - place)))
        try:
            fields = header.numbers()
            page = _Page(fields[3], fields[2])
        except (IndexError, KeyError, RecursionError) as error:
            raise pa.ArrowInvalid(f"there is no header of a page at byte {place:,}") from error
        if page.packed < 0 or page.unpacked < 0:
            raise pa.ArrowInvalid(f"the page at byte {place:,} has less than no bytes")
        yield page
        place += header.at + page.packed


@dataclass
class _Thrift:
    """A reader of one struct in Thrift's compact protocol."""

    data: bytes
    at: int = 0

    def numbers(self) -> dict[int, int]:
        """The whole numbers of a struct by field; everything else is passed over."""
        found, field = dict[int, int](), 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._signed()
            if head & 15 in (4, 5, 6):
                found[field] = self._signed()
            else:
                self._pass(head & 15, in_list=False)
        return found

    def _pass(self, kind: int, *, in_list: bool) -> None:
        if kind in (1, 2):  # a truth value: in a struct it is in the head itself
            self.at += in_list
        elif kind == 3:
            self.at += 1
        elif kind in (4, 5, 6):
            self._signed()
        elif kind == 7:
            self.at += 8
        elif kind == 8:
            length = self._unsigned()
            self.at += length
        elif kind in (9, 10):
            head = self._byte()
            for _ in range(self._unsigned() if head >> 4 == 15 else head >> 4):
                self._pass(head & 15, in_list=True)
                if self.at > len(self.data):
                    raise IndexError
        elif kind == 12:
            self.numbers()
        else:  # maps are in no page's header
            raise KeyError(kind)

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise IndexError

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

"""Binary values of a Parquet file, read one at a time where they lie: nothing else of the file comes into memory.

For columns that lie open: not null, uncompressed, plainly coded, one page for each row group, whose values have so many bytes for each
token of the row. So the place of a value follows by adding up. The first time that a page is touched it is read whole and compared with the
checksum in its header; later reads of it take the value alone.
Format of the headers: parquet-format, PageHeader, in Thrift's compact protocol.
Legend: N values (rows of the file), G row groups.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from tinywave_core.errors import DamagedArtifactError
from tinywave_core.storage.ranges import Ranges

_LENGTH_BYTES = 4  # before each value
_DATA_PAGE = 0
_PAGES_AT_ONCE = 16


class Layout:
    """Where the pages of some columns lie in one file: arrays, so that they can be kept."""

    def __init__(
        self, columns: Sequence[str], first_rows: npt.NDArray[np.int64], chunks: npt.NDArray[np.int64]
    ) -> None:
        """`first_rows` [G + 1] ends with N; `chunks` [columns, G, 2] has start and length of each column's bytes in each group."""
        self.columns = tuple(columns)
        self.first_rows, self.chunks = first_rows, chunks

    @classmethod
    def of(cls, path: Path, columns: Sequence[str]) -> "Layout":
        """From the file's footer; DamagedArtifactError where a column is compressed or coded otherwise."""
        metadata = pq.read_metadata(path)
        names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
        first_rows = np.cumsum([0, *(group.num_rows for group in groups)], dtype=np.int64)
        chunks = np.zeros((len(columns), len(groups), 2), dtype=np.int64)
        for c, column in enumerate(columns):
            number = names.index(column)
            for g, group in enumerate(groups):
                chunk = group.column(number)
                if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page:
                    raise DamagedArtifactError(
                        f"{path}: the column {column} is {chunk.compression.lower()}, expected one that lies open: this file was "
                        "not written by this version of TinyWave; run its stage again"
                    )
                chunks[c, g] = chunk.data_page_offset, chunk.total_compressed_size
        return cls(columns, first_rows, chunks)


class Values:
    """The values of one file's open columns."""

    def __init__(
        self, file: Ranges, layout: Layout, tokens_before: npt.NDArray[np.int64], widths: Mapping[str, int]
    ) -> None:
        """`tokens_before` counts the tokens before each row [N + 1]; `widths` has the bytes of one token in each column."""
        self._file, self._layout, self._before = file, layout, tokens_before
        self._widths = [widths[column] for column in layout.columns]
        self._numbers = {column: number for number, column in enumerate(layout.columns)}
        self._verified = np.zeros(layout.chunks.shape[:2], dtype=bool)

    def read(self, rows_R: npt.NDArray[np.int64], column: str) -> list[bytes]:
        """The bytes of some rows' values; DamagedArtifactError where the file is cut or a page is not what was written."""
        number, before, first_rows = self._numbers[column], self._before, self._layout.first_rows
        width = self._widths[number]
        groups_R = np.searchsorted(first_rows, rows_R, side="right") - 1
        first_R, last_R = first_rows[groups_R], first_rows[groups_R + 1]
        starts_R, sizes_R = self._layout.chunks[number, groups_R].T
        headers_R = sizes_R - width * (before[last_R] - before[first_R]) - (last_R - first_R) * _LENGTH_BYTES
        at_R = headers_R + width * (before[rows_R] - before[first_R]) + (rows_R - first_R + 1) * _LENGTH_BYTES
        lengths_R = width * (before[rows_R + 1] - before[rows_R])
        wanted = list(enumerate(_plain(groups_R, starts_R, sizes_R, headers_R, at_R, lengths_R)))
        new = {g: (start, size, header) for _, (g, start, size, header, *_) in wanted if not self._verified[number, g]}
        found: dict[int, bytes] = {}
        # A few pages at a time, and of each only what is wanted is kept: a page is a hundred times as large.
        for some in _batched(new, _PAGES_AT_ONCE):
            pages = self._pages(number, {group: new[group] for group in some})
            found |= {r: bytes(pages[g][at : at + n]) for r, (g, *_, at, n) in wanted if g in pages}
        alone = [(r, (start + at, n)) for r, (g, start, _, _, at, n) in wanted if g not in new]
        if alone:
            values = self._file.read([part for _, part in alone])
            found |= {r: value for (r, _), value in zip(alone, values, strict=True)}
        return [found[r] for r in range(len(wanted))]

    def _pages(self, column: int, new: Mapping[int, tuple[int, int, int]]) -> dict[int, memoryview]:
        """The pages of row groups that were not touched before, compared with their checksums; by start, bytes and header."""
        found = self._file.read([(start, size) for start, size, _ in new.values()])
        pages = {group: memoryview(data) for group, data in zip(new, found, strict=True)}
        for group, (_, _, header) in new.items():
            self._verify(pages[group], header, group, column)
            self._verified[column, group] = True
        return pages

    def _verify(self, page: memoryview, header: int, group: int, column: int) -> None:
        rows = int(self._layout.first_rows[group + 1] - self._layout.first_rows[group])
        try:
            length, fields = page_header(page[: max(header, 0)])
            body = page[header:]
            sound = (
                length == header
                and (fields[1], fields[2], fields[3], fields[5]) == (_DATA_PAGE, len(body), len(body), rows)
                and fields[4] & 0xFFFFFFFF == zlib.crc32(body)
            )
        except (IndexError, KeyError):
            sound = False
        if not sound:
            raise DamagedArtifactError(
                f"{self._file} is damaged in row group {group}, column {self._layout.columns[column]}: its bytes are not those "
                "that were written. Run `tinywave repair`, then run again"
            )


def _batched(items: Iterable[int], count: int) -> Iterator[list[int]]:
    """Lists of `count` items, the last one shorter (itertools has it from Python 3.12 on)."""
    rest = iter(items)
    while part := list(islice(rest, count)):
        yield part


def _plain(*arrays: npt.NDArray[np.int64]) -> list[tuple[int, ...]]:
    """Rows of plain numbers: those of NumPy take ten times as long one by one."""
    return list(zip(*(array.tolist() for array in arrays), strict=True))


# Page headers ----------------------------------------------------------------------------------------------------------

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_VALUES_OF_DATA_PAGE = 5  # a struct, whose first field counts the values


def page_header(data: memoryview) -> tuple[int, dict[int, int]]:
    """Length of a page header in bytes, and its integer fields by number; in place of the struct 5 the number of values in it.

    IndexError where the bytes end first or are no header.
    """
    return _struct(data, 0, top=True)


def _struct(data: memoryview, at: int, *, top: bool) -> tuple[int, dict[int, int]]:
    fields: dict[int, int] = {}
    number = 0
    while (head := data[at]) != 0:
        at += 1
        kind, step = head & 15, head >> 4
        if step:
            number += step
        else:
            number, at = _zigzag(data, at)
        if kind == _STRUCT:
            at, inner = _struct(data, at, top=False)
            if top and number == _VALUES_OF_DATA_PAGE:
                fields[number] = inner[1]
        elif kind in (_TRUE, _FALSE):
            fields[number] = int(kind == _TRUE)
        elif kind == _BINARY:  # statistics: passed over
            size, at = _varint(data, at)
            at += size
        elif kind in (_BYTE, _DOUBLE, _LIST, _SET) or kind > _STRUCT:
            raise IndexError("no page header has such a field")
        else:
            fields[number], at = _zigzag(data, at)
    return at + 1, fields


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("a number of more than 64 bits")


def _zigzag(data: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at

"""Parquet files with page checksums that are written and verified: a flipped bit is found, not read."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 1024
Keep = Callable[[pa.Table], pa.ChunkedArray]
"""Rows -> true for those that are kept."""


def write_table(
    table: pa.Table, path: Path, *, compression: str = "zstd", row_group_rows: int = ROW_GROUP_ROWS
) -> None:
    """Write one Parquet file; the same table gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_rows, **_options(compression))


def _options(compression: str) -> dict[str, Any]:
    return {
        "compression": compression,
        # Off by default in Parquet: a flipped bit in a page then reads as other audio or other tokens (decision 1).
        "write_page_checksum": True,
        "write_statistics": False,
        "store_schema": True,
    }


class RowWriter:
    """Writes rows to one Parquet file as they come, a row group at a time: the bytes are those of `write_table` of all rows.

    Use as a context manager.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._held = schema.empty_table()
        self._wrote = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, schema, **_options("zstd"))

    def __enter__(self) -> Self:
        return self

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows of the schema."""
        self.add_table(pa.Table.from_pylist(list(rows), schema=self._schema))

    def add_table(self, table: pa.Table) -> None:
        """Append the rows of a table of the schema."""
        self._held = pa.concat_tables([self._held, table])
        # Only whole groups: where a group ends does not depend on how many rows came at once.
        self._write(len(self._held) // ROW_GROUP_ROWS * ROW_GROUP_ROWS)

    def _write(self, count: int) -> None:
        if count:
            self._writer.write_table(self._held.slice(0, count).combine_chunks(), row_group_size=ROW_GROUP_ROWS)
            # Taken, not sliced: a slice would keep all that was written.
            self._held = self._held.take(pa.array(range(count, len(self._held)), pa.int64()))
            self._wrote = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write(len(self._held))
            if not self._wrote:
                self._writer.write_table(self._schema.empty_table())
        self._writer.close()


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file, or some of its columns, verifying page checksums."""
    return pq.ParquetFile(path, page_checksum_verification=True).read(columns=columns)


def row_groups(path: Path, columns: list[str] | None = None, keep: Keep | None = None) -> Iterator[pa.Table]:
    """The rows of one Parquet file, a row group at a time and no more in memory, verifying page checksums; those that `keep` keeps."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns)
            yield table if keep is None else table.filter(keep(table))


def rows_of(path: Path, columns: list[str] | None = None, keep: Keep | None = None) -> Iterator[dict[str, Any]]:
    """`row_groups` row by row: what is not kept never becomes a Python object."""
    for table in row_groups(path, columns, keep):
        yield from table.to_pylist()


def where(column: str, value: str) -> Keep:
    """Keeps the rows that have this value there."""
    return lambda table: pc.equal(table[column], value)


def column_bytes(path: Path, column: str) -> int:
    """Compressed bytes of one column in a Parquet file."""
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(c.total_compressed_size for c in chunks if c.path_in_schema.split(".")[0] == column)

"""Parquet files with page checksums that are written and verified: a flipped bit is found, not read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_table(table: pa.Table, path: Path, *, compression: str = "zstd", row_group_rows: int = 1024) -> None:
    """Write one Parquet file; the same table gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table,
        path,
        compression=compression,
        row_group_size=row_group_rows,
        # Off by default in Parquet: a flipped bit in a page then reads as other audio or other tokens (decision 1).
        write_page_checksum=True,
        write_statistics=False,
        store_schema=True,
    )


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file, or some of its columns, verifying page checksums."""
    return pq.ParquetFile(path, page_checksum_verification=True).read(columns=columns)


def column_bytes(path: Path, column: str) -> int:
    """Compressed bytes of one column in a Parquet file."""
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(c.total_compressed_size for c in chunks if c.path_in_schema.split(".")[0] == column)

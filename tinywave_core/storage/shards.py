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
        write_page_checksum=True,
        write_statistics=False,
        store_schema=True,
    )


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file, or some of its columns, verifying page checksums."""
    return pq.ParquetFile(path, page_checksum_verification=True).read(columns=columns)

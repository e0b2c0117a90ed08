"""Parquet with page checksums: the same bytes for the same table, and no silent damage."""

from pathlib import Path

import pyarrow as pa
import pytest

from tinywave_core.storage.shards import RowWriter, read_table, row_groups, rows_of, where, write_table


def test_the_same_table_gives_the_same_bytes(tmp_path):
    table = pa.table({"ids": [[1, 2], [3]], "name": ["a", "b"]})
    write_table(table, tmp_path / "one.parquet")
    write_table(table, tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def with_a_flipped_bit(folder: Path) -> Path:
    path = folder / "one.parquet"
    write_table(pa.table({"blob": pa.array([b"\x00" * 4096], pa.binary())}), path, compression="none")
    raw = bytearray(path.read_bytes())
    raw[2000] ^= 1
    path.write_bytes(raw)
    return path


def test_a_flipped_bit_in_a_page_is_found(tmp_path):
    path = with_a_flipped_bit(tmp_path)
    with pytest.raises(OSError, match="(?i)crc|checksum"):
        read_table(path)


def test_row_groups_are_the_rows_of_the_table_and_what_is_not_kept_is_left_out(tmp_path):
    table = pa.table({"number": range(3000), "side": ["a", "b", "b"] * 1000})
    write_table(table, tmp_path / "one.parquet")
    assert [len(group) for group in row_groups(tmp_path / "one.parquet")] == [1024, 1024, 952]
    assert list(rows_of(tmp_path / "one.parquet")) == table.to_pylist()
    kept = [row["number"] for row in rows_of(tmp_path / "one.parquet", ["number", "side"], where("side", "a"))]
    assert kept == list(range(0, 3000, 3))


def test_a_flipped_bit_is_found_row_group_by_row_group(tmp_path):
    path = with_a_flipped_bit(tmp_path)
    with pytest.raises(OSError, match="(?i)crc|checksum"):
        list(rows_of(path))


@pytest.mark.parametrize("sizes", [[1], [1000, 24, 1], [3000, 0, 5, 2100]])
def test_tables_that_come_in_parts_are_the_bytes_of_all_at_once(tmp_path, sizes):
    table = pa.table({"name": [str(i % 7) for i in range(sum(sizes))], "value": [i / 3 for i in range(sum(sizes))]})
    with RowWriter(tmp_path / "parts", table.schema) as writer:
        first = 0
        for size in sizes:
            writer.add_table(table.slice(first, size))
            first += size
    write_table(table, tmp_path / "whole")
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()

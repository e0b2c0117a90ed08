"""Parquet with page checksums: the same bytes for the same table, and no silent damage."""

import pyarrow as pa
import pytest

from tinywave_core.storage.shards import read_table, write_table


def test_the_same_table_gives_the_same_bytes(tmp_path):
    table = pa.table({"ids": [[1, 2], [3]], "name": ["a", "b"]})
    write_table(table, tmp_path / "one.parquet")
    write_table(table, tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_a_flipped_bit_in_a_page_is_found(tmp_path):
    path = tmp_path / "one.parquet"
    write_table(pa.table({"blob": pa.array([b"\x00" * 4096], pa.binary())}), path, compression="none")
    raw = bytearray(path.read_bytes())
    raw[2000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OSError, match="(?i)crc|checksum"):
        read_table(path)

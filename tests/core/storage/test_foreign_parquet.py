"""Tables of others: what they claim is held against their bytes, and every fault is one kind of error."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinywave_core.storage import foreign_parquet
from tinywave_core.storage.foreign_parquet import batches, rows

WORDS = [f"some words {i % 7} of row {i}" for i in range(3000)]
WAYS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "zstd": {"compression": "zstd", "compression_level": 19},
    "checksums": {"write_page_checksum": True, "compression": "none"},
    "second version": {"data_page_version": "2.0", "compression": "gzip"},
    "no dictionary": {"use_dictionary": False, "data_page_size": 512},
    "prefixes": {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
    "small groups": {"row_group_size": 100},
    "index": {"write_page_index": True, "write_statistics": False},
}


def table(columns: dict[str, Any], **options: Any) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table(columns), data, **options)
    return data.getvalue()


@pytest.mark.parametrize("way", WAYS)
def test_rows_come_out_however_they_were_written(way: str, tmp_path: Path):
    data = table({"text": WORDS, "number": range(3000)}, **WAYS[way])
    (tmp_path / "a.parquet").write_bytes(data)
    assert [row["text"] for row in rows(tmp_path / "a.parquet", ["text"])] == WORDS
    assert [row["number"] for row in rows(data, ["number"])] == list(range(3000))


@pytest.mark.parametrize("way", WAYS)
def test_footer_and_pages_are_read_as_pyarrow_reads_them(way: str):
    data = table({"text": WORDS}, **WAYS[way])
    raw = io.BytesIO(data)
    theirs, ours = pq.read_metadata(raw), foreign_parquet._footer(raw, len(data))
    assert (ours[3], len(ours[4])) == (theirs.num_rows, theirs.num_row_groups)
    for i, group in enumerate(ours[4]):
        chunk, about = theirs.row_group(i).column(0), group[1][0][3]
        assert about[3] == [b"text"] and group[3] == theirs.row_group(i).num_rows
        pages = list(foreign_parquet._pages(raw, about, len(data)))
        headers = chunk.total_compressed_size - sum(page.packed for page in pages)
        assert sum(page.unpacked for page in pages) + headers == chunk.total_uncompressed_size
        assert len(pages) <= headers <= 100 * len(pages)


def peak_mb(source: bytes | Path, columns: list[str]) -> tuple[str, float]:
    """What is said of a table that is refused, and the most memory that pyarrow took."""
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(pa.ArrowInvalid) as refused:
            for _ in batches(source, columns):
                pass
        return str(refused.value), pool.max_memory() / 1e6
    finally:
        pa.set_memory_pool(before)


@pytest.mark.parametrize("way", ["zstd", "second version", "prefixes"])
def test_one_huge_cell_in_a_small_file_is_refused_before_it_is_unpacked(way: str):
    data = table(
        {"text": ["a" * (64 << 20)]},
        **({"use_dictionary": False, "compression": "zstd"} | WAYS[way] | {"compression_level": 1}),
    )
    assert len(data) < 300_000
    said, megabytes = peak_mb(data, ["text"])
    assert "claims to unpack to 67,10" in said and megabytes < 1


def test_a_small_file_of_a_great_many_empty_rows_is_refused():
    data = table({"text": pa.nulls(10_000_000, pa.string())})
    assert len(data) < 20_000
    said, megabytes = peak_mb(data, ["text"])
    assert said == f"it claims 10,000,000 rows in {len(data):,} bytes" and megabytes < 1


@pytest.mark.parametrize("claimed", [1 << 62, -1, 10**12])
def test_a_footer_that_claims_rows_which_are_not_there_is_refused(claimed: int):
    data = table({"text": []})
    said, _ = peak_mb(forged(data, claimed), ["text"])
    assert said.startswith(f"it claims {claimed:,} rows in")


def forged(data: bytes, claimed: int) -> bytes:
    """A table of one column without rows that says it has so many: num_rows stands behind the schema and before the row groups."""
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    zigzag, number = (claimed << 1) ^ (claimed >> 63), bytearray()
    while zigzag >= 128:
        number.append(zigzag & 127 | 128)
        zigzag >>= 7
    number.append(zigzag)
    before = b"\x16\x00\x19\x1c"  # num_rows 0, then a list of one row group
    assert footer.count(before) == 1
    footer = footer.replace(before, b"\x16" + bytes(number) + b"\x19\x1c")
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def test_one_text_of_a_dictionary_that_is_every_row_is_given_up():
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 600, pa.int32()), pa.array(["a" * (2 << 20)]))
    data = table({"text": text}, store_schema=False, dictionary_pagesize_limit=1 << 24, compression="zstd")
    assert len(data) < 2_000
    said, megabytes = peak_mb(data, ["text"])
    assert "bytes unpack to more than" in said and megabytes < 450


def test_lists_are_refused():
    said, _ = peak_mb(table({"path": [["a", "b"]]}), ["path"])
    assert said == "its column path.list.element holds lists, expected single values"


def test_a_column_whose_name_is_no_text_is_refused():
    data = table({"text": ["a"]}, store_schema=False).replace(b"text", b"te\xfft")
    said, _ = peak_mb(data, ["text"])
    assert "codec can't decode" in said


def damaged(data: bytes, places: list[tuple[float, int]], from_footer: bool) -> bytes:
    changed = bytearray(data)
    length = int.from_bytes(data[-8:-4], "little") if from_footer else len(data) - 8
    for share, byte in places:
        changed[len(data) - 9 - int(share * (length - 1))] = byte
    return bytes(changed)


DAMAGED = [
    table({"text": WORDS[:50], "n": [0.5] * 50}, **WAYS[way]) for way in ("as it comes", "zstd", "no dictionary")
]
places = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4)


def check_damage(number: int, where: list[tuple[float, int]], in_footer: bool) -> None:
    try:
        for _ in rows(damaged(DAMAGED[number], where, in_footer), ["text", "n"]):
            pass
    except pa.ArrowException:
        pass


@settings(max_examples=100)
@given(st.integers(0, 2), places, st.booleans())
def test_a_damaged_table_is_read_or_refused_with_one_kind_of_error(number: int, where: Any, in_footer: bool):
    check_damage(number, where, in_footer)


@pytest.mark.nightly
@settings(max_examples=20_000)
@given(st.integers(0, 2), places, st.booleans())
def test_many_damaged_tables_are_read_or_refused_with_one_kind_of_error(number: int, where: Any, in_footer: bool):
    check_damage(number, where, in_footer)

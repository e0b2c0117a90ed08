"""Tables with a column of sound: their rows are recordings where they lie, with their labels, and no sound is read to list them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinywave_core.audio.audio_tables import ParquetTable, sound_column
from tinywave_core.audio.catalog import Catalog
from tinywave_core.audio.labels.report import Some
from tinywave_core.audio.scan import NewFile, group_by_size, scan_source
from tinywave_core.audio.sidecars import Label, Labels, read_labels
from tinywave_core.audio.source import Source, SourceFile
from tinywave_core.errors import SourceError
from tinywave_core.storage import foreign_parquet
from tinywave_core.storage.store import Store

AUDIO = pa.struct({"bytes": pa.binary(), "path": pa.string()})
SOUNDS = [b"one" * 1000, b"two", b"three", b"four", b"five"]


def table(sounds: list[bytes | None], paths: list[str | None], **columns: list[Any]) -> pa.Table:
    cells = [{"bytes": sound, "path": path} for sound, path in zip(sounds, paths, strict=True)]
    return pa.table({"audio": pa.array(cells, AUDIO), **columns})


def parquet(path: Path, content: pa.Table, rows: int = 2, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path, row_group_size=rows, **options)


def stream(path: Path, content: pa.Table, rows: int = 2, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(path, content.schema, **options) as writer:
        writer.write_table(content, max_chunksize=rows)


def ipc_file(path: Path, content: pa.Table, rows: int = 2) -> None:
    with pa.ipc.new_file(path, content.schema) as writer:
        writer.write_table(content, max_chunksize=rows)


def parquet_bare(path: Path, content: pa.Table) -> None:
    """Nothing in the footer says which rows have no sound."""
    parquet(path, content, write_statistics=False)


FORMS = {"parquet": parquet, "parquet, no statistics": parquet_bare, "arrow": stream, "arrow, file": ipc_file}
NAMES = ["u1.flac", "clips/u2.flac", "/home/me/u3.flac", "u1.flac", None]


def labels(source: Source) -> Labels:
    listing = source.listing()
    return read_labels(source, listing, [file.path for file in listing.audio])


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_recordings_with_their_own_bytes_and_labels(tmp_path: Path, form: str) -> None:
    name = "t.parquet" if "parquet" in form else "t.arrow"
    says = {"Sentence": ["eins", "zwei", None, "vier", "fünf"], "speaker_id": [7, 7, 8, None, 9]}
    FORMS[form](tmp_path / name, table(SOUNDS, NAMES, **says))
    source = Source(str(tmp_path))
    listing = source.listing()
    found = {file.path.removeprefix(f"{name}/"): file for file in listing.audio}
    assert set(found) == {"u1.flac", "clips/u2.flac", "home/me/u3.flac", "row-0000003/u1.flac", "row-0000004"}
    in_order = [found[each] for each in ("u1.flac", "clips/u2.flac", "home/me/u3.flac", "row-0000003/u1.flac")]
    in_order.append(found["row-0000004"])
    assert source.hashes(in_order) == [hashlib.sha256(sound).hexdigest() for sound in SOUNDS]
    assert len({file.stamp for file in in_order}) == 5
    with source.unpacked([file.location for file in in_order], tmp_path / "rows"):
        for file, sound in zip(in_order, SOUNDS, strict=True):
            with source.local_path(file.location, tmp_path / "scratch") as path:
                assert path.read_bytes() == sound
    assert not (tmp_path / "rows").exists()
    seen = labels(source).by_path
    assert [seen[file.path] for file in in_order] == [
        Label("7", "eins"),
        Label("7", "zwei"),
        Label("8"),
        Label(None, "vier"),
        Label("9", "fünf"),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_a_row_without_bytes_labels_the_file_that_it_names_or_is_told(tmp_path: Path, form: str) -> None:
    name = "t.parquet" if "parquet" in form else "t.arrow"
    sounds = [b"one", None, None, None]
    paths = ["a.wav", "wavs/b.wav", "lost.wav", None]
    (tmp_path / "wavs").mkdir()
    (tmp_path / "wavs" / "b.wav").write_bytes(b"beside")
    FORMS[form](tmp_path / name, table(sounds, paths, text=["a", "b", "c", "d"]))
    found = labels(Source(str(tmp_path)))
    assert found.by_path == {f"{name}/a.wav": Label(None, "a"), "wavs/b.wav": Label(None, "b")}
    assert found.orphans == (f"{name}: lost.wav",)
    assert found.report.problems == (Some("no sound", 1, (f"{name}: row 3",)),)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_columns_of_any_other_kind_are_passed_over(tmp_path: Path, form: str) -> None:
    others = {
        "tags": [["a"], []],
        "of": pa.array(["x", "y"]).dictionary_encode(),
        "nested": [{"a": [{"b": 1}]}, None],
        "ok": [True, None],
        "snr": [1.5, None],
    }
    speakers = pa.array([1, 2], pa.uint8())
    base = table([b"1", b"22"], ["a.wav", "b.wav"], text=["one", "zwei"], speaker=speakers)
    content = pa.table([*pa.table(others).columns, *base.columns], names=[*others, *base.column_names])
    FORMS[form](tmp_path / f"t.{form}", content, rows=1)
    source = Source(str(tmp_path))
    assert source.hashes(source.listing().audio) == [hashlib.sha256(sound).hexdigest() for sound in (b"1", b"22")]
    assert list(labels(source).by_path.values()) == [Label("1", "one"), Label("2", "zwei")]


def test_a_manifest_overrules_the_rows(tmp_path: Path) -> None:
    parquet(tmp_path / "t.parquet", table([b"1"], ["a.wav"], text=["of the row"]))
    (tmp_path / "manifest.csv").write_text("path,transcript\nt.parquet/a.wav,of the manifest\n")
    assert labels(Source(str(tmp_path))).by_path == {"t.parquet/a.wav": Label(None, "of the manifest")}


def test_plain_binary_columns_are_sound_by_their_name_and_pictures_are_not(tmp_path: Path) -> None:
    parquet(tmp_path / "plain.parquet", pa.table({"wav": [b"1", b"2"], "text": ["a", "b"]}))
    parquet(tmp_path / "pictures.parquet", table([b"1"], ["a.png"]).rename_columns(["image"]))
    features = {"info": {"features": {"audio": {"_type": "Image"}}}}
    said = table([b"1"], ["a.png"]).replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet(tmp_path / "says.parquet", said)
    listing = Source(str(tmp_path)).listing()
    assert [file.path for file in listing.audio] == ["plain.parquet/row-0000000", "plain.parquet/row-0000001"]
    assert [file.path for file in listing.sidecars] == ["pictures.parquet", "says.parquet"]


def test_a_column_called_audio_comes_first() -> None:
    schema = pa.schema({"prompt": AUDIO, "audio": AUDIO})
    column = sound_column(schema)
    assert column is not None
    assert column.name == "audio"


@pytest.mark.parametrize("form", FORMS)
def test_of_several_columns_of_sound_it_is_told_which_was_taken(tmp_path: Path, form: str) -> None:
    both = table([b"1", b"2"], ["a.wav", "b.wav"]).append_column(
        "noisy", table([b"3", b"4"], ["c.wav", "d.wav"])["audio"]
    )
    FORMS[form](tmp_path / ("t.parquet" if "parquet" in form else "t.arrow"), both.select(["noisy", "audio"]))
    name = next(tmp_path.iterdir()).name
    listing = Source(str(tmp_path)).listing()
    assert listing.left_out.line() == (
        f"left out below the source: 1 further column of sound in a table, which has another ({name}: noisy, taken is audio)"
    )
    assert Source(str(tmp_path)).hashes(listing.audio) == [hashlib.sha256(sound).hexdigest() for sound in (b"1", b"2")]


def damaged(data: bytes, at: float) -> bytes:
    place = int(len(data) * at)
    return data[:place] + bytes(byte ^ 0xFF for byte in data[place : place + 40]) + data[place + 40 :]


@pytest.mark.parametrize("form", ["parquet", "arrow", "arrow, file"])
def test_damage_and_foreign_files_are_never_more_than_a_file_without_rows(tmp_path: Path, form: str) -> None:
    name = "t.parquet" if form == "parquet" else "t.arrow"
    FORMS[form](tmp_path / name, table(SOUNDS, NAMES, text=["a"] * 5))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / "a.wav").write_bytes(b"a")
    spoilt = [whole[: int(len(whole) * share)] for share in (0, 0.3, 0.9)] + [
        damaged(whole, share / 40) for share in range(40)
    ]
    for data in spoilt:
        (tmp_path / name).write_bytes(data)
        source = Source(str(tmp_path))
        listing = source.listing()
        read_labels(source, listing, [file.path for file in listing.audio])
        digests = source.hashes(listing.audio)
        assert "a.wav" in [file.path for file, digest in zip(listing.audio, digests, strict=True) if digest]
    (tmp_path / name).write_bytes(b"no table")
    listing = Source(str(tmp_path)).listing()
    assert name in [file.path for file in (*listing.audio, *listing.sidecars)]


def test_packed_arrow_is_a_file_that_is_told_and_not_rows(tmp_path: Path) -> None:
    stream(tmp_path / "t.arrow", table([b"1" * 9999], ["a.wav"]), options=pa.ipc.IpcWriteOptions(compression="lz4"))
    assert [file.path for file in Source(str(tmp_path)).listing().audio] == ["t.arrow"]


def test_offsets_that_lead_out_of_the_sound_are_refused(tmp_path: Path) -> None:
    stream(tmp_path / "t.arrow", table([b"first-sound", b"second-sound"], ["a", "b"]))
    data = (tmp_path / "t.arrow").read_bytes()
    offsets = b"".join(number.to_bytes(4, "little") for number in (0, 11, 23))
    assert data.count(offsets) == 1
    for forged in ((0, 11, 1 << 30), (0, 90, 23), (-5, 11, 23)):
        new = b"".join(number.to_bytes(4, "little", signed=True) for number in forged)
        (tmp_path / "t.arrow").write_bytes(data.replace(offsets, new))
        assert [file.path for file in Source(str(tmp_path)).listing().audio] == ["t.arrow"]


def test_more_rows_than_bytes_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    rows = 77
    stream(tmp_path / "t.arrow", table([b"1"] * rows, ["a.wav"] * rows), rows)
    data, number = (tmp_path / "t.arrow").read_bytes(), rows.to_bytes(8, "little")
    assert data.count(number) > 1
    (tmp_path / "t.arrow").write_bytes(data.replace(number, (1 << 50).to_bytes(8, "little")))
    assert [file.path for file in Source(str(tmp_path)).listing().audio] == ["t.arrow"]


def test_a_table_in_a_bucket_is_read_where_it_lies(tmp_path: Path) -> None:
    parquet(tmp_path / "t.parquet", table(SOUNDS, NAMES, text=list("abcde")))
    stream(tmp_path / "t.arrow", table(SOUNDS[:1], ["a.wav"], text=["a"]))
    memory = fsspec.filesystem("memory")
    try:
        for name in ("t.parquet", "t.arrow"):
            memory.pipe(f"/layouts-bucket/{name}", (tmp_path / name).read_bytes())
        source = Source("memory://layouts-bucket")
        listing = source.listing()
        assert [file.path for file in listing.audio if "arrow" in file.path] == ["t.arrow/a.wav"]
        assert set(source.hashes(listing.audio)) == {hashlib.sha256(sound).hexdigest() for sound in SOUNDS}
        locations = [file.location for file in listing.audio]
        with source.unpacked(locations, tmp_path / "rows"):
            for location in locations:
                with source.local_path(location, tmp_path / "scratch") as path:
                    assert path.read_bytes() in SOUNDS
        assert {label.transcript for label in labels(source).by_path.values()} == set("abcde")
    finally:
        memory.rm("/layouts-bucket", recursive=True)


def test_listing_and_labels_read_no_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "t.parquet", table(SOUNDS, NAMES, text=list("abcde")))
    read = list[str]()
    real = foreign_parquet.batches

    def noted(source: Any, columns: Any, row_groups: Any = None) -> Any:
        read.extend(columns)
        return real(source, columns, row_groups)

    monkeypatch.setattr(foreign_parquet, "batches", noted)
    assert labels(Source(str(tmp_path))).report.transcripts == 5
    assert set(read) == {"audio.path", "text"}


def test_each_row_group_is_read_once_however_many_rows_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "t.parquet", table(SOUNDS, NAMES))
    source = Source(str(tmp_path))
    listing = source.listing()
    read = list[int]()
    real = ParquetTable.sound
    monkeypatch.setattr(
        ParquetTable, "sound", lambda self, group, wanted: read.append(group) or real(self, group, wanted)
    )
    source.hashes(listing.audio)
    assert sorted(read) == [0, 1, 2]


def test_rows_that_the_catalog_knows_are_not_read_again(tmp_path: Path) -> None:
    parquet(tmp_path / "source" / "t.parquet", table(SOUNDS, NAMES))
    catalog = Catalog(Store(str(tmp_path / "store")), "k")
    first = scan_source(str(tmp_path / "source"), catalog, 1e6)
    assert (first.hashed, first.new) == (5, 5)
    catalog.remember(first.seen, [])
    assert scan_source(str(tmp_path / "source"), Catalog(Store(str(tmp_path / "store")), "k"), 1e6).hashed == 0


def test_a_row_that_is_gone_is_told(tmp_path: Path) -> None:
    parquet(tmp_path / "t.parquet", table(SOUNDS, NAMES))
    source = Source(str(tmp_path))
    (last,) = (file for file in source.listing().audio if file.path.endswith("u2.flac"))
    parquet(tmp_path / "t.parquet", table(SOUNDS[:1], NAMES[:1]))
    with source.unpacked([last.location], tmp_path / "rows"):
        with pytest.raises(SourceError, match="is gone since the source was listed: run again"):
            with source.local_path(last.location, tmp_path / "scratch"):
                pass


def test_rows_of_a_row_group_are_in_one_shard() -> None:
    def row(group: int, digest: str) -> NewFile:
        place = f"/t.parquet#row:{group}+{int(digest, 16)}"
        return NewFile(SourceFile(place, place, 10, ""), digest, Label())

    new = {digest: row(int(digest, 16) % 2, digest) for digest in "0123456789ab"}
    groups = group_by_size(new, [], 60)
    assert [[file.sha256 for file in group] for group in groups] == [list("02468a"), list("13579b")]

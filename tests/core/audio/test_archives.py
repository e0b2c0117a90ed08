"""Tars in a source: their members are recordings and texts like files; nothing that a tar says leads anywhere or takes memory."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from tinywave_core.audio.sidecars import Label, read_labels
from tinywave_core.audio.source import Source
from tinywave_core.errors import SourceError


def pack(path: Path, files: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_files_with_their_own_bytes(tmp_path: Path, format: int):
    files = {
        "a.flac": b"one" * 1000,
        "part/b.flac": b"two",
        "a.txt": b"what is said",
        f"{'long/' * 30}c.flac": b"three",
    }
    if format == tarfile.USTAR_FORMAT:
        files.pop(f"{'long/' * 30}c.flac")
    pack(tmp_path / "shards" / "000.tar", files, format)
    source = Source(str(tmp_path))
    listing = source.listing()
    audio = [name for name in sorted(files) if name.endswith(".flac")]
    assert [file.path for file in listing.audio] == [f"shards/000.tar/{name}" for name in audio]
    assert [file.path for file in listing.sidecars] == ["shards/000.tar/a.txt"]
    assert source.hashes(listing.audio) == [hashlib.sha256(files[name]).hexdigest() for name in audio]
    assert source.texts(listing.sidecars) == {"shards/000.tar/a.txt": b"what is said"}
    with source.local_path(listing.audio[0].location, tmp_path / "scratch") as path:
        assert path.read_bytes() == files["a.flac"]
    assert not (tmp_path / "scratch").exists()


def test_text_and_json_in_a_tar_are_labels_of_the_member_beside_them(tmp_path: Path):
    files = {
        "u1.flac": b"1",
        "u1.txt": b"as written",
        "u2.flac": b"2",
        "u2.json": b'{"text": "of two", "speaker": "Ada"}',
        "u3.flac": b"3",
    }
    pack(tmp_path / "000.tar", files)
    source = Source(str(tmp_path))
    listing = source.listing()
    labels = read_labels(source, listing, [file.path for file in listing.audio])
    assert labels.by_path == {
        "000.tar/u1.flac": Label(None, "as written"),
        "000.tar/u2.flac": Label("Ada", "of two"),
        "000.tar/u3.flac": Label(),
    }


@pytest.mark.parametrize("name", ["../out.flac", "/etc/passwd", "a/../../b.flac", "..\\b.flac"])
def test_a_name_that_leads_out_of_its_tar_is_counted_and_nothing_is_read(tmp_path: Path, name: str):
    pack(tmp_path / "000.tar", {name: b"x", "in.flac": b"y", "._in.flac": b"z"})
    listing = Source(str(tmp_path)).listing()
    assert [file.path for file in listing.audio] == ["000.tar/in.flac"]
    assert "1 file of a tar whose name leads out of it" in listing.left_out.line()
    assert "1 hidden file (000.tar/._in.flac)" in listing.left_out.line()


def test_links_in_a_tar_are_no_recordings(tmp_path: Path):
    with tarfile.open(tmp_path / "000.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"link-{kind!r}.flac")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        info = tarfile.TarInfo("a.flac")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"a"))
    assert [file.path for file in Source(str(tmp_path)).listing().audio] == ["000.tar/a.flac"]


def test_a_tar_that_is_cut_off_is_taken_as_far_as_it_goes_and_told(tmp_path: Path):
    path = pack(tmp_path / "000.tar", {"a.flac": b"a" * 600, "b.flac": b"b" * 5000})
    path.write_bytes(path.read_bytes()[:3000])
    listing = Source(str(tmp_path)).listing()
    assert [file.path for file in listing.audio] == ["000.tar/a.flac"]
    assert "1 tar that ends too soon, taken as far as it goes (000.tar)" in listing.left_out.line()


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"\x1f\x8b" + b"x" * 2000])
def test_what_is_no_tar_in_spite_of_its_name_is_a_file_like_others(tmp_path: Path, content: bytes):
    (tmp_path / "a.tar").write_bytes(content)
    (tmp_path / "b.flac").write_bytes(b"b")
    assert [file.path for file in Source(str(tmp_path)).listing().audio] == ["a.tar", "b.flac"]


def test_a_header_that_claims_gigabytes_takes_no_memory(tmp_path: Path):
    info = tarfile.TarInfo("a")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2048)
    (tmp_path / "b.flac").write_bytes(b"b")
    assert [file.path for file in Source(str(tmp_path)).listing().audio] == ["a.tar", "b.flac"]


def test_a_tar_of_another_time_has_members_of_another_stamp(tmp_path: Path):
    import os

    path = pack(tmp_path / "000.tar", {"a.flac": b"a", "b.flac": b"a"})
    before = Source(str(tmp_path)).listing().audio
    assert before[0].stamp != before[1].stamp
    os.utime(path, ns=(1, 1))
    assert {file.stamp for file in before}.isdisjoint({file.stamp for file in Source(str(tmp_path)).listing().audio})


def test_a_source_of_an_empty_tar_holds_no_audio(tmp_path: Path):
    pack(tmp_path / "000.tar", {"readme.txt": b"nothing"})
    with pytest.raises(SourceError, match="holds no audio"):
        Source(str(tmp_path)).require_audio()

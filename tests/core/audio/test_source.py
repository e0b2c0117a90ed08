"""Sources: what is found, what is left alone, and errors that say what to do."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tinywave_core.audio.source import Source, is_sidecar, printable
from tinywave_core.errors import SourceError
from tinywave_core.storage.records import seal
from tinywave_core.storage.s3 import S3, Patience
from tinywave_core.storage.store import Store

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc"


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("abc")
    return folder


def test_text_and_hidden_files_are_not_audio_and_everything_else_is(tmp_path: Path) -> None:
    names = [
        "a.wav",
        "b/c.xyz",
        "noise",
        "a.txt",
        "b/LICENSE",
        "README.md",
        ".hidden.wav",
        ".git/x.wav",
        "b/d.TextGrid",
    ]
    listing = Source(str(fill(tmp_path, *names))).listing()
    assert [file.path for file in listing.audio] == ["a.wav", "b/c.xyz", "noise"]
    assert [file.path for file in listing.sidecars] == ["README.md", "a.txt", "b/LICENSE", "b/d.TextGrid"]


def test_the_content_is_hashed_and_the_stamp_changes_with_the_file(tmp_path: Path) -> None:
    source = Source(str(fill(tmp_path, "a.wav")))
    (before,) = source.listing().audio
    os.utime(tmp_path / "a.wav", ns=(1, 1))
    (after,) = source.listing().audio
    assert source.hashes([after]) == [ABC]
    assert before.stamp != after.stamp


def test_a_file_that_is_written_anew_has_another_stamp_though_its_clock_was_put_back(tmp_path: Path) -> None:
    source = Source(str(fill(tmp_path, "a.wav")))
    (before,), then = source.listing().audio, (tmp_path / "a.wav").stat()
    (tmp_path / "a.wav").write_bytes(b"xyz")
    os.utime(tmp_path / "a.wav", ns=(then.st_atime_ns, then.st_mtime_ns))
    (after,) = source.listing().audio
    assert before.bytes == after.bytes and before.stamp != after.stamp


def test_the_same_name_size_and_time_in_another_source_is_another_stamp(tmp_path: Path) -> None:
    fill(tmp_path, "a/x.wav")
    os.link(tmp_path / "a/x.wav", tmp_path / "x.wav")
    stamps = {file.stamp for folder in ("", "a") for file in Source(str(tmp_path / folder)).listing().audio}
    assert len(stamps) == 2


def test_symbolic_links_are_left_alone_and_counted(tmp_path: Path) -> None:
    fill(tmp_path, "inside/x.wav", "in/a.wav")
    (tmp_path / "in/link.wav").symlink_to(tmp_path / "inside/x.wav")
    (tmp_path / "in/folder").symlink_to(tmp_path / "inside")
    listing = Source(str(tmp_path / "in")).listing()
    assert [file.path for file in listing.audio] == ["a.wav"]
    assert listing.left_out.numbers == {"link out": 2}


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(fill(tmp_path, "a.wav") / "b.wav")
    assert len(Source(str(tmp_path)).listing().audio) == 1


def test_strange_names_are_listed_and_can_be_stored(tmp_path: Path) -> None:
    strange = ["a\nb.wav", "'\"`$.wav", "🎙.wav", "e\u0301.wav", os.fsdecode(b"\xff.wav")]
    source = Source(str(fill(tmp_path, *strange)))
    files = source.listing().audio
    assert {file.path for file in files} == {printable(name) for name in strange}
    assert source.hashes(files) == [ABC] * 5
    assert "".join(file.path for file in files).encode()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "does not exist; expected a folder"),
        ("file.wav", "is a file; expected a folder"),
        ("empty", "holds no audio"),
        ("texts", r"holds no audio \(1 text files"),
    ],
)
def test_a_source_without_audio_says_what_was_expected(name: str, message: str, tmp_path: Path) -> None:
    fill(tmp_path, "file.wav", "texts/a.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=message):
        Source(str(tmp_path / name)).listing()


def test_an_unknown_protocol_is_an_error_about_the_source() -> None:
    with pytest.raises(SourceError, match="fsspec"):
        Source("nonsense://x")


def test_sidecars_are_told_by_their_whole_suffix() -> None:
    assert is_sidecar("a/b.trans.txt")
    assert is_sidecar("COPYING")
    assert not is_sidecar("a.txt.wav")


# Buckets -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    S3.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="speech")
    for key in ("in/a.wav", "in/sub/b.flac", "in/sub/b.txt", "inside/c.wav"):
        client.put_object(Bucket="speech", Key=key, Body=b"abc")
    yield "s3://speech"
    client.close()
    server.stop()
    S3.clear_instance_cache()


def test_a_bucket_is_a_source_like_a_folder(bucket: str, tmp_path: Path) -> None:
    source = Source(f"{bucket}/in")
    listing = source.listing()
    assert [file.path for file in listing.audio] == ["a.wav", "sub/b.flac"]
    assert source.hashes(listing.audio) == [ABC, ABC]
    assert source.texts(listing.sidecars) == {"sub/b.txt": b"abc"}
    with source.local_path(listing.audio[0].location, tmp_path / "scratch") as path:
        assert path.read_bytes() == b"abc"
    assert not (tmp_path / "scratch").exists()


def test_a_missing_bucket_prefix_or_service_is_one_clear_message(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("s3://nobody/x", f"{bucket}/nothing"):
        with pytest.raises(SourceError, match="expected an existing bucket and prefix"):
            Source(url).listing()
    with pytest.raises(SourceError, match="is a file"):
        Source(f"{bucket}/in/a.wav").listing()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(S3, "patience", Patience(tries=2, pause_s=0.01))
    with pytest.raises(
        SourceError, match=r"--source s3://speech cannot be read: .*Could not connect.*AWS_ENDPOINT_URL"
    ):
        Source(bucket).listing()
    S3.clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SourceError, match="expected credentials"):
        Source(bucket).listing()


# Stores ------------------------------------------------------------------------------------------------------------


def make_store(folder: Path, *names: str) -> Path:
    """A store with files of these names, as a pipeline leaves them."""
    Store(str(folder))
    return fill(folder, *names)


@pytest.mark.parametrize("name", ["store", "out/of the way", "results.v2"])
def test_a_store_below_the_source_is_left_out_whatever_its_name(name: str, tmp_path: Path) -> None:
    fill(tmp_path, "a.wav", "storeroom/b.wav")
    make_store(tmp_path / name, "generation/aa/sample.wav", "anything/else.wav")
    listing = Source(str(tmp_path)).listing()
    assert [file.path for file in listing.audio] == ["a.wav", "storeroom/b.wav"]
    assert listing.left_out.line() == f"left out below the source: the store {name}"
    assert listing.left_out.examples == {"store": [name]}


def test_a_store_of_another_version_or_damaged_is_a_store_and_somebody_elses_file_is_not(tmp_path: Path) -> None:
    fill(tmp_path, "a.wav", "new/x.wav", "damaged/x.wav", "shop/b.wav")
    (tmp_path / "new/store.json").write_bytes(seal({"format": "tinywave-store", "version": 99}))
    (tmp_path / "damaged/store.json").write_bytes(seal({"format": "tinywave-store", "version": 2})[:-9])
    (tmp_path / "shop/store.json").write_text('{"open": "9 to 5"}')
    listing = Source(str(tmp_path)).listing()
    assert [file.path for file in listing.audio] == ["a.wav", "shop/b.wav"]
    assert listing.left_out.examples == {"store": ["damaged", "new"]}


def test_recordings_beside_the_folders_of_a_store_are_taken_and_its_own_are_not(tmp_path: Path) -> None:
    """`tinywave run --source . --root .`"""
    make_store(tmp_path, "a.wav", "b/c.wav", "generation/aa/sample.wav", "runs/1/report.wav")
    listing = Source(str(tmp_path)).listing()
    assert [file.path for file in listing.audio] == ["a.wav", "b/c.wav"]
    assert listing.left_out.examples == {"own folder": ["generation", "runs"]}


@pytest.mark.parametrize("inside", ["generation", "generation/aa"])
def test_a_source_inside_a_store_is_refused(inside: str, tmp_path: Path) -> None:
    make_store(tmp_path, "generation/aa/sample.wav", "recordings/a.wav")
    with pytest.raises(SourceError, match=r"lies inside the store .*pass the folder with the recordings"):
        Source(str(tmp_path / inside)).listing()
    assert len(Source(str(tmp_path / "recordings")).listing().audio) == 1


def test_a_store_alone_is_no_audio_and_is_named(tmp_path: Path) -> None:
    make_store(tmp_path / "out", "generation/aa/sample.wav")
    for look in (Source(str(tmp_path)).listing, Source(str(tmp_path)).require_audio):
        with pytest.raises(
            SourceError, match=r"holds no audio \(0 text files; left out below the source: the store out\)"
        ):
            look()


def test_a_store_in_a_bucket_is_left_out(bucket: str) -> None:
    client = boto3.client("s3")
    about = seal({"format": "tinywave-store", "version": 2})
    for key, body in {
        "in/out/store.json": about,
        "in/out/generation/aa/sample.wav": b"abc",
        "in/outside.wav": b"abc",
        "in/.hidden.wav": b"abc",
        "in/shop/store.json": b'{"open": "9 to 5"}',
        "in/shop/c.wav": b"abc",
    }.items():
        client.put_object(Bucket="speech", Key=key, Body=body)
    listing = Source(f"{bucket}/in").listing()
    assert [file.path for file in listing.audio] == ["a.wav", "outside.wav", "shop/c.wav", "sub/b.flac"]
    assert listing.left_out.line() == "left out below the source: the store out; 1 hidden file (.hidden.wav)"
    with pytest.raises(SourceError, match="lies inside the store speech/in/out"):
        Source(f"{bucket}/in/out/generation").listing()
    beside = Source(f"{bucket}/in/out")
    client.put_object(Bucket="speech", Key="in/out/a.wav", Body=b"abc")
    assert [file.path for file in beside.listing().audio] == ["a.wav"]
    assert beside.listing().left_out.examples == {"own folder": ["generation"]}
    client.close()


def test_a_quick_look_ends_at_the_first_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a.txt", "b.wav", "deep/c.wav")
    source, seen = Source(str(tmp_path)), []
    monkeypatch.setattr("os.lstat", lambda path, lstat=os.lstat: seen.append(os.path.basename(path)) or lstat(path))
    source.require_audio()
    assert "c.wav" not in seen and "b.wav" in seen


def test_a_tar_in_a_bucket_is_read_where_its_members_lie(bucket: str, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("a.wav", "a.txt"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    client = boto3.client("s3")
    client.put_object(Bucket="speech", Key="packed/0.tar", Body=packed.getvalue())
    client.close()
    source = Source(f"{bucket}/packed")
    listing = source.listing()
    assert [file.path for file in listing.audio] == ["0.tar/a.wav"]
    assert source.hashes(listing.audio) == [ABC]
    assert source.texts(listing.sidecars) == {"0.tar/a.txt": b"abc"}
    with source.local_path(listing.audio[0].location, tmp_path / "scratch") as path:
        assert path.read_bytes() == b"abc"

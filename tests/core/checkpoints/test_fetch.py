"""A release on an object store: fetched once, whole, and again where it changed."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer

from tinywave_core.checkpoints import fetch as module
from tinywave_core.checkpoints.spiritlm import PARTS, Release, open_release
from tinywave_core.errors import CheckpointError
from tinywave_core.storage.s3 import S3

HUBERT = PARTS["hubert"].folder
QUANTIZER = f"{HUBERT}/L11_quantizer_500.pt"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tinywave" / "releases"


@pytest.fixture
def gets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were fetched."""
    names: list[str] = []
    original = MemoryFileSystem.get_file

    def counted(self: MemoryFileSystem, place: str, *args: Any, **options: Any) -> None:
        names.append(Path(place).name)
        original(self, place, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", counted)
    return names


@pytest.fixture
def store(small_release: Path) -> Iterator[MemoryFileSystem]:
    """memory://weights/spirit with HuBERT and the base model."""
    filesystem = fsspec.filesystem("memory")
    for folder in (HUBERT, PARTS["lm_base"].folder):
        filesystem.put(f"{small_release / folder}/", f"/weights/spirit/{folder}/", recursive=True)
    yield filesystem
    filesystem.rm("/weights", recursive=True)


URL = "memory://weights/spirit"


def names(folder: Path) -> list[str]:
    """What a user sees there."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_asked_parts_come_whole_and_no_others(store: MemoryFileSystem, cache: Path, small_release: Path) -> None:
    release = open_release(URL, ["hubert"])
    assert release.root.parent == cache
    assert [path.name for path in release.root.rglob("*_*") if path.is_dir()] == ["speech_tokenizer", "hubert_25hz"]
    assert release.digest("hubert") == Release(small_release).digest("hubert")
    with_model = open_release(f"{URL}/", ["lm_base"])
    assert with_model.digest("lm_base") == Release(small_release).digest("lm_base")


def test_files_are_fetched_once(store: MemoryFileSystem, gets: list[str]) -> None:
    open_release(URL, ["hubert"])
    assert sorted(gets) == ["L11_quantizer_500.pt", "mhubert_base_25hz.pt"]
    open_release(URL, ["hubert"])
    assert len(gets) == 2


def test_changed_object_is_fetched_again_and_only_it(store: MemoryFileSystem, gets: list[str]) -> None:
    release = open_release(URL, ["hubert"])
    before = release.digest("hubert")
    content = bytearray(store.cat(f"/weights/spirit/{QUANTIZER}"))
    content[-300] ^= 1  # of the same size
    store.pipe(f"/weights/spirit/{QUANTIZER}", bytes(content))
    gets.clear()
    assert open_release(URL, ["hubert"]).digest("hubert") != before
    assert gets == ["L11_quantizer_500.pt"]


@pytest.mark.parametrize("damage", [b"", b"short"])
def test_file_that_was_cut_short_here_is_fetched_again(store: MemoryFileSystem, gets: list[str], damage: bytes) -> None:
    release = open_release(URL, ["hubert"])
    (release.root / QUANTIZER).write_bytes(damage)
    gets.clear()
    open_release(URL, ["hubert"])
    assert gets == ["L11_quantizer_500.pt"]


def test_damaged_note_leads_to_a_fetch(store: MemoryFileSystem, gets: list[str]) -> None:
    release = open_release(URL, ["hubert"])
    (release.root / HUBERT / ".L11_quantizer_500.pt.json").write_text('{"size": ')
    gets.clear()
    open_release(URL, ["hubert"])
    assert gets == ["L11_quantizer_500.pt"]


@pytest.mark.parametrize("gone", [QUANTIZER, HUBERT])
@pytest.mark.parametrize("fetched_before", [False, True])
def test_what_is_missing_there_is_named(store: MemoryFileSystem, gone: str, fetched_before: bool) -> None:
    if fetched_before:
        open_release(URL, ["hubert"])
    store.rm(f"/weights/spirit/{gone}", recursive=True)
    missing = "L11_quantizer_500.pt" if gone == QUANTIZER else "mhubert_base_25hz.pt"
    with pytest.raises(CheckpointError, match=rf"{URL}/{HUBERT} has no {missing}: expected mhubert_base_25hz\.pt, L11"):
        open_release(URL, ["hubert"])


def test_part_that_was_never_there_is_named(store: MemoryFileSystem) -> None:
    with pytest.raises(CheckpointError, match=rf"{URL}/speech_tokenizer/vqvae_f0_quantizer has no model\.pt: expected"):
        open_release(URL, ["hubert", "pitch"])


def test_damaged_object_is_named(store: MemoryFileSystem) -> None:
    store.pipe(f"/weights/spirit/{QUANTIZER}", b"PK but not for long")
    with pytest.raises(CheckpointError, match=r"L11_quantizer_500\.pt .* is cut short or not a file of weights"):
        open_release(URL, ["hubert"])


def test_file_that_is_gone_there_goes_here(store: MemoryFileSystem) -> None:
    extra = f"{PARTS['lm_base'].folder}/pytorch_model.bin"
    store.pipe(f"/weights/spirit/{extra}", b"an older copy")
    root = open_release(URL, ["lm_base"]).root
    assert (root / extra).is_file()
    store.rm(f"/weights/spirit/{extra}")
    open_release(URL, ["lm_base"])
    assert not (root / extra).exists()


def test_files_in_deeper_folders_do_not_take_the_place_of_the_release(store: MemoryFileSystem) -> None:
    folder = PARTS["lm_base"].folder
    store.pipe(f"/weights/spirit/{folder}/checkpoint-10/config.json", b"{}")
    store.pipe(f"/weights/spirit/{folder}/.cache/config.json", b"{}")
    root = open_release(URL, ["lm_base"]).root
    assert (root / folder / "config.json").read_bytes() == store.cat(f"/weights/spirit/{folder}/config.json")
    assert "checkpoint-10" not in names(root / folder)


@pytest.mark.parametrize("kind", ["fails", "short"])
def test_half_of_a_file_never_stays(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, cache: Path, kind: str
) -> None:
    def half(self: MemoryFileSystem, place: str, target: str) -> None:
        content = self.cat(place)
        Path(target).write_bytes(content[: len(content) // 2])
        if kind == "fails":
            raise OSError("the line is dead")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", half)
        with pytest.raises(CheckpointError, match=r"the line is dead|came with [0-9,]+ of [0-9,]+ bytes: try again"):
            open_release(URL, ["hubert"])
    assert not [path for path in cache.rglob("*") if path.is_file()]
    open_release(URL, ["hubert"])


def test_what_a_killed_fetch_has_left_goes_when_nobody_writes_it_any_more(store: MemoryFileSystem) -> None:
    folder = open_release(URL, ["hubert"]).folder("hubert")
    old, new = folder / ".a.pt.1.part", folder / ".a.pt.2.part"
    for path in (old, new):
        path.write_bytes(b"half")
    long_ago = time.time() - module.ABANDONED_S - 60
    os.utime(old, (long_ago, long_ago))
    open_release(URL, ["hubert"])
    assert not old.exists() and new.exists()
    assert names(folder) == ["L11_quantizer_500.pt", "mhubert_base_25hz.pt"]


def test_a_clock_that_jumps_takes_no_file_from_a_fetch_that_goes_on(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another fetch tidies up the folder, a day later by its clock, before the first byte has come."""
    original, day = MemoryFileSystem.get_file, time.time() + 86_400

    def slow(self: MemoryFileSystem, place: str, target: str, **options: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda: day)
            module._clean(Path(target).parent, ["mhubert_base_25hz.pt", "L11_quantizer_500.pt"])
        assert Path(target).exists()
        original(self, place, target, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", slow)
    open_release(URL, ["hubert"])


def test_two_releases_do_not_share_a_folder(store: MemoryFileSystem) -> None:
    store.copy(f"/weights/spirit/{HUBERT}/", f"/weights/other/{HUBERT}/", recursive=True)
    assert open_release(URL, ["hubert"]).root != open_release("memory://weights/other", ["hubert"]).root


# S3 --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3(small_release: Path) -> Iterator[Any]:
    """The bucket `weights` with HuBERT under spirit/."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        S3.clear_instance_cache()
        client = boto3.client("s3")
        client.create_bucket(Bucket="weights")
        for path in (small_release / HUBERT).iterdir():
            client.upload_file(str(path), "weights", f"spirit/{HUBERT}/{path.name}")
        yield client
        client.close()
        S3.clear_instance_cache()
    server.stop()


def test_release_on_s3_is_fetched_once_and_changed_objects_again(s3: Any, small_release: Path) -> None:
    release = open_release("s3://weights/spirit", ["hubert"])
    assert release.digest("hubert") == Release(small_release).digest("hubert")
    times = {path.name: path.stat().st_mtime_ns for path in release.files("hubert")}
    open_release("s3://weights/spirit", ["hubert"])
    assert {path.name: path.stat().st_mtime_ns for path in release.files("hubert")} == times

    content = bytearray((small_release / QUANTIZER).read_bytes())
    content[-300] ^= 1
    s3.put_object(Bucket="weights", Key=f"spirit/{QUANTIZER}", Body=bytes(content))
    open_release("s3://weights/spirit", ["hubert"])
    assert (release.root / QUANTIZER).read_bytes() == content
    assert (release.folder("hubert") / "mhubert_base_25hz.pt").stat().st_mtime_ns == times["mhubert_base_25hz.pt"]


def test_part_that_is_not_on_s3_is_named(s3: Any) -> None:
    with pytest.raises(
        CheckpointError, match=r"s3://weights/spirit/.*/style_encoder_w2v2 has no config\.json: expected"
    ):
        open_release("s3://weights/spirit", ["style"])


def test_bucket_that_is_not_there_is_named(s3: Any) -> None:
    with pytest.raises(CheckpointError, match=r"s3://no-such-bucket/spirit"):
        open_release("s3://no-such-bucket/spirit", ["hubert"])

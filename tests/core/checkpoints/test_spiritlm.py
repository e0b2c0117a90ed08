"""Where a release lies, whether its parts are whole, and what identifies them."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tinywave_core.checkpoints import digests
from tinywave_core.checkpoints.bounds import model_weights
from tinywave_core.checkpoints.digests import sha256_once
from tinywave_core.checkpoints.spiritlm import (
    ENVIRONMENT,
    PARTS,
    Part,
    check_file,
    lm_part,
    open_release,
    speech_parts,
    vocoder_part,
)
from tinywave_core.errors import CheckpointError

FILES = [(part, file) for part, expected in PARTS.items() for file in expected.files]
WEIGHTS: list[tuple[Part, str]] = [
    *((part, file) for part, file in FILES if file.endswith(".pt")),
    ("style", "pytorch_model.bin"),
    ("lm_base", "model.safetensors"),
    ("lm_expressive", "pytorch_model.bin"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Digests go here; no release is set."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tinywave"


@pytest.fixture
def root(small_release: Path, tmp_path: Path) -> Path:
    """A release that may be changed."""
    return shutil.copytree(small_release, tmp_path / "release")


# Finding it ------------------------------------------------------------------------------------------------------------


def test_release_is_found_by_folder_by_a_name_of_the_environment_and_by_spiritlms_own(
    small_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_WEIGHTS", str(small_release))
    assert open_release(str(small_release), PARTS).root == small_release
    assert open_release("$MY_WEIGHTS", PARTS).root == small_release
    monkeypatch.setenv(ENVIRONMENT, str(small_release))
    assert open_release(None, PARTS).root == small_release


@pytest.mark.parametrize(("setting", "name"), [(None, ENVIRONMENT), ("$MY_WEIGHTS", "MY_WEIGHTS")])
@pytest.mark.parametrize("value", [None, ""])
def test_variable_that_is_not_set_is_named(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, name: str, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv(name, value)
    with pytest.raises(CheckpointError, match=rf"variable {name} is not set: set it, or pass --spiritlm-dir"):
        open_release(setting, ["hubert"])


def test_home_may_be_written_as_a_tilde(small_release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(small_release.parent))
    assert open_release(f"~/{small_release.name}", ["hubert"]).root == small_release


def test_folder_that_is_not_there_is_named_with_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no folder .*nowhere: .* holds speech_tokenizer/ and"):
        open_release(str(tmp_path / "nowhere"), ["hubert"])


@pytest.mark.parametrize("given", ["speech_tokenizer", "speech_tokenizer/hubert_25hz", "spiritlm_model"])
def test_folder_inside_the_release_gets_the_hint_to_pass_the_root(root: Path, given: str) -> None:
    hint = f"{re.escape(str(root))} has a speech_tokenizer, pass that"
    with pytest.raises(CheckpointError, match=rf"hubert_25hz is missing: expected HuBERT and its quantizer .*; {hint}"):
        open_release(str(root / given), ["hubert"])


def test_folder_around_the_release_gets_the_hint_to_pass_the_root(root: Path) -> None:
    with pytest.raises(CheckpointError, match=f"; {re.escape(str(root))} has a speech_tokenizer, pass that"):
        open_release(str(root.parent), ["hubert"])


def test_hint_is_right_for_the_folder_that_one_is_in(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "speech_tokenizer")
    with pytest.raises(CheckpointError, match=f"; {re.escape(str(root))} has a speech_tokenizer, pass that"):
        open_release(".", ["hubert"])
    monkeypatch.chdir(root)
    shutil.rmtree("speech_tokenizer/hubert_25hz")
    with pytest.raises(CheckpointError) as error:
        open_release(".", ["hubert"])
    assert "pass that" not in str(error.value)


# Its parts -------------------------------------------------------------------------------------------------------------


def test_base_tokens_need_neither_pitch_nor_style_nor_the_expressive_models(root: Path) -> None:
    parts = [*speech_parts("base"), lm_part("base"), vocoder_part("base")]
    for part in PARTS.keys() - set(parts):
        shutil.rmtree(root / PARTS[part].folder)
    assert open_release(str(root), parts).root == root
    with pytest.raises(CheckpointError, match=r"vqvae_f0_quantizer is missing: expected the VQ-VAE of the pitch"):
        open_release(str(root), speech_parts("expressive"))


def test_expressive_tokens_need_hubert_pitch_and_style() -> None:
    assert speech_parts("expressive") == ("hubert", "pitch", "style")
    assert (lm_part("expressive"), vocoder_part("expressive")) == ("lm_expressive", "vocoder_expressive")


@pytest.mark.parametrize("part", PARTS)
def test_missing_folder_is_named_with_what_belongs_there(root: Path, part: Part) -> None:
    shutil.rmtree(root / PARTS[part].folder)
    with pytest.raises(CheckpointError) as error:
        open_release(str(root), [part])
    assert f"{root / PARTS[part].folder} is missing: expected {PARTS[part].what}" in str(error.value)
    assert all(name in str(error.value) for name in PARTS[part].files)


@pytest.mark.parametrize(("part", "file"), FILES)
def test_missing_file_is_named_with_what_is_expected_and_what_is_there(root: Path, part: Part, file: str) -> None:
    path = root / PARTS[part].folder / file
    path.unlink()
    there = sorted(p.name for p in path.parent.iterdir())
    with pytest.raises(CheckpointError) as error:
        open_release(str(root), [part])
    assert f"{path} is missing: expected {PARTS[part].what} ({', '.join(PARTS[part].files)}), found {there[0]}" in str(
        error.value
    )


@pytest.mark.parametrize("part", ["lm_base", "lm_expressive"])
def test_language_model_without_weights_is_named(root: Path, part: Part) -> None:
    folder = root / PARTS[part].folder
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.bin")):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"7b has no weights: expected model\.safetensors or pytorch_model\.bin"):
        open_release(str(root), [part])


@pytest.mark.parametrize(("part", "file"), [*FILES, *WEIGHTS[-2:]])
def test_empty_file_is_named(root: Path, part: Part, file: str) -> None:
    (root / PARTS[part].folder / file).write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"{part_file(part, file)} is empty: download it again"):
        open_release(str(root), [part])


@pytest.mark.parametrize(("part", "file"), [*FILES, *WEIGHTS[-2:]])
def test_pointer_of_git_lfs_is_told_from_the_file(root: Path, part: Part, file: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 379\n"
    (root / PARTS[part].folder / file).write_text(pointer)
    with pytest.raises(CheckpointError, match=rf"{part_file(part, file)} is a Git LFS pointer of .*`git lfs pull`"):
        open_release(str(root), [part])


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def lose_a_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def become_a_web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>Sign in</title>" * 100)


@pytest.mark.parametrize("change", [truncate, lose_a_byte, become_a_web_page], ids=lambda change: change.__name__)
@pytest.mark.parametrize(("part", "file"), WEIGHTS)
def test_weights_that_are_cut_short_or_foreign_are_named(
    root: Path, part: Part, file: str, change: Callable[[Path], None]
) -> None:
    change(root / PARTS[part].folder / file)
    with pytest.raises(
        CheckpointError, match=rf"{part_file(part, file)} \([0-9,]+ bytes\) is cut short or not a file of"
    ):
        open_release(str(root), [part])


@pytest.mark.parametrize(("part", "file"), [(part, file) for part, file in FILES if file.endswith(".json")])
def test_config_that_is_no_json_is_named(root: Path, part: Part, file: str) -> None:
    truncate(root / PARTS[part].folder / file)
    with pytest.raises(CheckpointError, match=rf"{part_file(part, file)} is not valid JSON"):
        open_release(str(root), [part])


def part_file(part: Part, file: str) -> str:
    return re.escape(f"{PARTS[part].folder}/{file}")


def test_file_as_torch_saved_before_1_6_is_taken(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    check_file(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "header",
    [b"[]", b"{}", b'{"a": 3}', b'{"a": {}}', b'{"a": {"data_offsets": [0]}}', b'{"a": {"data_offsets": [0, "4"]}}'],
)
def test_safetensors_with_a_foreign_header_are_named(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"0000")
    with pytest.raises(CheckpointError, match=r"model\.safetensors .* is cut short or not a file of weights"):
        check_file(path)


# Shards of a language model --------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    places = {}
    for i in (1, 2):
        name = f"model-0000{i}-of-00002.safetensors"
        save_file({f"layer.{i}": torch.ones(i)}, folder / name)
        places[f"layer.{i}"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def test_shards_are_those_that_the_index_names(sharded: Path) -> None:
    assert [path.name[:11] for path in model_weights(sharded)] == ["model-00001", "model-00002"]


def test_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing: .*index\.json names 2"):
        model_weights(sharded)


@pytest.mark.parametrize("index", ['{"weight_map": ', "{}", "[]", '{"weight_map": []}'])
def test_foreign_index_is_named(sharded: Path, index: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json (is not valid JSON|has no weight_map)"):
        model_weights(sharded)


# Identity --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_digest_does_not_depend_on_the_place(small_release: Path, root: Path, part: Part) -> None:
    assert open_release(str(root), [part]).digest(part) == open_release(str(small_release), [part]).digest(part)


@pytest.mark.parametrize(
    ("part", "file"),
    [*FILES, *WEIGHTS[-2:], ("vocoder_base", "speakers.txt"), ("lm_base", "tokenizer_config.json")],
)
def test_digest_depends_on_the_content_of_every_file_that_matters(root: Path, part: Part, file: str) -> None:
    release = open_release(str(root), [part])
    before = release.digest(part)
    path = root / PARTS[part].folder / file
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert release.digest(part) != before


def test_digest_does_not_depend_on_what_else_lies_there(root: Path) -> None:
    release = open_release(str(root), PARTS)
    before = {part: release.digest(part) for part in PARTS}
    for part in PARTS:
        (release.folder(part) / "notes.txt").write_text("mine")
    assert {part: release.digest(part) for part in PARTS} == before


def test_digest_tells_parts_and_names_apart(root: Path) -> None:
    release = open_release(str(root), PARTS)
    assert len({release.digest(part) for part in PARTS}) == len(PARTS)
    folder, before = release.folder("vocoder_expressive"), release.digest("vocoder_expressive")
    (folder / "speakers.txt").rename(folder / "styles.txt")
    renamed = release.digest("vocoder_expressive")
    (folder / "styles.txt").unlink()
    assert len({before, renamed, release.digest("vocoder_expressive")}) == 3


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """As many bytes as are worth a note."""
    (tmp_path / "large.bin").write_bytes(bytes(digests._WORTH_BYTES))
    return tmp_path / "large.bin"


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    reads: list[Path] = []
    original = digests.sha256_of
    monkeypatch.setattr(digests, "sha256_of", lambda path: reads.append(path) or original(path))
    return reads


def test_large_file_is_read_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    assert sha256_once(large) == sha256_once(large) and len(reads) == 1


@pytest.mark.parametrize("same_time", [False, True])
def test_changed_file_is_read_again(large: Path, monkeypatch: pytest.MonkeyPatch, same_time: bool) -> None:
    reads = count_reads(monkeypatch)
    before, stat = sha256_once(large), large.stat()
    changed = large.with_name("changed")
    changed.write_bytes(b"1" * stat.st_size)
    changed.replace(large)
    if same_time:  # as rsync and tar do: then the inode tells
        os.utime(large, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert sha256_once(large) != before and len(reads) == 2


@pytest.mark.parametrize("note", ["", "{}", "[]", "3", '{"identity": 3}'])
def test_damaged_note_is_passed_over(large: Path, cache: Path, note: str) -> None:
    before = sha256_once(large)
    (path,) = (cache / "digests").iterdir()
    path.write_text(note)
    assert sha256_once(large) == before
    assert json.loads(path.read_text())["sha256"] == before


def test_note_with_another_digest_is_passed_over(large: Path, cache: Path) -> None:
    before = sha256_once(large)
    (path,) = (cache / "digests").iterdir()
    path.write_text(path.read_text().replace(before, "0" * 64))
    assert sha256_once(large) == before


def test_cache_that_cannot_be_written_is_done_without(large: Path, cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert sha256_once(large) == sha256_once(large)

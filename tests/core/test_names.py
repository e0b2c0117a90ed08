"""Names in files of others stay in their folder: refused, or inside."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinywave_core.errors import CheckpointError, SourceError
from tinywave_core.names import inside

OUT = {
    "../a.wav": "in it",
    "in/../../a.wav": "in it",
    "..": "in it",
    ".": "in it",
    "": "in it",
    "in//a.wav": "in it",
    "/etc/passwd": "absolute",
    "//host/share/a.wav": "absolute",
    "C:/a.wav": "absolute",
    "c:a.wav": "absolute",
    r"\\host\share\a.wav": "absolute",
    r"in\..\..\a.wav": "backslash",
    "a.wav\0.txt": "zero byte",
    "\ud800.wav": "half a character",
    "x" * 300 + ".wav": "too long",
    "in/" * 2000 + "a.wav": "too long",
}


@pytest.mark.parametrize("name", OUT)
def test_a_name_that_leads_out_is_refused_with_its_place(tmp_path: Path, name: str):
    with pytest.raises(SourceError, match=r"(?s)pairs.jsonl:7 names .*" + OUT[name]) as refused:
        inside(tmp_path, name, "pairs.jsonl:7")
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", [None, 3, ["a.wav"]])
def test_what_is_no_name_is_refused_as_the_callers_error(tmp_path: Path, name: object):
    with pytest.raises(CheckpointError, match="expected the name of a file"):
        inside(tmp_path, name, "index.json", CheckpointError)


@pytest.mark.parametrize(
    "name", ["a.wav", "in/a.wav", "..a/b...wav", "12:30.wav", "🎙 é'\".wav", "-rf", "~/a.wav", "$HOME/a"]
)
def test_a_plain_name_is_a_path_below_the_folder(tmp_path: Path, name: str):
    assert inside(tmp_path, name, "a") == tmp_path / name


PIECES = ["..", ".", "/", "\\", "a", "C:", "\0", "~", "link", " ", "é", "\ud800"]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
@example("a/link/a")
def test_no_name_leads_out_whatever_it_is_made_of(tmp_path_factory: pytest.TempPathFactory, name: str):
    folder = tmp_path_factory.getbasetemp() / "names"
    if not folder.is_dir():
        (folder / "a").mkdir(parents=True)
        (folder / "link").symlink_to("/")
        (folder / "a" / "link").symlink_to("../..")
    try:
        path = inside(folder, name, "a")
    except SourceError:
        return
    assert Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    path.is_file()  # raises nothing


def test_a_link_may_stay_inside_and_lead_to_the_blobs_of_a_cache(tmp_path: Path):
    for place in ("models/blobs", "models/snapshots/abc/dev", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
    folder = tmp_path / "models" / "snapshots" / "abc" / "dev"
    (folder / "a.wav").symlink_to("../../../blobs/0123")
    (folder / "b.wav").symlink_to("a.wav")
    (folder / "c.wav").symlink_to("../../../../elsewhere/c.wav")
    (folder / "d.wav").symlink_to("d.wav")  # leads to itself
    assert [inside(folder, name, "x").name for name in ("a.wav", "b.wav", "d.wav")] == ["a.wav", "b.wav", "d.wav"]
    with pytest.raises(
        SourceError, match=r"c\.wav is a link to .*/elsewhere/c\.wav, outside the folder: put a copy there"
    ):
        inside(folder, "c.wav", "x")

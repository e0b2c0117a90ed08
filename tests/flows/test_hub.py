"""`tinywave push` and `pull` with the real client against a hub on this machine: whole or not at all, and no token anywhere."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download

from flows.cli import main
from tests.fixtures import hub
from tinywave_core.base.opening import RELEASE

STUDENT = RELEASE / "student"
REPOSITORY = "somebody/student"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[hub.Hub]:
    """A hub that this test alone uses; we are known to it, and work in `tmp_path`."""
    with hub.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        # The client reads the variable when it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        pattern = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", pattern)
        monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.chdir(tmp_path)
        yield running


@pytest.fixture
def pushed(here: hub.Hub) -> hub.Hub:
    """The same with the base's student in it."""
    assert main(["push", str(STUDENT), REPOSITORY]) == 0
    here.requests.clear()
    return here


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    assert main(words) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1
    assert hub.TOKEN not in out + error and "pass-word" not in out + error
    return error


def test_what_is_pulled_is_what_was_pushed(here: hub.Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["push", str(STUDENT), REPOSITORY, "--private"]) == 0
    out, error = capsys.readouterr()
    assert "/somebody/student: 15 files" in out and "voice.flac holds recordings of people" in error
    assert here.private == {REPOSITORY} and hub.TOKEN not in out + error
    assert main(["pull", REPOSITORY]) == 0
    assert "student: 15 files" in capsys.readouterr().out
    pulled = digests(tmp_path / "student")
    sums = pulled.pop("SHA256SUMS")
    assert pulled == digests(STUDENT)
    assert sums == hashlib.sha256(here.files(REPOSITORY)["SHA256SUMS"]).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_large_files_go_before_the_commit_and_all_in_one(here: hub.Hub):
    assert main(["push", str(STUDENT), REPOSITORY]) == 0
    steps = [path.split("/")[-2] for method, path in here.requests if method in ("PUT", "POST") and "commit" in path]
    assert steps == ["commit"]
    kinds = [("lfs" if "/lfs/" in path and method == "PUT" else path.split("/")[-2]) for method, path in here.requests]
    assert kinds.index("commit") > max(index for index, kind in enumerate(kinds) if kind == "lfs")
    assert sum(kind == "lfs" for kind in kinds) == 4  # weights, codebooks, voice and its table


def test_a_second_push_leaves_nothing_of_the_first(pushed: hub.Hub, tmp_path: Path):
    again = shutil.copytree(STUDENT, tmp_path / "again")
    (again / "LICENSE").unlink()
    (again / ".hidden").write_text("not for others")
    assert main(["push", str(again), REPOSITORY]) == 0
    assert sorted(pushed.files(REPOSITORY)) == sorted({".gitattributes", "SHA256SUMS", *digests(STUDENT)} - {"LICENSE"})
    first = pushed.commits[REPOSITORY][1][0]
    assert main(["pull", REPOSITORY, "first", "--revision", first]) == 0
    assert (tmp_path / "first" / "LICENSE").is_file()


def other(files: dict[str, bytes], name: str) -> None:
    """One byte of a file is another."""
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda files: other(files, "model.safetensors"), "model.safetensors of somebody/student is not the file"),
        (lambda files: other(files, "README.md"), "README.md of somebody/student is not the file that its SHA256SUMS"),
        (lambda files: files.pop("tokenizer.json"), "has no tokenizer.json, which its SHA256SUMS lists"),
        (lambda files: files.pop("SHA256SUMS"), "has no SHA256SUMS, which `tinywave push` writes"),
        (
            lambda files: files.update(SHA256SUMS=files["SHA256SUMS"] + b"0" * 64 + b"  ../../evil\n"),
            "expected a digest and a file's name",
        ),
        (
            lambda files: files.update(
                SHA256SUMS=b"\n".join(l for l in files["SHA256SUMS"].splitlines() if b"voice.flac" not in l)
            ),
            "voice.flac is missing: speech.json tells of another file",
        ),
    ],
    ids=["weights", "card", "missing", "no sums", "outside", "not listed"],
)
def test_a_pull_that_is_not_right_leaves_nothing(
    pushed: hub.Hub, break_it, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files = dict(pushed.files(REPOSITORY))
    break_it(files)
    pushed.commit(REPOSITORY, files)
    assert expected in refused(capsys, "pull", REPOSITORY, "there")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["pull", REPOSITORY], ["push", str(STUDENT), REPOSITORY]], ids=["pull", "push"])
def test_a_wrong_token_and_a_hub_that_breaks_are_one_line_without_the_token(
    words: list[str], here: hub.Hub, monkeypatch, capsys, tmp_path: Path
):
    assert main(["push", str(STUDENT), REPOSITORY, "--private"]) == 0
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert "set HF_TOKEN" in refused(capsys, *words)
    monkeypatch.setenv("HF_ENDPOINT", here.url.replace("://", "://user:pass-word@"))
    assert "set HF_TOKEN" in refused(capsys, *words)
    monkeypatch.setenv("HF_ENDPOINT", here.url)
    monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits between its tries
    here.broken = {"/commit/main": 500, "/resolve/" + here.commits[REPOSITORY][-1][0] + "/speech.json": 500}
    assert "(status 500): try again later" in refused(capsys, *words)
    assert not list(tmp_path.iterdir()) and len(here.commits[REPOSITORY]) == 2


def test_what_cannot_be_is_said_before_the_hub_is_asked(here: hub.Hub, tmp_path: Path, capsys):
    (tmp_path / "full").mkdir()
    damaged = shutil.copytree(STUDENT, tmp_path / "damaged")
    (damaged / "speech_tokenizer" / "voice.json").write_text("{}")
    assert "expected OWNER/NAME" in refused(capsys, "push", str(STUDENT), "student")
    assert "expected OWNER/NAME" in refused(capsys, "pull", "../student")
    assert "full is there already" in refused(capsys, "pull", REPOSITORY, "full")
    assert "no speech.json" in refused(capsys, "push", str(tmp_path / "full"), REPOSITORY)
    assert "voice.json is damaged" in refused(capsys, "push", str(damaged), REPOSITORY)
    assert here.requests == []

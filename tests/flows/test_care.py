"""`tinywave verify`, `repair`, `gc` and `forget`, as a person meets them."""

import hashlib
from pathlib import Path

import pytest

from flows.cli import main
from tests.conftest import Finished
from tests.fixtures.tiny import CLIPS, copy_store, digests, run_tiny
from tests.flows.test_cli import flags
from tinywave_core.storage.store import Store


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    """What a command prints, if it ends with this exit status."""
    assert main(arguments) == status
    return capsys.readouterr().out


@pytest.fixture
def root(finished: Finished, tmp_path: Path) -> str:
    return copy_store(finished.config, tmp_path / "store").root


def damage(root: str, finished: Finished) -> str:
    artifact = finished.outputs["samples"]
    Path(root, artifact.id, "samples.json").write_text("{}")
    return artifact.id


def test_verify_says_what_is_wrong_and_what_to_do(capsys: pytest.CaptureFixture[str], finished: Finished, root: str):
    assert "artifacts in" in said(capsys, "verify", "--root", root)
    damaged = damage(root, finished)
    shown = said(capsys, "verify", "--root", root, status=2)
    assert damaged in shown and "wrong size" in shown and "tinywave repair" in shown


def test_repair_says_what_it_did_and_how_the_rest_comes_back(
    capsys: pytest.CaptureFixture[str], finished: Finished, root: str
):
    assert "nothing to repair" in said(capsys, "repair", "--root", root)
    damaged = damage(root, finished)
    assert f"{damaged}: moved to .damaged/" in said(capsys, "repair", "--root", root)
    assert "nothing to repair" in said(capsys, "repair", "--root", root)
    said(capsys, "verify", "--root", root)


def test_gc_only_looks_until_it_is_told_to_remove(capsys: pytest.CaptureFixture[str], finished: Finished, root: str):
    assert "would remove 0" in said(capsys, "gc", "--root", root, "--keep", "0")
    now = ("gc", "--root", root, "--keep", "0", "--older-than", "0")
    shown = said(capsys, *now)
    assert "generation" in shown and "add --yes" in shown
    assert digests(Store(root)) == digests(finished.store)
    assert "removed" in said(capsys, *now, "--yes")
    assert not Store(root).artifact_ids("generation")
    assert main(["gc", "--root", root, "--keep", "-1"]) == 2


def test_forget_only_looks_until_it_is_told_to_remove(
    capsys: pytest.CaptureFixture[str], finished: Finished, root: str
):
    digest = hashlib.sha256(Path(str(finished.config.source), CLIPS[3]).read_bytes()).hexdigest()
    shown = said(capsys, "forget", digest[:12], "--root", root)
    assert CLIPS[3] in shown and finished.outputs["model"].id in shown and "add --yes" in shown
    assert digests(Store(root)) == digests(finished.store)
    assert "only the digest of the file is kept" in said(capsys, "forget", CLIPS[3], "--root", root, "--yes")
    assert not Store(root).find(finished.outputs["model"].id).complete
    assert "removed by forget" in said(capsys, "verify", "--root", root)
    assert "damage" not in said(capsys, "plan", "--explain", *flags(finished.config.model_copy(update={"root": root})))
    run_tiny(finished.config.model_copy(update={"root": root}), until="ingestion")
    said(capsys, "verify", "--root", root)


@pytest.mark.parametrize("command", [["verify"], ["repair"], ["gc"], ["forget", "a.wav"]])
def test_a_folder_that_is_no_store_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]):
    assert main([*command, "--root", str(tmp_path)]) == 2
    assert "there is no store at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_repair_and_gc_wait_for_nobody(capsys: pytest.CaptureFixture[str], root: str):
    import subprocess
    import sys

    program = f"""
from tinywave_core.storage.store import Store
with Store({root!r}).lock("tinywave pipeline"):
    print("locked", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        refused = [main([command, "--root", root]) for command in ("repair", "gc")]
        said(capsys, "verify", "--root", root)
        holder.stdin.write("\n")
    assert refused == [2, 2]

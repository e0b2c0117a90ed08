"""What is installed is what git says: the installer, every package and what builds ours are held to their hashes."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from infra.audit import main, verdict

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv") or str(ROOT / ".venv-uv" / "bin" / "uv")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")


def wheel(folder: Path) -> Path:
    """The smallest package there is."""
    files = {
        "harmless.py": "",
        "harmless-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: harmless\nVersion: 1.0\n",
        "harmless-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        name: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        for name, text in files.items()
    }
    record = "".join(f"{name},sha256={digest},{len(files[name])}\n" for name, digest in digests.items())
    path = folder / "harmless-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in (files | {"harmless-1.0.dist-info/RECORD": record}).items():
            archive.writestr(name, text)
    return path


def sync(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """As `make setup` does, of a lock with this line, from this folder."""
    (folder / "requirements.lock").write_text(line)
    (flags,) = re.findall(r"pip sync --quiet (.*)requirements\.lock", (ROOT / "Makefile").read_text())
    given = [*flags.split(), "--no-index", "--find-links", str(folder), "--target", str(folder / "installed")]
    command = [
        UV,
        "--no-config",
        "--cache-dir",
        str(folder / "cache"),
        "pip",
        "sync",
        "--allow-empty-requirements",
        *given,
    ]
    return subprocess.run([*command, "requirements.lock"], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not Path(UV).exists(), reason="no uv beside this environment: run make setup")
def test_a_package_with_another_hash_or_none_is_not_installed(tmp_path: Path):
    digest = hashlib.sha256(wheel(tmp_path).read_bytes()).hexdigest()
    installed = tmp_path / "installed" / "harmless.py"
    refused = {
        "Hash mismatch for `harmless==1.0`": f"harmless==1.0 --hash=sha256:{'0' * 64}\n",
        "hash": "harmless==1.0\n",
    }
    for said, line in refused.items():
        done = sync(tmp_path, line)
        assert done.returncode and said in done.stderr and not installed.exists()
    assert sync(tmp_path, f"harmless==1.0 --hash=sha256:{digest}\n").returncode == 0 and installed.exists()


def test_every_installation_is_held_to_hashes():
    made, image = (ROOT / "Makefile").read_text(), (ROOT / "infra" / "Dockerfile").read_text()
    ours = "--require-build-hashes"
    for text in (made.replace("$(HASHED)", ours), image):
        calls = re.findall(r"\bpip (?:install|sync)\b[^&\n]*", text.replace("\\\n", " "))
        assert len(calls) == 3
        assert not [call for call in calls if "--require-hashes" not in call and ours not in call]
    assert ours in made


@pytest.mark.parametrize("name", ["requirements.lock", "infra/uv.txt", "infra/build.txt"])
def test_every_package_has_a_hash(name: str):
    parts = re.split(r"^(?=[a-z])", (ROOT / name).read_text(), flags=re.MULTILINE)
    packages = [part for part in parts if re.match("[a-z0-9._-]+", part)]
    assert packages and not [part.split()[0] for part in packages if not HASH.search(part) or "==" not in part]


# Known faults ------------------------------------------------------------------------------------------------------

FINE = {"name": "one", "version": "1", "vulns": []}
FAULTY = {"name": "two", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "three", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("found", "status", "line"),
    [
        ([FINE], 0, "1 packages looked up, 0 known faults"),
        ([FINE, FAULTY], 1, "two 2: PYSEC-1, mended in 2.1"),
        ([FINE, UNKNOWN], 2, "1 of 2 packages could not be looked up: run it where PyPI is reached"),
        ([], 2, "0 of 0 packages could not be looked up: run it where PyPI is reached"),
    ],
)
def test_an_audit_that_looked_up_less_than_all_did_not_pass(found: list, status: int, line: str):
    assert verdict(found)[0] == status and line in verdict(found)[1]


@pytest.mark.parametrize(
    ("says", "status"), [(json.dumps({"dependencies": [FINE]}), 0), ("", 2)], ids=["answer", "none"]
)
def test_an_audit_without_a_network_is_one_line(
    says: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\necho 'error: no route to host' >&2\necho '{says}'\n")
    uv.chmod(0o755)
    assert main(str(uv)) == status
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and (status == 0 or "(error: no route to host): run it where PyPI is reached" in said)

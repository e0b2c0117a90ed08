"""What depends on arithmetic passes on other kinds of CPU too: the tests marked `arithmetic`, in processes that compute as these do.

Here the kind that differs most, with two threads and without models of full size; all of them, with one and two, by `make test-machines`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures import machines

ROOT = Path(__file__).parents[2]
FILES = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.glob("tests/core/*/test_*.py")
    if "mark.arithmetic" in path.read_text("utf-8")
)
OFTEN = [(kind, 2) for kind in [*machines.kinds()][:1]]
ALL = [(kind, threads) for kind in ("this", *machines.kinds()) for threads in (1, 2)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = ALL if metafunc.config.getoption("all_machines") else OFTEN
    metafunc.parametrize(("kind", "threads"), cases)


@pytest.mark.timeout(600)
def test_arithmetic_holds(kind: str, threads: int, full_release: Path, tmp_path: Path, pytestconfig: pytest.Config):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "arithmetic and not one_machine",
        "--full-release",
        str(full_release),
        *FILES,
    ]
    if not pytestconfig.getoption("all_machines"):
        command += ["-k", "not full_size"]
    command += ["--basetemp", str(tmp_path / "inner")]  # processes that share one clear up under one another
    done = subprocess.run(
        command, cwd=ROOT, env=machines.environment(kind, threads), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout and "not tested" not in done.stdout

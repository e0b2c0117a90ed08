"""No test is left out in silence: every reason says what to do, and a run ends with what it did not test."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reporting import WITH_INSTRUCTION

ROOT = Path(__file__).parents[2]
LEAVE_OUT = {f"pytest.{name}" for name in ("skip", "xfail", "importorskip", "mark.skip", "mark.skipif", "mark.xfail")}
GOOD = """
import sys
import pytest

@pytest.fixture
def browser():
    pytest.skip("no browser: install chromium")

@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_fixture(browser, width): ...

def test_in_the_body():
    pytest.skip("no\\nkey: set API_KEY")

@pytest.mark.skipif(True, reason="no GPU: run on a machine with one")
def test_by_a_mark(): ...

@pytest.mark.xfail(reason="broken in b 1.0: install b 1.1")
def test_that_is_known_to_fail():
    assert False

def test_found_to_fail():
    pytest.xfail("broken in b 1.0: install b 1.1")

def test_that_passes(): ...
"""
WHOLE_FILE = 'import pytest\npytest.importorskip("no_such_package", reason="no such package: install it")'
SAID = [
    "not tested: 2 tests of ui/test_good.py: broken in b 1.0: install b 1.1",
    "not tested: 3 tests of a and ui: no browser: install chromium",
    "not tested: 1 test of ui/test_good.py: no GPU: run on a machine with one",
    "not tested: 1 test of ui/test_good.py: no key: set API_KEY",
    "not tested: all of ui/test_whole.py: no such package: install it",
]
BAD = """
import pytest

@pytest.fixture
def browser():
    pytest.skip("no browser")

def test_in_a_fixture(browser): ...

def test_in_the_body():
    pytest.importorskip("no_such_package")

@pytest.mark.skip
def test_by_a_mark(): ...

@pytest.mark.xfail(reason="broken")
def test_that_is_known_to_fail():
    assert False
"""


def run(folder: Path, files: dict[str, str], processes: int) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "pytest.ini").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    plugins = ["-p", "tests.reporting", "-p", "xdist", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "-q", "--continue-on-collection-errors", f"-n{processes}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("processes", [0, 2])
def test_a_run_says_for_each_reason_what_it_did_not_test(tmp_path: Path, processes: int):
    again = GOOD[: GOOD.index("@pytest.mark")] + "def test_elsewhere(browser): ..."
    files = {"ui/test_good.py": GOOD, "a/test_again.py": again, "ui/test_whole.py": WHOLE_FILE}
    said = run(tmp_path, files, processes)
    assert [line for line in said.splitlines() if line.startswith("not tested")] == sorted(SAID, key=_reason), said
    assert "1 passed, 6 skipped, 2 xfailed" in said


@pytest.mark.parametrize("processes", [0, 2])
def test_what_is_left_out_without_saying_what_to_do_fails(tmp_path: Path, processes: int):
    whole_file = 'import pytest\npytest.importorskip("no_such_package")'
    said = run(tmp_path, {"test_bad.py": BAD, "test_whole.py": whole_file}, processes)
    assert "2 failed, 3 errors" in said, said
    assert "test_bad.py::test_in_a_fixture is left out: 'no browser'. A reason ends with what to do" in said
    assert "test_whole.py is left out: \"could not import 'no_such_package'" in said


def _reason(line: str) -> str:
    return line.split(": ", 2)[2]


def bad_reasons(text: str) -> Iterator[str]:
    """Line and reason of what leaves tests out without saying what to do; what is computed in an f-string is '…'."""
    tree = ast.parse(text)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in LEAVE_OUT:
            reason = _given(calls.get(id(node)))
            if not WITH_INSTRUCTION.fullmatch(reason):
                yield f"{node.lineno}: {reason!r}"


def _given(call: ast.Call | None) -> str:
    if call is None:
        return ""
    given = [word.value for word in call.keywords if word.arg == "reason"] + call.args[:1]
    parts = given[0].values if given and isinstance(given[0], ast.JoinedStr) else given[:1]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)


def test_a_reason_is_seen_in_the_code_whatever_leaves_the_test_out():
    assert not list(bad_reasons(GOOD + WHOLE_FILE))
    assert sorted(bad_reasons(BAD)) == ["11: 'no_such_package'", "13: ''", "16: 'broken'", "6: 'no browser'"]


def test_every_reason_to_leave_a_test_out_says_what_to_do():
    files = sorted((ROOT / "tests").rglob("*.py"))
    bad = [f"{path}:{found}" for path in files for found in bad_reasons(path.read_text(encoding="utf-8"))]
    assert not bad, f"end these with what to do, as in 'no Chromium: install chromium' (install, run or set): {bad}"

"""infra/faults.md names tests that exist, and claims nothing without one."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def rows() -> list[list[str]]:
    lines = (ROOT / "infra" / "faults.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d", line)]


def test_each_fault_has_one_row_and_a_state():
    assert [row[0] for row in rows()] == [str(number) for number in range(1, 34)]
    assert {row[4] for row in rows()} <= {"proven", "partly", "not"}


def test_what_is_called_proven_names_a_test_and_each_test_exists():
    for number, _, _, proofs, state in rows():
        named = TEST.findall(proofs)
        assert bool(named) == (state != "not"), f"fault {number} is called {state}"
        assert not TEST.sub("", proofs).strip(" ,"), f"fault {number}: write `file.py::test_name`"
        for file, test in named:
            path = ROOT / "tests" / file
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            assert re.search(rf"^(?:async )?def {test}\(", text, re.MULTILINE), f"fault {number}: no {file}::{test}"

"""No test is left out in silence: a run ends with what was not tested, why, and what to do about it.

A reason to leave a test out (skip, importorskip, xfail) ends with what to do, after a colon: "no Chromium on this machine:
install chromium". A test that is left out for any other reason fails.
"""

import re
from collections import defaultdict
from collections.abc import Generator
from pathlib import PurePosixPath

import pytest

WITH_INSTRUCTION = re.compile(r".+: (install|run|set) .+", re.DOTALL)
Report = pytest.TestReport | pytest.CollectReport


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _with_instruction((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Of a file that leaves out all its tests."""
    return _with_instruction((yield))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out: dict[str, list[Report]] = defaultdict(list)
    for report in terminalreporter.getreports("skipped") + terminalreporter.getreports("xfailed"):
        left_out[" ".join(_reason(report).split())].append(report)
    for reason, reports in sorted(left_out.items()):
        terminalreporter.write_line(f"not tested: {_what(reports)}: {reason}", yellow=True)


def _with_instruction(report: Report) -> Report:
    if report.skipped and not WITH_INSTRUCTION.fullmatch(reason := _reason(report)):
        report.outcome = "failed"
        report.longrepr = (
            f"{report.nodeid} is left out: {reason!r}. A reason ends with what to do about it, after a colon: "
            '"no Chromium on this machine: install chromium" (one of: install, run, set)'
        )
    return report


def _reason(report: Report) -> str:
    if hasattr(report, "wasxfail"):
        return report.wasxfail
    return report.longrepr[2].removeprefix("Skipped: ")


def _what(reports: list[Report]) -> str:
    """'all of' for files that were not even read, as many tests as there are in them."""
    files = {PurePosixPath(report.nodeid.partition("::")[0]) for report in reports}
    places = files if len(files) == 1 else {file.parent for file in files}
    tests = sum(isinstance(report, pytest.TestReport) for report in reports)
    number = "all" if not tests else f"{tests} test{'s' * (tests > 1)}"
    return f"{number} of {' and '.join(sorted(map(str, places)))}"

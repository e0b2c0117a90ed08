"""What commands print and log of file names, speakers and messages shows characters that would steer a terminal; none acts."""

import ast
import io
import logging
import shutil
import sys
from pathlib import Path

import pytest
from rich.table import Table

from flows import console
from flows.cli import main
from tasks import terminal
from tests.fixtures.tiny import EXAMPLES, NEW_CLIP, run_tiny, tiny_config
from tinywave_core.errors import SourceError
from tinywave_core.escaping import visible

ROOT = Path(__file__).parents[2]
STEERING = "\x1b]0;pwned\x07\x1b[2J\rok \u202eexe.\x9b1m[/red]"
SEEN = r"\u001b]0;pwned\u0007\u001b[2J\u000dok \u202eexe.\u009b1m[/red]"


def test_commands_print_the_names_of_files_in_plain_sight(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """One recording with such a name, in a folder with such a name, below a source with such a name."""
    folder, seen = STEERING.replace("/", ""), SEEN.replace("/", "")
    source, name = tmp_path / folder, f"{folder}/{folder}.opus"
    (source / folder).mkdir(parents=True)
    shutil.copyfile(EXAMPLES / NEW_CLIP, source / name)
    config = tiny_config(source, tmp_path / "store")
    outputs, _ = run_tiny(config, "ingestion")
    root = ("--root", config.root)
    assert main(["lineage", outputs["corpus"].id, *root]) == 0
    assert main(["lineage", name, *root]) == 0
    assert main(["forget", name, *root]) == 0
    assert main(["plan", "ingestion", "--source", str(source), *root]) == 0
    assert main(["verify", "--root", str(source)]) == 2
    told = capsys.readouterr()
    assert told.out + told.err == visible(told.out + told.err)
    # The name backward, forward and in `forget`, and the source in the plan.
    assert told.out.count(f"{seen}/{seen}.opus") == 3 and f"source {tmp_path}/{seen}: 1 file," in told.out
    assert told.err.startswith(f"error: there is no store at {tmp_path}/{seen}")


def test_cells_of_tables_are_neither_steering_nor_richs_markup(capsys: pytest.CaptureFixture[str]):
    table = Table(title=STEERING)
    table.add_column(STEERING, overflow="fold")
    table.add_row(STEERING)
    console.console(width=200).print(table)
    console.console(width=200).print(STEERING)
    told = capsys.readouterr().out
    assert visible(told) == told
    assert told.count(SEEN) == 4


@pytest.mark.parametrize("last", [True, False])
def test_a_line_that_is_written_over_has_one_return_and_it_is_ours(last: bool, capsys: pytest.CaptureFixture[str]):
    terminal.say_over(f"a{STEERING}", last=last)
    told = capsys.readouterr().err
    assert told == f"\r\x1b[Ka{SEEN}" + ("\n" if last else "")


def test_logs_show_messages_and_tracebacks_in_plain_sight():
    """Prefect's own formatter, and Python's; the name is an argument, and stands in the error."""
    from prefect.logging.formatters import PrefectFormatter

    out = io.StringIO()
    log = logging.Logger("names")
    for formatter in (PrefectFormatter("%(levelname)s %(message)s"), logging.Formatter("%(message)s")):
        handler = logging.StreamHandler(out)
        handler.setFormatter(formatter)
        log.addHandler(handler)
    try:
        raise SourceError(f"{STEERING} is gone")
    except SourceError:
        log.exception("could not read %s", STEERING)
    told = out.getvalue()
    assert visible(told) == told
    assert told.count(f"could not read {SEEN}") == 2 and told.count(f"SourceError: {SEEN} is gone") == 2


def test_a_fault_of_ours_is_shown_in_plain_sight(capsys: pytest.CaptureFixture[str]):
    try:
        raise RuntimeError(STEERING)
    except RuntimeError:
        terminal.say_uncaught(*sys.exc_info())  # type: ignore[arg-type]
    assert capsys.readouterr().err.endswith(f"RuntimeError: {SEEN}\n")


def test_everything_is_printed_in_one_place():
    prints = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for layer in ("flows", "tasks")
        for path in (ROOT / layer).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "print" and path != ROOT / "tasks" / "terminal.py"
    }
    assert not prints, "print with tasks.terminal.say"

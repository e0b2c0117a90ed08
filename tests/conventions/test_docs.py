"""What the READMEs tell people to type exists: commands, options, make targets, links, decisions; and the lock is whole."""

import ast
import importlib
import os
import re
import shlex
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import flows.commands
from flows.cli import build_parser, settings_of
from infra.pages.hooks import GENERATED
from tinywave_core.config.load import load_config, preset_names
from tinywave_core.errors import ConfigError

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs"
FOLDERS = ("docs", "examples", "flows", "infra", "tasks", "tests", "tinywave", "tinywave_core")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
SOURCES = sorted(
    path
    for folder in FOLDERS
    for ending in ("py", "toml", "md", "jinja")
    for path in (ROOT / folder).rglob(f"*.{ending}")
)
COMMANDS = {command.name: command for command in flows.commands.COMMANDS}
PLACEHOLDERS = {"STAGE": "distillation"}

_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands(text: str, program: str) -> Iterator[list[str]]:
    """Arguments of every call of `program` in code blocks and code spans, output of programs left out."""
    blocks = [block.replace("\\\n", " ") for block in _FENCE.findall(text)]
    lines = [line for block in blocks for line in block.splitlines()] + _SPAN.findall(_FENCE.sub("", text))
    for line in lines:
        call = re.match(rf"\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S*/)?{program}((?: .*)?)$", line)
        if call:
            yield [PLACEHOLDERS.get(word, word) for word in shlex.split(call.group(1), comments=True)]


def cases(program: str) -> list:
    found = [(path, words) for path in DOCUMENTS for words in commands(path.read_text(encoding="utf-8"), program)]
    return [pytest.param(words, id=f"{name_of(path)}: {' '.join(words)}"[:100]) for path, words in found if words]


@pytest.mark.parametrize("words", cases("tinywave"))
def test_tinywave_command_parses(words: list[str]):
    command, *rest = words
    if command.startswith("-"):
        return
    assert command in COMMANDS
    if not rest or "--help" in rest:  # a mention of the command
        return
    options, unknown = build_parser(words).parse_known_args(words)
    assert not unknown, f"the CLI does not know {unknown}"
    if COMMANDS[command].has_settings:
        preset = options.preset if options.preset in preset_names() else "demo"  # a file of the reader's own
        load_config(preset, settings_of(options, unknown))


def lone_settings() -> list:
    """Code spans with settings alone, such as `--runtime.compile true`; those with a placeholder in capitals are left out."""
    found = [
        pytest.param(shlex.split(span), id=f"{name_of(path)}: {span}"[:100])
        for path in DOCUMENTS
        for span in _SPAN.findall(_FENCE.sub("", path.read_text(encoding="utf-8")))
        if re.match(r"--[a-z_]+\.[a-z_.]+ [^A-Z\s]", span)
    ]
    assert found
    return found


@pytest.mark.parametrize("words", lone_settings())
def test_setting_that_stands_alone_has_a_value_that_parses(words: list[str]):
    options, unknown = build_parser(["run", *words]).parse_known_args(["run", *words])
    assert not unknown, f"the CLI does not know {unknown}"
    values, why = settings_of(options, unknown), ""
    try:
        load_config("demo", values)
    except ConfigError as error:
        why = str(error)
    # It may want other settings beside it, but not another value.
    assert not [key for key in values if f"--{key} is" in why], why


@pytest.mark.parametrize("words", cases("make"))
def test_make_target_exists(words: list[str]):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wanted = [word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)]
    assert set(wanted) <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_relative_links_lead_somewhere(path: Path):
    targets = [a or b for a, b in _LINK.findall(_FENCE.sub("", path.read_text(encoding="utf-8")))]
    inside = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    made = {(SITE / place).resolve() for place in GENERATED}  # by `make docs`
    places = {target: (path.parent / target).resolve() for target in inside}
    assert not [target for target, place in places.items() if not place.exists() and place not in made]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_names_that_python_examples_import_exist(path: Path):
    for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tinywave"):
                module = importlib.import_module(str(node.module))
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], node.module


def test_decisions_that_are_named_exist():
    named = {
        (name_of(path), decision)
        for path in [*SOURCES, *ROOT.glob("*.md"), ROOT / "pyproject.toml"]
        for decision in re.findall(r"decisions/(\d{4}-[a-z0-9-]+\.md)", path.read_text(encoding="utf-8"))
    }
    assert not [pair for pair in sorted(named) if not (ROOT / "infra" / "decisions" / pair[1]).is_file()]


def test_decisions_are_numbered_once_and_short():
    pages = sorted((ROOT / "infra" / "decisions").glob("*.md"))
    numbers = [page.name[:4] for page in pages]
    assert numbers == sorted(set(numbers))
    assert not [page.name for page in pages if len(page.read_text().splitlines()) > 40]


# The lock and continuous integration -------------------------------------------------------------------------------


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [Requirement(line) for line in project["project"]["dependencies"] + project["dependency-groups"]["dev"]]


def test_lock_pins_every_dependency_with_hashes():
    lock = (ROOT / "requirements.lock").read_text()
    pins = set(re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+).*\\\n\s+--hash=sha256:", lock, re.MULTILINE))
    unmet = [r for r in requirements() if not any(n == r.name and r.specifier.contains(v) for n, v in pins)]
    assert not unmet, f"`make lock` resolves these anew: {list(map(str, unmet))}"


def test_lock_names_no_host():
    assert "://" not in (ROOT / "requirements.lock").read_text()


def test_continuous_integration_installs_what_tests_need_and_runs_them():
    script = ROOT / ".ci" / "run"
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "infra/native/install_test_tools.sh", "make test"]
    for path in (script, ROOT / lines[2]):
        assert os.stat(path).st_mode & stat.S_IXUSR
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


def test_help_needs_no_heavy_import():
    script = "import sys; from flows.cli import build_parser; build_parser(['run']); print([m for m in ('torch', 'prefect') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"

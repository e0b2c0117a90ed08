"""Imports run one way, flows → tasks → tinywave_core and tinywave → tinywave_core, and nothing that runs code from a data file is used anywhere."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("flows", "tasks", "tinywave", "tinywave_core")
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
CONFIG = sorted((ROOT / "tinywave_core" / "config").glob("*.py"))
# What each layer must not import; the core is free of Prefect, so that it runs and is tested without it.
FORBIDDEN = {
    "tinywave_core": {"prefect", "tasks", "flows", "tinywave"},
    "tasks": {"flows", "tinywave"},
    "flows": {"tinywave"},
    "tinywave": {"prefect", "tasks", "flows"},
}
UNPICKLERS = {"pickle", "cPickle", "joblib", "dill", "cloudpickle", "shelve"}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def imports(path: Path) -> list[str]:
    return list(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    """Full names of all imported modules, those inside functions and under TYPE_CHECKING included."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and [alias.name for alias in node.names] == ["UnpicklingError"]:
            continue  # only the name of what torch raises where it refuses to unpickle
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} has a relative import; write the full name"
            assert node.module
            yield node.module


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_run_one_way(layer: str):
    upward = {
        name_of(path): sorted(packages(path) & FORBIDDEN[layer])
        for path in MODULES
        if path.is_relative_to(ROOT / layer) and packages(path) & FORBIDDEN[layer]
    }
    assert not upward, f"{layer} must not import these: {upward}"


def test_folders_of_the_core_import_one_way():
    """A folder that another one imports never imports that one, by whatever way: so the folders can be read from below."""
    rest = {room_of(path): set() for path in MODULES if path.is_relative_to(ROOT / "tinywave_core")}
    for path in MODULES:
        if path.is_relative_to(ROOT / "tinywave_core"):
            found = {
                room_of(ROOT / f"{name.replace('.', '/')}.py")
                for name in imports(path)
                if name.startswith("tinywave_core.")
            }
            rest[room_of(path)] |= found - {room_of(path)}
    while floor := {room for room, below in rest.items() if not below & rest.keys()}:
        rest = {room: below for room, below in rest.items() if room not in floor}
    assert not rest, (
        f"these import each other in a circle, or what does: { {room: sorted(below & rest.keys()) for room, below in rest.items()} }"
    )


def room_of(path: Path) -> str:
    """A folder right below tinywave_core, or a file beside the folders."""
    return path.relative_to(ROOT / "tinywave_core").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", CONFIG, ids=name_of)
def test_config_imports_only_pydantic_and_the_standard_library(path: Path):
    allowed = set(sys.stdlib_module_names) | {"pydantic"}
    own = ("tinywave_core.config", "tinywave_core.errors")
    foreign = [n for n in imports(path) if n.partition(".")[0] not in allowed and not n.startswith(own)]
    assert not foreign, f"the CLI's --help would import {foreign}"


def test_tests_are_imported_by_nothing():
    assert not [name_of(path) for path in MODULES if "tests" in packages(path)]


@pytest.mark.parametrize("layer", LAYERS)
def test_no_file_shadows_a_module_of_the_standard_library(layer: str):
    # `python flows/tokenize.py`, say, would break the standard library's own imports of `tokenize`.
    names = [path.stem for path in MODULES if path.is_relative_to(ROOT / layer) and path.stem != "__init__"]
    names += [path.parent.name for path in MODULES if path.is_relative_to(ROOT / layer)]
    assert not sorted(set(names) & set(sys.stdlib_module_names))


def test_nothing_imports_a_library_that_unpickles():
    assert not {name_of(path): found for path in MODULES if (found := packages(path) & UNPICKLERS)}


def test_no_call_unpickles():
    found = [f"{name_of(path)}:{call.lineno}" for path in MODULES for call in _calls(path) if _unpickles(call)]
    assert not found, f"these calls can run code from a data file: {found}"


def _calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]


def _unpickles(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    flags = {word.arg: ast.unparse(word.value) for word in call.keywords}
    whole = name == "torch.load" and flags.get("weights_only") != "True"
    return whole or name.endswith("read_pickle") or flags.get("allow_pickle", "False") != "False"


@pytest.mark.parametrize(
    "source",
    ["torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "pandas.read_pickle(f)"],
)
def test_the_check_sees_what_it_looks_for(source: str):
    call = ast.parse(source, mode="eval").body
    assert isinstance(call, ast.Call)
    assert _unpickles(call)


def test_a_run_in_which_nothing_is_new_never_imports_torch():
    """The DAG and its flows are imported by every run and every worker; torch is seconds of it."""
    code = "import sys, flows.pipeline; print([n for n in ('torch', 'transformers', 'onnxruntime', 'matplotlib') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

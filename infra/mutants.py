"""Break the core in drawn places, one at a time, and see whether its tests notice: `make mutants`.

A mutant is one small change of one expression: a comparison, an operator, a number, a condition, or a call that is left out. It runs
in a copy of the sources, against the test modules of tests/core that import the changed module, and is killed when one of them
fails (so the tests have to pass as they are: `make test` first). What survives is printed with its place: either a test is missing, or the change makes no difference (then say why in a test
or simplify the code). `SEED=` draws other places, `COUNT=` more; `ONLY=` keeps to paths that contain it.
"""

import ast
import copy
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_TESTS = 4  # test modules per mutant
TIMEOUT_S = 240
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}


@dataclass(frozen=True)
class Mutant:
    """One changed place."""

    path: Path
    line: int
    before: str
    after: str
    source: str
    """The whole changed module."""

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}  {self.before}  →  {self.after}"


def mutants_of(path: Path) -> list[Mutant]:
    """Every change that is known here, of every expression of a module that is no message and no type."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [mutant for number in range(len(list(_sites(tree)))) if (mutant := _changed(path, tree, number))]


def _sites(tree: ast.AST) -> Iterator[ast.AST]:
    """Expressions and statements that can be changed, in the order of the source."""
    decorators = getattr(tree, "decorator_list", [])  # `frozen=True` keeps people from a mistake, and no test makes it
    for node in ast.iter_child_nodes(tree):
        if node in decorators:
            continue
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom)):
            continue  # words of an error say nothing about what is computed
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if _can_change(node):
            yield node
        yield from _sites(node)


def _can_change(node: ast.AST) -> bool:
    match node:
        case ast.Compare(ops=[operator]):
            return type(operator) in COMPARISONS
        case ast.BinOp(op=operator):
            return type(operator) in OPERATORS and not _is_text(node)
        case ast.BoolOp() | ast.If() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.Constant(value=bool() | int() | float()):
            return True
        case ast.Expr(value=ast.Call()):
            return True
    return False


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str) for side in sides)


def _changed(path: Path, tree: ast.Module, number: int) -> Mutant | None:
    changed = copy.deepcopy(tree)
    node = list(_sites(changed))[number]
    before = _line_of(node)
    _change(node)
    after = _line_of(node)
    if before == after:
        return None
    return Mutant(path, getattr(node, "lineno", 0), before, after, ast.unparse(ast.fix_missing_locations(changed)))


def _line_of(node: ast.AST) -> str:
    whole = node.test if isinstance(node, ast.If) else node
    return ast.unparse(whole).split("\n")[0][:90]


def _change(node: ast.AST) -> None:
    match node:
        case ast.Compare(ops=[operator]):
            node.ops = [COMPARISONS[type(operator)]()]
        case ast.BinOp(op=operator):
            node.op = OPERATORS[type(operator)]()
        case ast.BoolOp(op=operator):
            node.op = ast.Or() if isinstance(operator, ast.And) else ast.And()
        case ast.If(test=test):
            node.test = ast.UnaryOp(ast.Not(), test)
        case ast.UnaryOp(operand=operand):
            node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), operand)
        case ast.Constant(value=bool() as value):
            node.value = not value
        case ast.Constant(value=value):
            node.value = value + 1
        case ast.Expr():
            node.value = ast.Constant(None)


def tests_of(path: Path) -> list[str]:
    """Test modules of tests/core that import the module; those of its name first, then those with the fewest imports of ours."""
    module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    found = []
    for test in sorted((ROOT / "tests" / "core").rglob("test_*.py")):
        text = test.read_text(encoding="utf-8")
        parent, _, stem = module.rpartition(".")
        if re.search(rf"{module} import|import {module}\b|from {parent} import [^\n]*\b{stem}\b", text):
            found.append((path.stem not in test.stem, text.count("tinywave_core."), test.relative_to(ROOT).as_posix()))
    # Defaults are held by the golden fingerprints.
    extra = ["tests/conventions/test_fingerprints.py"] if path.parent.name == "config" else []
    return [name for *_, name in sorted(found)[:MOST_TESTS]] + extra


def draw(count: int, seed: int, only: str) -> list[tuple[Mutant, list[str]]]:
    """Mutants with their tests: modules are drawn evenly, so that long ones do not take all."""
    paths = [path for path in sorted((ROOT / "tinywave_core").rglob("*.py")) if only in path.as_posix()]
    tested = {path: tests for path in paths if (tests := tests_of(path))}
    chosen = random.Random(seed)
    drawn: dict[str, tuple[Mutant, list[str]]] = {}
    for _ in range(20 * count):
        if len(drawn) == count:
            break
        path = chosen.choice(list(tested))
        if mutants := mutants_of(path):
            mutant = chosen.choice(mutants)
            drawn[str(mutant)] = (mutant, tested[path])
    return list(drawn.values())


def run_tests(folder: Path, tests: list[str]) -> int:
    """Exit status of pytest in a copy of the sources; that of a test that hangs is 1."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "--timeout",
        "120",
        *tests,
    ]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return 1
    return done.returncode


def copy_sources(folder: Path) -> None:
    """All tracked files."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def main() -> int:
    """Exit status 1 if a mutant survived."""
    count, seed = int(os.environ.get("COUNT", "40")), int(os.environ.get("SEED", "0"))
    drawn = draw(count, seed, os.environ.get("ONLY", ""))
    survivors = []
    with tempfile.TemporaryDirectory(prefix="tinywave-mutants-") as name:
        folder = Path(name)
        copy_sources(folder)
        for number, (mutant, tests) in enumerate(drawn, start=1):
            copied = folder / mutant.path.relative_to(ROOT)
            copied.write_text(mutant.source, encoding="utf-8")
            survived = run_tests(folder, tests) == 0
            shutil.copy2(mutant.path, copied)
            print(f"{number:3d} of {len(drawn)}  {'SURVIVED' if survived else 'killed  '}  {mutant}", flush=True)
            if survived:
                survivors.append((mutant, tests))
    print(f"\n{len(drawn) - len(survivors)} of {len(drawn)} killed (SEED={seed})")
    for mutant, tests in survivors:
        print(f"  {mutant}\n      by {', '.join(tests)}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

"""The public names of `tinywave` -> a page of Markdown: signatures, docstrings, and fields with the docstrings under them.

Read from the objects and their source, so that the page is what the code says. A test asks `undocumented` of every name.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tinywave

GROUPS = {
    "Functions": inspect.isfunction,
    "Classes": lambda value: inspect.isclass(value) and value.__module__.startswith("tinywave."),
    "Results": lambda value: inspect.isclass(value) and not value.__module__.startswith("tinywave."),
}


@dataclass(frozen=True)
class Member:
    """A public field, property or method of a class."""

    name: str
    signature: str
    """As it is written in the source."""
    text: str
    """Its docstring, or the comment behind a field; empty where there is none."""


def members(cls: type) -> list[Member]:
    """The public members of a class in the order of its source, those of project classes that it builds on first."""
    found: dict[str, Member] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("tinywave"):
            found |= {member.name: member for member in _own(base)}
    return list(found.values())


def undocumented(value: Any) -> list[str]:
    """Names of public members without a docstring."""
    if not inspect.isclass(value) or issubclass(value, Exception):
        return []
    return [f"{value.__name__}.{member.name}" for member in members(value) if not member.text]


def _own(cls: type) -> Iterator[Member]:
    lines = textwrap.dedent(inspect.getsource(cls)).splitlines()
    (node,) = ast.parse("\n".join(lines)).body
    assert isinstance(node, ast.ClassDef)
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(statement, ast.FunctionDef) and not statement.name.startswith("_"):
            yield Member(statement.name, _signature(statement), ast.get_docstring(statement) or "")
        elif isinstance(statement, ast.AnnAssign) and not (name := ast.unparse(statement.target)).startswith("_"):
            under = _text(following) or lines[statement.lineno - 1].partition("  # ")[2]
            yield Member(name, ast.unparse(statement), under)


def _text(statement: ast.stmt | None) -> str:
    """What a string that stands alone says: the docstring of the field above it."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return inspect.cleandoc(str(statement.value.value))
    return ""


def _signature(node: ast.FunctionDef) -> str:
    """The first lines of a function, without `self` and its body; a property is a name with a type."""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if any(name.endswith("property") for name in decorators):
        return f"{node.name}: {ast.unparse(node.returns) if node.returns else 'Any'}"
    arguments = re.sub(r"(?<=[\w\]])=", " = ", re.sub(r"^(self|cls)(, )?", "", ast.unparse(node.args)))
    # A name in quotes is a type that is defined further below.
    return re.sub(r"'([A-Z]\w*)'", r"\1", f"{node.name}({arguments}){returns}")


def page() -> str:
    """The whole page."""
    parts = ["# Python", inspect.getdoc(tinywave) or ""]
    values = {name: getattr(tinywave, name) for name in tinywave.__all__}
    for title, belongs in GROUPS.items():
        parts.append(f"## {title}")
        parts += [text for name, value in values.items() if belongs(value) for text in _object(name, value)]
    return "\n\n".join(parts) + "\n"


def _object(name: str, value: Any) -> Iterator[str]:
    yield f"### {name}"
    if inspect.isfunction(value):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
        assert isinstance(node, ast.FunctionDef)
        yield _code(f"tinywave.{_signature(node)}")
        yield inspect.getdoc(value) or ""
        return
    yield _with_examples(inspect.getdoc(value) or "")
    if issubclass(value, Exception):
        return
    for member in members(value):
        yield f"#### {name}.{member.name} {{ .member }}"
        yield _code(member.signature)
        yield member.text


def _code(text: str) -> str:
    """A Python block; arguments stand below one another where they are many."""
    head, bracket, rest = text.partition("(")
    inside, _, tail = rest.rpartition(")")
    if bracket and len(text) > 90:
        text = f"{head}(\n    {_split(inside)},\n){tail}"
    return f"```python\n{text}\n```"


def _split(arguments: str) -> str:
    """One argument a line; commas inside brackets stay."""
    depth, parts = 0, [""]
    for letter in arguments:
        depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return ",\n    ".join(part.strip() for part in parts)


def _with_examples(text: str) -> str:
    """A class's docstring with its example, which stands behind the first line, as a block."""
    first, _, rest = text.partition("\n\n")
    example = rest.splitlines()
    is_code = bool(example) and all(
        "=" in line or line.startswith(("soundfile", "store", "pyarrow")) for line in example
    )
    return f"{first}\n\n```python\n{rest}\n```" if is_code else text

"""Text files are read and written as UTF-8: whoever leaves that to Python gets what the machine's locale says."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def without_encoding(source: str) -> Iterator[int]:
    """Lines that read or write text in the locale's encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        named = {keyword.arg for keyword in node.keywords}
        modes = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        opens = name in ("open", "fdopen") and bool(modes) and "b" not in modes[-1]
        reads = name in ("read_text", "write_text", "NamedTemporaryFile") and not modes
        pipes = name in ("run", "Popen", "check_output") and "text" in named
        if (opens or reads or pipes) and "encoding" not in named:
            yield node.lineno


def test_every_text_file_is_opened_with_an_encoding():
    files = [
        path
        for part in ("flows", "tasks", "tinywave", "tinywave_core", "infra/native")
        for path in (ROOT / part).rglob("*.py")
    ]
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files
        for line in without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert len(files) > 100
    assert not found

"""Folders with recordings that no reader opens: names are all that matters here."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

Place = Callable[[Iterable[str]], Path]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Make files by name, each a text of its own name, and give their folder."""

    def make(names: Iterable[str]) -> Path:
        for name in names:
            path = tmp_path / "suite" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        return tmp_path / "suite"

    return make

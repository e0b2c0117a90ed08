"""Small folders of every kind that is opened."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures.model_folders import KINDS, write_folders


@pytest.fixture(scope="session")
def all_folders(small_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of folder below one root; not to be changed."""
    return write_folders(tmp_path_factory.mktemp("folders"), small_release)


@pytest.fixture
def copy_of(all_folders: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the folder of a kind."""
    return lambda kind: Path(shutil.copytree(all_folders / KINDS[kind].place, tmp_path / kind))

"""The library inside the soundfile wheel is found and loaded, or its absence is explained."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from tinywave_core.audio.libsndfile import preload
from tinywave_core.errors import SurroundingError


def test_preload_loads_the_wheels_library_and_may_be_repeated():
    path = Path(preload())
    assert path.name.startswith("libsndfile")
    assert path.parent.name == "_soundfile_data"
    assert preload() == str(path)


def test_a_library_that_cannot_be_loaded_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "libsndfile.so").touch()
    data = ModuleSpec("_soundfile_data", None, is_package=True)
    data.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: data)
    with pytest.raises(SurroundingError, match="install the soundfile wheel"):
        preload()

"""The library inside the soundfile wheel is found and loaded, or its absence is explained."""

import importlib.util

import pytest

from tinywave_core.audio.libsndfile import preload


def test_preload_loads_the_wheels_library_and_may_be_repeated():
    path = preload()
    assert path.name.startswith("libsndfile")
    assert path.parent.name == "_soundfile_data"
    assert preload() == path


def test_a_soundfile_without_its_library_is_explained(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="install that"):
        preload()

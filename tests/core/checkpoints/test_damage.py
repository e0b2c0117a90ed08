"""However the files of a model are damaged, what comes out is the folder opened, or one of our errors."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.model_folders import KINDS
from tinywave_core.errors import TinyWaveError

ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    3,
    2**31,
    2**63,
    10**30,
    0.5,
    1e308,
    float("nan"),
    "",
    "x",
    "\ud800",
    [],
    [0],
    {},
    [[]],
    {"a": 1},
]


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flipped(data: st.DataObject, path: Path) -> None:
    """Some bytes, mostly of the head or the tail: that is where sizes stand."""
    content = bytearray(path.read_bytes())
    near = st.integers(0, min(len(content), 3000) - 1)
    for place in data.draw(
        st.lists(near | near.map(lambda n: -1 - n) | st.integers(0, len(content) - 1), min_size=1, max_size=4)
    ):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)


def cut(data: st.DataObject, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])


def replaced(data: st.DataObject, path: Path) -> None:
    """One value of a config is another."""
    read, write = {
        ".json": (json.loads, json.dumps),
        ".yaml": (yaml.safe_load, yaml.safe_dump),
    }.get(path.suffix, (None, None))
    if path.suffix in (".pt", ".bin"):
        found = torch.load(path, weights_only=True)
        _replace(data, found)
        torch.save(found, path)
    elif read is not None and write is not None:
        found = read(path.read_text(encoding="utf-8"))
        _replace(data, found)
        path.write_text(write(found), encoding="utf-8")
    else:
        flipped(data, path)


def _replace(data: st.DataObject, found: Any) -> None:
    places = [(found, key) for key in (found if isinstance(found, dict) else range(len(found)))]
    while True:
        within, key = data.draw(st.sampled_from(places))
        below = within[key]
        is_full = isinstance(below, dict | list) and below
        if not is_full or data.draw(st.booleans()):
            within[key] = data.draw(st.sampled_from(ODD))
            return
        places = [(below, each) for each in (below if isinstance(below, dict) else range(len(below)))]


def damaged_folder_ends_well(data: st.DataObject, root: Path, copied: Path, name: str) -> None:
    folder = root / KINDS[name].place
    chosen = data.draw(st.sampled_from([path.relative_to(folder) for path in files_of(folder)]))
    for path in files_of(folder):
        (copied / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        (copied / path.relative_to(folder)).write_bytes(path.read_bytes())
    damage: Callable[[st.DataObject, Path], None] = data.draw(st.sampled_from([flipped, cut, replaced, replaced]))
    damage(data, copied / chosen)
    with contextlib.suppress(TinyWaveError):
        assert KINDS[name].open(copied) is not None


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=5)
@given(data=st.data())
def test_a_damaged_folder_is_opened_or_refused(
    all_folders: Path, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    damaged_folder_ends_well(data, all_folders, tmp_path / name, name)


@pytest.mark.nightly
@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=1500)
@given(data=st.data())
def test_a_damaged_folder_is_opened_or_refused_many_times(
    all_folders: Path, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    damaged_folder_ends_well(data, all_folders, tmp_path / name, name)

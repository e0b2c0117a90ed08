"""What is kept beside a store to read its artifacts fast: made from them, and made again when it is gone or damaged.

A folder per artifact, under `.index` of a local store, else in this machine's folder for the store; it goes when the artifact
goes. Nothing that a result depends on has its only copy here. Arrays are .npz, whose parts carry checksums; a plain file's are in
the .npz of its name.
"""

import os
import uuid
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinywave_core.storage.blocks import checksums
from tinywave_core.storage.store import Artifact, Store

CHECKSUMS = "checksums"  # the array with those of the plain file of the same name
Arrays = Mapping[str, np.ndarray[Any, Any]]


def index_folder(artifact: Artifact) -> Path:
    """Where the artifact's indices lie; made if it is not there."""
    folder = artifact.store.index_folder(artifact.id)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def kept_arrays(artifact: Artifact, name: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays called `name` beside an artifact: as they were kept, or made now and kept.

    `name` holds whatever the arrays depend on besides the artifact, the version of what makes them included.
    """
    path = index_folder(artifact) / f"{name}.npz"
    found = read_arrays(path)
    if found is None:
        found = make()
        written_whole(artifact, path, lambda partial: write_arrays(partial, found))
    return found


def read_arrays(path: Path) -> Arrays | None:
    """The arrays of an .npz; None where it is gone or damaged."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    # What numpy and zipfile say of damaged files.
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, OSError, NotImplementedError):
        return None


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write an .npz."""
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def damaged_indices(store: Store) -> list[Path]:
    """What lies beside the store of this machine and cannot be read as it was written."""
    damaged = []
    for path in sorted(store.index_folder("any/any").parent.glob("*/*")):
        if path.suffix == ".npz":
            sound = read_arrays(path) is not None
        else:
            arrays = read_arrays(path.with_suffix(".npz"))
            sound = arrays is not None and np.array_equal(arrays[CHECKSUMS], checksums(path.read_bytes()))
        if not sound:
            damaged.append(path)
    return damaged


def written_whole(artifact: Artifact, path: Path, write: Callable[[Path], None]) -> None:
    """`replaced_whole` for what lies beside an artifact; StoreFullError on a full disk."""
    try:
        replaced_whole(path, write)
    except OSError as error:
        artifact.store.explain(error, f"the index {path.name} is made from {artifact.id}")
        raise


def replaced_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` write a file under another name, then give it its own: of two processes that make it at once both succeed."""
    partial = path.with_name(f".new-{uuid.uuid4().hex}-{path.name}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

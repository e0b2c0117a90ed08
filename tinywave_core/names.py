"""A name that stands in a file of somebody else -> a path that stays in its folder. Every such name goes through here.

Manifests, indices and archives name files. `../`, an absolute path, a drive, a backslash, a zero byte or a link could make
TinyWave read or write elsewhere: such a name is refused, with the place where it stands.
"""

import os
from pathlib import Path, PureWindowsPath

from tinywave_core.errors import SourceError, TinyWaveError

_LONGEST_PART, _LONGEST_NAME = 255, 4000  # bytes; beyond these the system's own calls fail


def inside(folder: Path, name: object, named_by: object, error: type[TinyWaveError] = SourceError) -> Path:
    """The path of `name` in or below the folder, whether it exists or not; `error` where it leads out. `named_by` is for messages."""
    if not isinstance(name, str) or (fault := fault_of_name(name)):
        found = f"{name!r:.100}" if not isinstance(name, str) else f"{name!r:.100}, which {fault}"
        raise error(f"{named_by} names {found}; expected the name of a file in {folder}, with / between its folders")
    return not_linked_out(folder, folder / name, error)


def fault_of_name(name: str) -> str:
    """Why a name is no plain relative path; empty where it is one."""
    windows = PureWindowsPath(name)
    parts = name.split("/")
    if name.startswith("/") or windows.drive or windows.root:
        return "is an absolute path"
    if "\\" in name or "\0" in name:
        return "has a backslash or a zero byte in it"
    if any(part in ("", ".", "..") for part in parts):
        return "has an empty part, . or .. in it"
    try:
        sizes = [len(os.fsencode(part)) for part in parts]
    except UnicodeEncodeError:
        return "has half a character in it"
    return "is too long for a file" if max(sizes) > _LONGEST_PART or sum(sizes) > _LONGEST_NAME else ""


def not_linked_out(folder: Path, path: Path, error: type[TinyWaveError] = SourceError) -> Path:
    """The path, which lies below the folder; `error` where links lead from it to somewhere outside."""
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    # The cache of Hugging Face keeps snapshots/<revision>/<name> as links into blobs/ beside it.
    revision = next((each for each in (root, *root.parents) if each.parent.name == "snapshots"), None)
    own = [root] if revision is None else [root, revision.parent.parent / "blobs"]
    if not any(real.is_relative_to(each) for each in own):
        raise error(f"{path} is a link to {real}, outside the folder: put a copy there (cp -rL)")
    return path

"""Parts of a release or a model on an object store -> a folder in the user's cache, each file fetched once and only whole."""

import contextlib
import fcntl
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from tinywave_core.checkpoints.digests import cache_folder
from tinywave_core.errors import CheckpointError
from tinywave_core.storage.filesystem import open_url

ABANDONED_S = 3600.0  # a fetch that goes on writes all the time


def fetch(
    url: str,
    folders: Mapping[str, tuple[str, ...]],
    what: str = "SpiritLM's release",
    wanted: Callable[[str], Any] = lambda _: True,
    of: str | None = None,
) -> Path:
    """Local root with every wanted file in `folders` of what lies at `url`; what is there with the same ETag is not fetched again.

    The tuple names the least that a folder must have; CheckpointError where one of them is not there. Files that are gone
    from the store go from here, too: a folder is never a mixture of two releases. `of` tells apart what is kept of one URL.
    """
    root = cache_folder() / "releases" / hashlib.sha256((of or url).encode()).hexdigest()[:16]
    try:
        filesystem, base = open_url(url)
        for folder, needed in folders.items():
            found = _files(filesystem, f"{base.rstrip('/')}/{folder}")
            files = {name: info for name, info in found.items() if wanted(name)}
            missing = [name for name in needed if name not in files]
            if missing:
                raise CheckpointError(
                    f"{url.rstrip('/')}/{folder} has no {missing[0]}: expected {', '.join(needed)} of {what} there"
                )
            for name, info in files.items():
                _fetch_file(filesystem, info, root / folder / name)
            _clean(root / folder, files.keys())
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{what} at {url} cannot be read: {error}") from error
    return root


def _files(filesystem: Any, folder: str) -> dict[str, Mapping[str, Any]]:
    """Files right in a folder by name; what lies deeper (logs, caches of download tools) is not part of a release."""
    below = f"{folder.strip('/')}/"
    files = {path.strip("/").removeprefix(below): info for path, info in filesystem.find(folder, detail=True).items()}
    return {name: info for name, info in files.items() if "/" not in name}


def _clean(folder: Path, names: Collection[str]) -> None:
    """Remove files that are gone from the store, and what a killed fetch has left."""
    for path in folder.iterdir():
        abandoned = path.suffix == ".part" and time.time() - path.stat().st_mtime > ABANDONED_S and not _is_held(path)
        if abandoned or (path.name not in names and not path.name.startswith(".")):
            path.unlink(missing_ok=True)


def _is_held(partial: Path) -> bool:
    """Whether a fetch on this machine is still writing it, however old it looks."""
    with contextlib.suppress(FileNotFoundError), partial.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a filesystem without locks
            return False
    return False


def _fetch_file(filesystem: Any, info: Mapping[str, Any], target: Path) -> None:
    identity = {key: str(info.get(key)) for key in ("size", "ETag", "LastModified", "mtime", "created")}
    note = target.with_name(f".{target.name}.json")
    whole = target.is_file() and target.stat().st_size == info["size"]
    if whole and note.is_file() and note.read_text(encoding="utf-8") == json.dumps(identity):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: two steps may fetch at once, also as threads of one process.
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with partial.open("wb") as file:
            with contextlib.suppress(OSError):  # a filesystem without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            filesystem.get_file(info["name"], str(partial))
        if partial.stat().st_size != info["size"]:
            raise CheckpointError(
                f"{info['name']} came with {partial.stat().st_size:,} of {info['size']:,} bytes: try again"
            )
        partial.replace(target)
        note.write_text(json.dumps(identity), encoding="utf-8")
    finally:
        partial.unlink(missing_ok=True)

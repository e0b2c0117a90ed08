"""Parts of a release on an object store -> a folder in the user's cache, each file fetched once and only whole."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec

from tinywave_core.checkpoints.digests import cache_folder
from tinywave_core.errors import CheckpointError
from tinywave_core.storage.store import S3_OPTIONS


def fetch(url: str, folders: Mapping[str, tuple[str, ...]]) -> Path:
    """Local root with every file in `folders` of the release at `url`; what is there with the same ETag is not fetched again.

    The tuple names the least that a folder must have; CheckpointError where the folder is not there at all.
    """
    options = S3_OPTIONS if url.startswith(("s3://", "s3a://")) else {}
    root = cache_folder() / "releases" / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        filesystem, base = fsspec.url_to_fs(url, **options)
        for folder, needed in folders.items():
            found = filesystem.find(f"{base.rstrip('/')}/{folder}", detail=True)
            if not found:
                raise CheckpointError(
                    f"{url.rstrip('/')}/{folder} has no files: expected {', '.join(needed)} of SpiritLM's release there"
                )
            for place, info in found.items():
                _fetch_file(filesystem, place, info, root / folder / Path(place).name)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"SpiritLM's release at {url} cannot be read: {error}") from error
    return root


def _fetch_file(filesystem: Any, place: str, info: Mapping[str, Any], target: Path) -> None:
    identity = {key: str(info.get(key)) for key in ("size", "ETag", "LastModified", "mtime", "created")}
    note = target.with_name(f".{target.name}.json")
    if target.is_file() and note.is_file() and json.loads(note.read_text()) == identity:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        filesystem.get_file(place, str(partial))
        if partial.stat().st_size != info["size"]:
            raise CheckpointError(f"{place} came with {partial.stat().st_size:,} of {info['size']:,} bytes: try again")
        partial.replace(target)
        note.write_text(json.dumps(identity))
    finally:
        partial.unlink(missing_ok=True)

"""Whether a folder is the model/ directory of an export, and has the files that its speech.json tells of."""

from collections.abc import Mapping
from pathlib import Path

from tinywave_core.errors import CheckpointError
from tinywave_core.names import inside
from tinywave_core.storage.store import sha256_of

SPEECH = "speech.json"


def require_export(folder: Path) -> Path:
    """Its speech.json; CheckpointError where there is none."""
    if not (folder / SPEECH).is_file():
        raise CheckpointError(
            f"{folder} has no speech.json: expected the model/ directory of an export (`tinywave inspect` lists them)"
        )
    return folder / SPEECH


def require_files(folder: Path, told: Mapping[str, str]) -> None:
    """CheckpointError unless the files have these SHA-256, by their names in the folder."""
    for name, digest in told.items():
        path = inside(folder, name, folder / SPEECH, CheckpointError)
        if not path.is_file() or sha256_of(path) != digest:
            raise CheckpointError(
                f"{path} is {'damaged' if path.is_file() else 'missing'}: {SPEECH} tells of another file. Take the export anew"
            )

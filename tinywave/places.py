"""Where a model lies: a folder, its `file://` URL, or an artifact of a store -> the folder on this machine."""

from pathlib import Path

from tinywave_core.errors import MissingInputError
from tinywave_core.storage.store import Artifact

Place = str | Path | Artifact


def model_folder(place: Place) -> Path:
    """The model/ directory; that of an artifact is checked against its digests, and fetched where the store is elsewhere."""
    if not isinstance(place, Artifact):
        return Path(place).expanduser()
    if place.part != "model":
        raise MissingInputError(
            f"{place.id} is {place.part or 'not in the store'}; expected an export: Store.newest('model')"
        )
    return place.path("model")

"""A path or URL that the user gave -> a local path: what lies on an object store is fetched into the user's cache, once and only whole."""

import re
from pathlib import Path

from tinywave_core.checkpoints.fetch import fetch
from tinywave_core.errors import CheckpointError

# Of a transformers directory; the same weights lie there as pickles and for other frameworks as well, often.
_OF_A_MODEL = re.compile(r"(config|preprocessor_config|model\.safetensors\.index)\.json|.*\.safetensors")


def model_folder(place: str) -> Path:
    """The directory of a transformers model; CheckpointError where the URL has no weights as safetensors."""
    if not _is_url(place):
        return Path(place)
    folder = fetch(place, {"": ("config.json",)}, "the model", _OF_A_MODEL.fullmatch)
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{place} has no weights: expected model.safetensors there, or shards of it (a pickle is not opened; save_pretrained writes "
            "safetensors)"
        )
    return folder


def given_file(place: str) -> Path:
    """One file, by a URL of its own."""
    if not _is_url(place):
        return Path(place)
    above, _, name = place.rpartition("/")
    return fetch(above, {"": (name,)}, "the file", lambda found: found == name, of=place) / name


def _is_url(place: str) -> bool:
    return re.match(r"^[a-z0-9]+://", place) is not None

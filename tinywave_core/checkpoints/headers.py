"""What a model directory says of itself, before anything is computed: config.json, and the headers of its safetensors.

In: the directory of a decoder. Out: nothing, or a CheckpointError in one line. No weight is read; `bounds.check_directory` looks closer
when the model is opened.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tinywave_core.checkpoints.architectures import ARCHITECTURES, require_architecture
from tinywave_core.checkpoints.bounds import fault_of_weights, model_weights, read_json
from tinywave_core.errors import CheckpointError

_COUNTS = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")


def check_headers(folder: Path) -> None:
    """Refuse a directory without a decoder's config or weights, with files that are cut short, or with rows that do not fit the config."""
    config = read_config(folder)
    require_architecture(config, folder)
    for path in model_weights(folder):
        if fault := fault_of_weights(path):
            raise CheckpointError(
                f"{path} ({path.stat().st_size:,} bytes) is cut short or not a file of weights ({fault}): copy it again"
            )
        _check_rows(path, config)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a decoder; CheckpointError where it has no sizes."""
    config = read_json(folder / "config.json")
    wrong = next((name for name in _COUNTS if type(config.get(name)) is not int or config[name] < 1), None)
    if wrong is not None:
        found = f"{wrong} {config[wrong]!r:.40}" if wrong in config else f"no {wrong}"
        raise CheckpointError(
            f"{folder / 'config.json'} has {found}: expected the config of a decoder in Hugging Face layout; copy it again"
        )
    return config


def _check_rows(path: Path, config: Mapping[str, Any]) -> None:
    """The embedding of a safetensors file has a row for each id of the config, as wide as the config says."""
    if path.suffix != ".safetensors":
        return
    name = f"{ARCHITECTURES[config['model_type']].embedding}.weight"
    expected = [config["vocab_size"], config["hidden_size"]]
    for tensor, shape in _shapes(path):
        if tensor.endswith(f".{name}") and shape != expected:
            raise CheckpointError(
                f"{path}: {tensor} is {shape}, config.json beside it says {expected} (vocab_size, hidden_size): they do not belong "
                "together, copy both again"
            )


def _shapes(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes in a header that `fault_of_weights` found nothing wrong with."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return ((name, entry["shape"]) for name, entry in header.items() if name != "__metadata__")

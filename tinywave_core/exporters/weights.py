"""Weights of a model directory, one tensor at a time: read, and written again in another type or with fewer rows.

A model of any size goes through in the memory of one shard of the output, since neither the whole input nor the whole output is
ever held.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tinywave_core.checkpoints.architectures import ARCHITECTURES
from tinywave_core.checkpoints.bounds import inside, weight_map
from tinywave_core.errors import CheckpointError

SHARD_BYTES = 1_000_000_000
EMBEDDING, HEAD = ARCHITECTURES["llama"].vocabulary_weights
_OF_TOKENS = {name for row in ARCHITECTURES.values() for name in row.vocabulary_weights}
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


class Tensors(Protocol):
    """Something that holds a model's tensors under transformers' names."""

    def names(self) -> list[str]:
        """All names, sorted."""

    def read(self, name: str) -> torch.Tensor:
        """One tensor as float32."""


class Weights:
    """The safetensors of a model directory."""

    def __init__(self, folder: Path) -> None:
        if (folder / _INDEX).is_file():
            self._file_of = weight_map(folder / _INDEX)
        elif (folder / _SINGLE).is_file():
            with safe_open(inside(folder, _SINGLE, folder), "pt") as file:
                self._file_of = dict.fromkeys(file.keys(), folder / _SINGLE)
        else:
            raise CheckpointError(f"{folder} has no safetensors: expected {_SINGLE}, or shards with {_INDEX}")

    def names(self) -> list[str]:
        """See `Tensors`."""
        return sorted(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, which is not read."""
        with safe_open(self._file_of[name], "pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        """See `Tensors`; the file is closed again, so that none of it stays mapped."""
        with safe_open(self._file_of[name], "pt") as file:
            return file.get_tensor(name).float()


def copy_weights(source: Path, folder: Path, dtype: torch.dtype, rows: list[int] | None = None) -> None:
    """The weights in `source` as `dtype` in `folder`, embedding and head with these rows only; in shards where they are large."""
    weights = Weights(source)
    shards = list(_shards(weights, torch.finfo(dtype).bits // 8))
    index: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = _SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: _cut(weights.read(name), name, rows).to(dtype) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    if len(shards) > 1:
        size = sum((folder / file).stat().st_size for file in set(index.values()))
        (folder / _INDEX).write_text(
            json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=1), encoding="utf-8"
        )


def _cut(tensor: torch.Tensor, name: str, rows: list[int] | None) -> torch.Tensor:
    return tensor if rows is None or name not in _OF_TOKENS else tensor[rows]


def _shards(weights: Weights, item_bytes: int) -> Iterable[list[str]]:
    names: list[str] = []
    size = 0
    for name in weights.names():
        bytes_ = torch.Size(weights.shape(name)).numel() * item_bytes
        if names and size + bytes_ > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += bytes_
    yield names

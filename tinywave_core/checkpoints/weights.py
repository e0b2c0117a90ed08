"""Weight files -> tensors, and tensors -> modules. Nothing is ever unpickled: `weights_only` everywhere, loading is strict.

A file that is missing, cut short, of another kind or for another architecture is named, with what was expected.
"""

import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tinywave_core.checkpoints.bounds import fault_of_weights
from tinywave_core.errors import CheckpointError


def load_entries(path: Path) -> dict[str, Any]:
    """The dictionary in a .pt, .bin or .safetensors file, on the CPU; CheckpointError names the file and what is wrong."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: expected a file of weights there")
    try:
        if fault := fault_of_weights(path):
            raise ValueError(fault)
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        entries = _load_torch(path)
    except Exception as error:  # on damaged files torch fails with nearly every kind there is
        if stranger := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} holds more than tensors and plain values ({stranger[1]}), and is not opened: such a file can run "
                "code. Expected the file of the release; download it again from its source"
            ) from error
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) cannot be read, it is cut short or not a file of weights "
            f"({_first_line(error)}): download it again"
        ) from error
    if not isinstance(entries, Mapping):
        raise CheckpointError(f"{path} holds a {type(entries).__name__}; expected a dictionary of weights")
    return dict(entries)


def _load_torch(path: Path) -> Any:
    """What torch.save wrote, with tensors of their own.

    Mapped, since torch believes a tensor that claims to be longer than its record, and would read on in the memory of this process.
    """
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    return _Own(2 * path.stat().st_size)(found)


class _Own:
    """Copies what was mapped, every part of it once: lists that hold one list twice, which does so too, have no end in practice.

    Tensors may share what they are made of, as tied weights do; views of one number as a matrix of terabytes may not.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._claimed = 0
        self._made: dict[int, Any] = {}

    def __call__(self, value: Any) -> Any:
        if id(value) not in self._made:
            self._made[id(value)] = self._copy(value)
        return self._made[id(value)]

    def _copy(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, Mapping):
            return {key: self(each) for key, each in value.items()}
        return type(value)(map(self, value)) if type(value) in (list, tuple) else value

    def _tensor(self, tensor: Tensor) -> Tensor:
        is_strided = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized
        if not is_strided or tensor.device.type != "cpu" or tensor.is_complex():
            raise ValueError("a tensor that is sparse, quantised, complex or without numbers")
        self._claimed += tensor.numel() * tensor.element_size()
        if self._claimed > self._room:
            raise ValueError(f"its tensors claim {self._claimed:,} bytes")
        return tensor.detach().clone()


def state_dict(entries: Mapping[str, Any], entry: str | None, path: Path) -> dict[str, Tensor]:
    """The state dict under `entry` of what `load_entries` gave; None where the file is nothing else."""
    weights = entries if entry is None else entries.get(entry)
    if not isinstance(weights, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()
    ):
        where = "at its top" if entry is None else f"under {entry!r}"
        raise CheckpointError(
            f"{path} has no weights {where} (found {', '.join(sorted(map(str, entries))[:6]) or 'nothing'}): "
            "it is not the file that belongs there"
        )
    return dict(weights)


def load_strictly(
    module: torch.nn.Module,
    weights: Mapping[str, Tensor],
    path: Path,
    rename: Callable[[str], str | None] = lambda key: key,
) -> None:
    """Copy weights into a module; every parameter must be given and fit, and every key must be used.

    `rename` maps a key of the file to the module's; None drops it (for parts that are known not to be used).
    """
    renamed = {new: value for key, value in weights.items() if (new := rename(key)) is not None}
    expected = module.state_dict()
    missing, unexpected = sorted(expected.keys() - renamed.keys()), sorted(renamed.keys() - expected.keys())
    shapes = [
        f"{key} is {list(renamed[key].shape)}, expected {list(expected[key].shape)}"
        for key in sorted(expected.keys() & renamed.keys())
        if renamed[key].shape != expected[key].shape
    ]
    faults = [
        *([f"{len(missing)} missing, such as {missing[0]}"] if missing else []),
        *([f"{len(unexpected)} that this architecture does not have, such as {unexpected[0]}"] if unexpected else []),
        *([f"{len(shapes)} of another shape: {shapes[0]}"] if shapes else []),
    ]
    if faults:
        raise CheckpointError(
            f"{path} is a checkpoint of another architecture: tensors {'; '.join(faults)}. Expected the release's own file"
        )
    # A module that was made without memory takes over the tensors of the file; whatever they were saved in, in its own dtype.
    own = {key: value.to(expected[key].dtype) for key, value in renamed.items()}
    module.load_state_dict(own, strict=True, assign=any(value.is_meta for value in expected.values()))
    module.requires_grad_(False)


def without_weight_norm(weights: Mapping[str, Tensor], path: Path, dimension: int = 0) -> dict[str, Tensor]:
    """Fold every pair `X_g`, `X_v` (weight norm) into `X`; `dimension` is the one the norm was kept for."""
    folded = {key: value for key, value in weights.items() if not key.endswith(("weight_g", "weight_v"))}
    for key, gain in weights.items():
        if key.endswith("weight_g"):
            name = key.removesuffix("_g")
            direction = weights.get(f"{name}_v")
            if direction is None:
                raise CheckpointError(f"{path} has {key} but no {name}_v: it is a checkpoint of another architecture")
            if not direction.is_floating_point() or not gain.is_floating_point() or direction.ndim <= dimension:
                raise CheckpointError(
                    f"{path} is a checkpoint of another architecture: {name}_v is {direction.dtype} {list(direction.shape)}"
                )
            expected = [size if axis == dimension else 1 for axis, size in enumerate(direction.shape)]
            if list(gain.shape) != expected:
                raise CheckpointError(
                    f"{path} is a checkpoint of another architecture: {key} is {list(gain.shape)}, expected {expected}"
                )
            folded[name] = torch._weight_norm(direction, gain, dimension)
    return folded


def _first_line(error: BaseException) -> str:
    message = str(error).rpartition("WeightsUnpickler error:")[2].strip()  # torch's own advice comes before it
    return (message.splitlines() or [type(error).__name__])[0][:160]

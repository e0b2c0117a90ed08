"""Where models run: the device that the runtime asks for, and what the kinds of devices lack."""

from typing import Any

import numpy.typing as npt
import torch

from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import MissingInputError


def pick_device(runtime: RuntimeConfig) -> torch.device:
    """The device that the runtime asks for; `auto` takes a GPU when there is one: NVIDIA's or AMD's (cuda), then Apple's (mps)."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if runtime.device == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    if not there[runtime.device]:
        raise MissingInputError(
            f"runtime.device is {runtime.device}, but torch sees no such GPU here: pass --runtime.device cpu or auto"
        )
    return torch.device(runtime.device)


def frozen_dtype(device: torch.device) -> torch.dtype:
    """Precision of a model that is only read: bfloat16 on a GPU of CUDA; elsewhere that is slower, or not all of it is there."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def mixed_precision(device: torch.device) -> torch.autocast:
    """Products in bfloat16 on a GPU of CUDA, of weights that stay in float32; elsewhere nothing changes."""
    return torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda")


def sent(values: torch.Tensor | npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """The values on a device, without waiting for what it computes at the moment."""
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(values)
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # of other memory it would wait for everything before


def with_float64(device: torch.device | str) -> torch.device:
    """The device itself, or the CPU for one without float64 (mps)."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


def double(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, on a device that has it."""
    return tensor.to(with_float64(tensor.device)).double()

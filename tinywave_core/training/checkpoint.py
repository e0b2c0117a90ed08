"""Training checkpoints that survive kill -9: safetensors and JSON in a new folder each, the newest valid one is used.

A checkpoint is whole when its folder has its final name (it is written under another one and renamed); its files' digests, and that
of `state.json`, which lists them, are checked all the same before it is used, and before an older one is dropped for it. Nothing is
overwritten, nothing is unpickled. Tensors are whole, however
many processes hold them: the first one writes, all read, and any number of processes can go on.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from tinywave_core.errors import StoreError
from tinywave_core.storage.records import RecordFault, seal, unseal
from tinywave_core.storage.store import describe_files, fsync_file, fsync_folder, sha256_of
from tinywave_core.training.processes import is_first, wait_for_all

_WEIGHTS, _MOMENTS, _BEST = "model.safetensors", "optimizer.safetensors", "best.safetensors"
_KEPT = 2  # the newest can be damaged; training goes on from the one before it


@dataclass(frozen=True)
class Best:
    """The weights that did best on validation speech."""

    step: int
    nll: float
    """On validation speech, in nats per token."""
    weights: dict[str, torch.Tensor]
    """By parameter, laid out as it is."""


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands after `step` steps."""

    step: int
    curves: list[dict[str, float]]
    """One record per step."""
    left_out: list[int]
    """Numbers of the batches whose loss or gradient was not finite."""
    best: Best | None = None
    """None before the first check, and where no speech validates."""


def save_checkpoint(
    folder: Path, state: TrainingState, parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Write `step-NNNNNN` below `folder` and drop the oldest ones."""
    weights = {name: _whole(p) for name, p in parameters.items()}
    moments = {f"{name}/{key}": _whole(m) for name, p in parameters.items() for key, m in optimizer.state[p].items()}
    files = {_WEIGHTS: weights, _MOMENTS: moments}
    if state.best:
        files[_BEST] = {name: _whole(weight) for name, weight in state.best.weights.items()}
    if is_first():
        _write(folder, state, files)
    wait_for_all()


def _write(folder: Path, state: TrainingState, files: dict[str, dict[str, torch.Tensor]]) -> None:
    final = folder / f"step-{state.step:08d}"
    # A name that no look for checkpoints finds.
    partial = folder / f".writing-{state.step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, tensors in files.items():
        save_file(tensors, partial / name)
    (partial / "curves.json").write_text(json.dumps(state.curves), encoding="utf-8")
    # Not sizes alone: one flipped bit in safetensors went unnoticed by them in all 30 trials.
    digests = {entry.name: entry.sha256 for entry in describe_files(partial)}
    best = {"step": state.best.step, "nll": state.best.nll} if state.best else None
    about = {"step": state.step, "left_out": state.left_out, "best": best, "sha256": digests}
    # Sealed, for it lists the digests of the other files and no file lists its own.
    (partial / "state.json").write_bytes(seal(about))
    for path in partial.iterdir():
        fsync_file(path)
    fsync_folder(partial)
    shutil.rmtree(final, ignore_errors=True)  # only an invalid one can be here
    os.rename(partial, final)
    fsync_folder(folder)  # the new name is on disk before an old one goes
    if _valid_state(final) is None:
        raise StoreError(
            f"the checkpoint {final} does not read back as it was written; older ones are kept: check the disk under it, then "
            "run again, and training goes on from the newest one that is whole"
        )
    for old in _checkpoints(folder)[_KEPT:]:
        shutil.rmtree(old)


def load_checkpoint(
    folder: Path, parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> TrainingState | None:
    """Restore the newest valid checkpoint into model and optimiser; None when there is none."""
    for path in _checkpoints(folder):
        about = _valid_state(path)
        if about is None:
            continue
        weights, moments = load_file(path / _WEIGHTS), load_file(path / _MOMENTS)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(_share(weights[name], parameter))
                optimizer.state[parameter] = _state_of(name, parameter, moments)
        best = _best_of(path, about["best"], parameters) if about.get("best") else None
        curves = json.loads((path / "curves.json").read_text(encoding="utf-8"))
        return TrainingState(about["step"], curves, about["left_out"], best)
    return None


def _best_of(path: Path, about: dict[str, Any], parameters: dict[str, torch.nn.Parameter]) -> Best:
    weights = load_file(path / _BEST)
    return Best(about["step"], about["nll"], {name: _share(weights[name], p) for name, p in parameters.items()})


def _state_of(name: str, parameter: torch.nn.Parameter, moments: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """AdamW's state of one parameter; empty, as AdamW wants it, before the first step."""
    if f"{name}/step" not in moments:
        return {}
    shares = {key: _share(moments[f"{name}/{key}"], parameter) for key in ("exp_avg", "exp_avg_sq")}
    return {"step": moments[f"{name}/step"], **shares}


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU, put together from all processes' shards; only the first process gets it."""
    # A collective: all processes call it, though one writes.
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().contiguous().cpu() if is_first() else torch.empty(0)


def _share(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor that is laid out as `like`."""
    if isinstance(like, DTensor):
        return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return whole.to(like.device)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _valid_state(path: Path) -> dict[str, Any] | None:
    try:
        state = unseal((path / "state.json").read_bytes())
        whole = all(sha256_of(path / name) == digest for name, digest in state["sha256"].items())
    except (OSError, RecordFault):
        return None
    return state if whole else None

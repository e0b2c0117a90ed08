"""Training checkpoints that survive kill -9: safetensors and JSON in a new folder each, the newest valid one is used.

A checkpoint is whole when its folder has its final name (it is written under another one and renamed); its files'
digests are checked all the same before it is used. Nothing is overwritten, nothing is unpickled.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tinywave_core.storage.store import describe_files, sha256_of

_KEPT = 2


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands after `step` steps, with the curves so far."""

    step: int
    curves: list[dict[str, float]]


def save_checkpoint(
    folder: Path, state: TrainingState, parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Write `step-NNNNNN` below `folder` and drop the oldest ones."""
    final = folder / f"step-{state.step:08d}"
    partial = folder / f".writing-{state.step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: p.detach().contiguous().cpu() for name, p in parameters.items()}, partial / "model.safetensors")
    save_file(_moments(parameters, optimizer), partial / "optimizer.safetensors")
    (partial / "curves.json").write_text(json.dumps(state.curves))
    digests = {entry.name: entry.sha256 for entry in describe_files(partial)}
    (partial / "state.json").write_text(json.dumps({"step": state.step, "sha256": digests}))
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(final, ignore_errors=True)  # only an invalid one can be here
    os.rename(partial, final)
    for old in _checkpoints(folder)[_KEPT:]:
        shutil.rmtree(old)


def load_checkpoint(
    folder: Path, parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> TrainingState | None:
    """Restore the newest valid checkpoint into model and optimiser; None when there is none."""
    for path in _checkpoints(folder):
        state = _valid_state(path)
        if state is None:
            continue
        weights = load_file(path / "model.safetensors")
        moments = load_file(path / "optimizer.safetensors")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
                optimizer.state[parameter] = {
                    key: moments[f"{name}/{key}"].to(parameter.device if key != "step" else "cpu")
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        return TrainingState(state["step"], json.loads((path / "curves.json").read_text()))
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _valid_state(path: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((path / "state.json").read_text())
        whole = all(sha256_of(path / name) == digest for name, digest in state["sha256"].items())
    except (OSError, ValueError, KeyError):
        return None
    return state if whole else None


def _moments(parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value.detach().contiguous().cpu()
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }

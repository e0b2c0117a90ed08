"""Training checkpoints that survive kill -9: safetensors and JSON in a new folder each, the newest valid one is used.

A checkpoint is whole when its folder has its final name (it is written under another one and renamed); its files' digests, and that
of `state.json`, which lists them, are checked all the same before it is used, and before an older one is dropped for it. Nothing is
overwritten, nothing is unpickled. Tensors are whole, however
many processes hold them: the first one writes, all read, and any number of processes can go on.
Training goes on while a checkpoint is written: the state is copied to the host's memory, 12 bytes per trained parameter there, and a
thread writes it. Of a store elsewhere it is uploaded too (uploader.py), and the newest valid one of both places is used.
"""

import json
import logging
import os
import shutil
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from tinywave_core.errors import StoreError
from tinywave_core.storage.records import RecordFault, seal, unseal
from tinywave_core.storage.store import describe_files, fsync_file, fsync_folder, sha256_of
from tinywave_core.storage.uploads import UploadedCheckpoints
from tinywave_core.training.on_policy import Drawn
from tinywave_core.training.processes import is_first, told_by_first, wait_for_all
from tinywave_core.training.uploader import Uploader

_WEIGHTS, _MOMENTS, _BEST = "model.safetensors", "optimizer.safetensors", "best.safetensors"
_DRAWN = "drawn.json"
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
    drawn: Drawn | None = None
    """The student's own continuations for the steps to come, where it learns from such."""


class CheckpointWriter:
    """Writes checkpoints below a folder, one at a time, while training goes on; used in a `with` block, it ends with the last one.

    What fails in the writing is raised by the next call, or at the end of the block.
    """

    def __init__(
        self,
        folder: Path,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        uploads: UploadedCheckpoints | None = None,
    ) -> None:
        self._folder, self._parameters, self._optimizer, self._uploads = folder, parameters, optimizer, uploads
        self._uploader = Uploader(uploads) if uploads and is_first() else None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            self._finish()
        except BaseException as failed:
            if error is None:
                raise
            # What stopped the training is the reason that is told; that older checkpoints count is told beside it.
            error.add_note(f"the checkpoint that was being written then failed too: {failed}")
        finally:
            self._end_uploads(is_done=error is None)

    @property
    def note(self) -> str:
        """How far uploads are, for people; empty where there are none."""
        return self._uploader.note if self._uploader else ""

    def save(self, state: TrainingState) -> None:
        """Copy the state, and begin to write `step-NNNNNN` from the copy and then to drop the oldest ones."""
        self._finish()
        files = _copied(state, self._parameters, self._optimizer)
        if is_first():
            # No daemon: a process that ends in order ends with its checkpoint whole.
            self._thread = threading.Thread(target=self._write, args=(state, files), name="checkpoint")
            self._thread.start()

    def load(self) -> TrainingState | None:
        """The newest valid checkpoint, once what is being written is on disk for every process."""
        self._finish()
        wait_for_all()
        return load_checkpoint(self._folder, self._parameters, self._optimizer, self._uploads)

    def _write(self, state: TrainingState, files: dict[str, dict[str, torch.Tensor]]) -> None:
        try:
            written = _write(self._folder, state, files)
            _drop_beside(written, self._uploader.current if self._uploader else None)
            # The start is not uploaded: the step's inputs are in the store.
            if self._uploader and state.step:
                self._uploader.offer(written)
        except BaseException as error:  # noqa: BLE001 - raised again by _finish, in the thread that can tell it
            self._error = error

    def _finish(self) -> None:
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            error, self._error = self._error, None
            raise error

    def _end_uploads(self, *, is_done: bool) -> None:
        """Of a training that is done nothing is needed any more; one that stops may go on from another machine."""
        if self._uploader and is_done:
            self._uploader.drop()
        elif self._uploader:
            self._uploader.finish()


def save_checkpoint(
    folder: Path, state: TrainingState, parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Write `step-NNNNNN` below `folder` and drop the oldest ones; it is there when this returns."""
    with CheckpointWriter(folder, parameters, optimizer) as writer:
        writer.save(state)
    wait_for_all()


def _copied(
    state: TrainingState, parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each file on the host, as they are now."""
    weights = {name: _whole(p) for name, p in parameters.items()}
    moments = {f"{name}/{key}": _whole(m) for name, p in parameters.items() for key, m in optimizer.state[p].items()}
    files = {_WEIGHTS: weights, _MOMENTS: moments}
    if state.best:
        files[_BEST] = {name: _whole(weight) for name, weight in state.best.weights.items()}
    return files


def _write(folder: Path, state: TrainingState, files: dict[str, dict[str, torch.Tensor]]) -> Path:
    """The checkpoint that was written, whole and on disk."""
    final = folder / f"step-{state.step:08d}"
    # A name that no look for checkpoints finds.
    partial = folder / f".writing-{state.step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, tensors in files.items():
        save_file(tensors, partial / name)
    (partial / "curves.json").write_text(json.dumps(state.curves), encoding="utf-8")
    if state.drawn:
        (partial / _DRAWN).write_text(json.dumps(asdict(state.drawn)), encoding="utf-8")
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
    return final


def _drop_beside(written: Path, uploaded: Path | None) -> None:
    """Drop all but the newest ones up to this one, and what is being uploaded: one beyond its step was of no use, or training would
    have gone on from it."""
    found = _checkpoints(written.parent)
    kept = [path for path in found if path.name <= written.name][:_KEPT]
    for other in found:
        if other not in (*kept, uploaded):
            shutil.rmtree(other)


def load_checkpoint(
    folder: Path,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    uploads: UploadedCheckpoints | None = None,
) -> TrainingState | None:
    """Restore the newest valid checkpoint, of this machine or uploaded, into model and optimiser; None when there is none.

    The first process reads, and the others get their shards from it: they may be on machines that do not have the folder.
    """
    read = _read(_newest(folder, uploads)) if is_first() else _Read()
    about = told_by_first(read.about)
    if about is None:
        return None
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(_share(read.weights.get(name), parameter))
            optimizer.state[parameter] = _state_of(
                name, parameter, read, about["steps"], _counts_on(optimizer, parameter)
            )
    best = None
    if about["best"]:
        weights = {name: _share(read.best.get(name), p) for name, p in parameters.items()}
        best = Best(about["best"]["step"], about["best"]["nll"], weights)
    drawn = Drawn(**about["drawn"]) if about["drawn"] else None
    return TrainingState(about["step"], about["curves"], about["left_out"], best, drawn)


@dataclass(frozen=True)
class _Read:
    """A checkpoint as the first process read it; nothing in the others."""

    about: dict[str, Any] | None = None
    """What all processes are told: the state without its tensors, the curves, and AdamW's count of steps by parameter."""
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    moments: dict[str, torch.Tensor] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)


def _newest(folder: Path, uploads: UploadedCheckpoints | None) -> tuple[Path, dict[str, Any]] | None:
    """The newest valid checkpoint and its state; an uploaded one is fetched if it goes beyond those of this machine."""
    valid = ((path, state) for path in _checkpoints(folder) if (state := _valid_state(path)))
    own = next(valid, None)
    for name in uploads.newer_than(own[1]["step"] if own else -1) if uploads else []:
        path = uploads.fetch(name, folder) if uploads else None
        if path and (state := _valid_state(path)):
            return path, state
        logging.getLogger(__name__).warning(
            "the uploaded checkpoint %s is passed over: it is not as it was written", name
        )
        if path:
            shutil.rmtree(path)
    return own


def _read(found: tuple[Path, dict[str, Any]] | None) -> _Read:
    if found is None:
        return _Read()
    path, state = found
    weights, moments = load_file(path / _WEIGHTS), load_file(path / _MOMENTS)
    about = {
        "step": state["step"],
        "left_out": state["left_out"],
        "best": state.get("best"),
        "curves": json.loads((path / "curves.json").read_text(encoding="utf-8")),
        "drawn": json.loads((path / _DRAWN).read_text(encoding="utf-8")) if _DRAWN in state["sha256"] else None,
        "steps": {n.removesuffix("/step"): float(m) for n, m in moments.items() if n.endswith("/step")},
    }
    return _Read(about, weights, moments, load_file(path / _BEST) if about["best"] else {})


def _counts_on(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> torch.device:
    """Where AdamW counts its steps: its fused kernel beside the parameters, otherwise the CPU."""
    return parameter.device if optimizer.param_groups[0].get("fused") else torch.device("cpu")


def _state_of(
    name: str, parameter: torch.nn.Parameter, read: _Read, steps: dict[str, float], counted_on: torch.device
) -> dict[str, torch.Tensor]:
    """AdamW's state of one parameter; empty, as AdamW wants it, before the first step."""
    if name not in steps:
        return {}
    shares = {key: _share(read.moments.get(f"{name}/{key}"), parameter) for key in ("exp_avg", "exp_avg_sq")}
    return {"step": torch.tensor(steps[name], device=counted_on), **shares}


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of the tensor on the CPU, put together from all processes' shards; only the first process gets it."""
    # A collective: all processes call it, though one writes.
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    if not is_first():
        return torch.empty(0)
    return whole.detach().to("cpu", copy=whole is tensor).contiguous()  # one that was put together is a copy already


def _share(whole: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor that is laid out as `like`, and that the first process has."""
    if isinstance(like, DTensor):
        whole = torch.empty(like.shape, dtype=like.dtype) if whole is None else whole
        return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=0)
    assert whole is not None
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

"""One training loop for teacher, student and control: it knows batches and steps, the objective knows the loss.

Exact resume: data order, sampled attention rows and learning rate are functions of the step, so weights, optimiser
moments, the step number and the batches that were left out are the whole state; on a CPU the curve after kill -9 is
bit-equal to an undisturbed one. Under `torchrun` every process calls `train` with the same arguments
(infra/decisions/0005-own-training-loop.md).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch.distributed.tensor import DTensor
from transformers import LlamaForCausalLM

from tinywave_core.config.base import RuntimeConfig, TrainingConfig
from tinywave_core.devices import mixed_precision, pick_device
from tinywave_core.errors import PausedError, TrainingError
from tinywave_core.progress import Progress, note_of_step
from tinywave_core.sequences.dataset import Batch, PackedDataset
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.storage.uploads import UploadedCheckpoints
from tinywave_core.threads import use_threads
from tinywave_core.training.checkpoint import Best, CheckpointWriter, TrainingState
from tinywave_core.training.gradients import GradientLog, Row
from tinywave_core.training.log import tensorboard_log
from tinywave_core.training.module import TrainedModule, gather, micro_batches, reshard, trained_module
from tinywave_core.training.on_policy import Drawn, OwnContinuations, draw
from tinywave_core.training.processes import Sums, any_process, is_first, own_rows, own_share, process_count
from tinywave_core.training.summary import TrainingSummary
from tinywave_core.training.validation import Validation

_MOST_LEFT_OUT = 3  # batches whose loss is not finite; more mean that it is not the batches


@dataclass(frozen=True)
class LossTerms:
    """What an objective makes of one micro-batch."""

    total: torch.Tensor
    """Sum over the micro-batch's targets; carries the gradient."""
    terms: dict[str, torch.Tensor]
    """Sums of the single terms over the micro-batch's targets, for the curves; without a gradient, on the model's device."""


Record = dict[str, float | None]
"""One step of a curve: its number, the loss and its terms, and the NLL on validation speech; None where it was not checked."""


@dataclass(frozen=True)
class Trained:
    """How a training run went."""

    curves: list[Record]
    """One record per step that was taken."""
    best: Best | None
    """The weights that were kept; None where no speech validated, and the last ones were."""
    steps: int
    """That were planned: more than were taken where validation no longer improved."""
    gradients: list[Row]
    """Of the terms of the loss, at the steps of which runtime.gradient_report_every asks for it."""

    @property
    def last(self) -> dict[str, float]:
        """The terms of the last step."""
        return {name: value for name, value in self.curves[-1].items() if value is not None}

    def summary(self, config: TrainingConfig, dataset: PackedDataset, validation: Validation | None) -> TrainingSummary:
        """For the artifact."""
        seconds = validation.dataset.sequences.seconds.tolist() if validation else []
        return TrainingSummary(
            planned_steps=self.steps,
            passes=round(len(self.curves) * dataset.batch_rows / len(dataset.rows_of_pass(0)), 2),
            dropout=config.dropout or 0.0,
            validation_sequences=len(seconds),
            validation_hours=sum(seconds) / 3600,
            validation_nll=self.best.nll if self.best else None,
            best_step=self.best.step if self.best else None,
            stopped_early=len(self.curves) < self.steps,
        )


class Objective(Protocol):
    """The loss of a micro-batch; `step` seeds whatever is sampled."""

    def __call__(self, model: LlamaForCausalLM, batch: Batch, step: int, /) -> LossTerms: ...


def train(
    model: LlamaForCausalLM,
    dataset: PackedDataset,
    objective: Objective,
    config: TrainingConfig,
    runtime: RuntimeConfig,
    resume: Path,
    progress: Progress,
    *,
    validation: Validation | None = None,
    on_step: Callable[[int], None] | None = None,
    uploads: UploadedCheckpoints | None = None,
    own: OwnContinuations | None = None,
) -> Trained:
    """Train `model` in place from the newest checkpoint in `resume`, or in `uploads`; with `validation` it ends with the best of its weights,
    with `own` some rows hold what it says itself.

    A batch whose loss or gradient is not finite is left out and training goes on from the last checkpoint; TrainingError when
    that happens too often. PausedError, with a checkpoint, when `runtime.stop_after_hours` are over.
    """
    use_threads(runtime)
    device = pick_device(runtime)
    module = trained_module(model, objective, runtime, device, dropout=config.dropout or 0.0, seed=config.seed)
    parameters, steps = module.trainable(), config.planned_steps
    optimizer = _optimizer(parameters, config, device)
    gradients = GradientLog(module, runtime, device, resume)
    check = partial(_checked, module, validation, steps, parameters, runtime, device)
    log_folder = Path(runtime.tensorboard_dir, resume.parent.name) if runtime.tensorboard_dir and is_first() else None
    with CheckpointWriter(resume, parameters, optimizer, uploads) as checkpoints:
        state = _begun(checkpoints, check)
        kept = state.step
        started = time.monotonic()
        reading = dataset.reading_ahead(own_share(config.rows))
        with tensorboard_log(log_folder, state.step) as log, reading as batches:
            while not _is_done(state, steps, validation):
                began = time.monotonic()
                step, number = state.step, batch_number(state.step, state.left_out)
                rate = _with_rate(optimizer, learning_rate(step, config))
                batch = batches.batch(number)
                batch, drawn = _with_own(own, state, batch, number, module, runtime, device)
                gradients.look(step, batch)
                terms = _gradient(module, batch, parameters, config, runtime, step, device)
                # Each can break alone: a finite loss with an infinite gradient, or the other way round.
                if not (math.isfinite(terms["loss"]) and math.isfinite(terms["gradient_norm"])):
                    state = _without(number, state, terms, checkpoints, optimizer)
                    continue
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                record = {"step": step + 1, "learning_rate": rate, **terms, "batches_left_out": number - step}
                state = check(replace(state, step=step + 1, curves=[*state.curves, record], drawn=drawn))
                goes_on, over = not _is_done(state, steps, validation), _is_over(started, runtime)
                if goes_on and (over or state.step % runtime.checkpoint_every == 0):
                    checkpoints.save(state)
                speed = batch.step_targets / (time.monotonic() - began)
                log(state.step, {**state.curves[-1], "tokens_per_second": speed})
                try:
                    note = _told(state, speed) + checkpoints.note
                    progress(state.step, steps, note_of_step(state.step, kept, note))
                except KeyboardInterrupt:  # told to stop, all processes at once: what was learned until now is kept
                    if goes_on:
                        checkpoints.save(state)
                    raise
                if on_step:
                    on_step(state.step)
                if goes_on and over:
                    raise PausedError(
                        f"training stopped after step {state.step} of {steps}, for runtime.stop_after_hours is "
                        f"{runtime.stop_after_hours:g}; nothing is lost: run the same command again and it goes on from there"
                    )
    _keep_best(state, parameters)
    gather(module, model)
    model.eval()
    return Trained(_curves(state, validation), state.best, steps, gradients.rows())


def _begun(checkpoints: CheckpointWriter, check: Callable[[TrainingState], TrainingState]) -> TrainingState:
    """The newest checkpoint. The start is one too, for a first batch that breaks the loss."""
    state = checkpoints.load()
    if state is None:
        # It may be the best one: a model that was trained before can get worse on a few minutes of speech.
        state = check(TrainingState(0, [], []))
        checkpoints.save(state)
    return state


def _with_rate(optimizer: torch.optim.Optimizer, rate: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def _is_done(state: TrainingState, steps: int, validation: Validation | None) -> bool:
    return state.step >= steps or (validation is not None and validation.is_over(state.step, steps, state.best))


def _with_own(
    own: OwnContinuations | None,
    state: TrainingState,
    batch: Batch,
    number: int,
    module: TrainedModule,
    runtime: RuntimeConfig,
    device: torch.device,
) -> tuple[Batch, Drawn | None]:
    """The batch with the student's own continuations, those that are at hand or new ones; as it is where it learns from none."""
    if own is None:
        return batch, None
    drawn = state.drawn
    if drawn is None or not drawn.covers(number):
        with mixed_precision(device):
            drawn = draw(own, module, number, runtime.micro_batch_rows, device)
        reshard(module)
    return own.added(batch, number, drawn), drawn


@torch.no_grad()
def _keep_best(state: TrainingState, parameters: dict[str, torch.nn.Parameter]) -> None:
    """Put the weights back that did best on validation speech."""
    if state.best:
        for name, parameter in parameters.items():
            parameter.copy_(state.best.weights[name])


def _checked(
    module: TrainedModule,
    validation: Validation | None,
    steps: int,
    parameters: dict[str, torch.nn.Parameter],
    runtime: RuntimeConfig,
    device: torch.device,
    state: TrainingState,
) -> TrainingState:
    """The state with its NLL on validation speech, and with its weights kept if that is the best so far; as it is between checks."""
    if validation is None or not validation.is_due(state.step, steps):
        return state
    nll, others = _validated(module, validation, runtime, device)
    found = {"validation": nll} | {f"validation_{name}": value for name, value in others.items()}
    curves = [*state.curves[:-1], *({**record, **found} for record in state.curves[-1:])]
    best = state.best
    # One that is no number is no better: then the weights of an earlier check stay.
    if math.isfinite(nll) and (best is None or nll < best.nll):
        best = Best(state.step, nll, {name: p.detach().clone() for name, p in parameters.items()})
    return replace(state, curves=curves, best=best)


@torch.no_grad()
def _validated(
    module: TrainedModule, validation: Validation, runtime: RuntimeConfig, device: torch.device
) -> tuple[float, dict[str, float]]:
    """Nats per token over all validation speech, or what the objective checks in their place; and other means that it gives."""
    module.eval()
    sums, targets = Sums(), 0
    count = process_count()
    for batch in validation.batches(runtime.micro_batch_rows * count, count):
        micro = own_rows(batch)
        with mixed_precision(device):
            total, terms = module(micro, 0)
        sums.add(nll=total, **terms)
        targets += batch.targets
    module.train()
    reshard(module)
    means = {name: value / targets for name, value in sums.whole()[0].items()}
    return means.pop("nll"), means


def _told(state: TrainingState, speed: float) -> str:
    validated = f", best on validation {state.best.nll:.3f}" if state.best else ""
    return f"loss {state.curves[-1]['loss']:.3f}{validated}, {speed:,.0f} tokens/s"


def batch_number(step: int, left_out: Sequence[int]) -> int:
    """The batch of a step: the next one in order that was not left out."""
    number = step
    for left in sorted(left_out):
        number += left <= number
    return number


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Rate of step `step`, from 0: linear warm-up, then a cosine to the final ratio at the last step."""
    if step < config.warmup_steps:
        # step + 1, or the first step would have the rate 0 and learn nothing.
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(config.steps - 1 - config.warmup_steps, 1)
    low = config.final_learning_rate_ratio
    return config.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def _optimizer(
    parameters: dict[str, torch.nn.Parameter], config: TrainingConfig, device: torch.device
) -> torch.optim.AdamW:
    # Vectors are the scales of norms: decay would draw them to 0, and with them what they scale.
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay or 0.0},
        {"params": vectors, "weight_decay": 0.0},
    ]
    used = [group for group in groups if group["params"]]
    # One kernel for all parameters, on a GPU; a CPU keeps the loop, whose results are those of before to the bit.
    fused = True if device.type == "cuda" else None
    return torch.optim.AdamW(used, lr=config.learning_rate, betas=(0.9, 0.95), fused=fused)


def _gradient(
    module: TrainedModule,
    batch: Batch,
    parameters: dict[str, torch.nn.Parameter],
    config: TrainingConfig,
    runtime: RuntimeConfig,
    step: int,
    device: torch.device,
) -> dict[str, float]:
    """Leave the clipped gradient of the whole batch in the parameters; means per target and the norm before clipping."""
    sums = Sums()
    for micro in micro_batches(module, batch, runtime):
        with mixed_precision(device):
            total, terms = module(micro, step)
        # By the targets of the whole batch: gradients of micro-batches and processes add up to that of one large batch.
        (total / batch.step_targets).backward()
        sums.add(loss=total, **terms)
    norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), config.clip_norm)
    whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
    # The one wait of a step: its numbers are known before the optimiser uses the gradient.
    numbers, (whole_norm,) = sums.whole(whole)
    return {name: value / batch.step_targets for name, value in numbers.items()} | {"gradient_norm": whole_norm}


def _without(
    number: int,
    state: TrainingState,
    terms: dict[str, float],
    checkpoints: CheckpointWriter,
    optimizer: torch.optim.Optimizer,
) -> TrainingState:
    """Back to the last good checkpoint, to go on without batch `number`; TrainingError if that did not help before."""
    if len(state.left_out) == _MOST_LEFT_OUT:
        raise TrainingError(
            f"at step {state.step + 1} the loss is {terms['loss']:.3g} and the gradient's norm {terms['gradient_norm']:.3g}, "
            f"after {_MOST_LEFT_OUT} other batches were left out for the same: training stops before bad weights are kept. "
            "Lower training.learning_rate or training.clip_norm and run again"
        )
    optimizer.zero_grad(set_to_none=True)
    # The moments may have seen what led here, so that the whole state goes back, not the weights alone.
    good = checkpoints.load()
    assert good is not None, "the start is a checkpoint"
    return replace(good, left_out=[*state.left_out, number])


def _is_over(started: float, runtime: RuntimeConfig) -> bool:
    """Whether the time is up for any process."""
    if runtime.stop_after_hours is None:
        return False
    # All processes agree, or one would write a checkpoint that waits for the others.
    return any_process(time.monotonic() - started >= runtime.stop_after_hours * 3600)


def _curves(state: TrainingState, validation: Validation | None) -> list[Record]:
    """The records; without the count of batches left out if there are none, and without checks where nothing validates."""
    # Of all steps: those without the live teacher lack its terms.
    names = dict.fromkeys(name for record in state.curves for name in record)
    names = {name: None for name in names if state.left_out or name != "batches_left_out"}
    if validation:
        names |= {"validation": None}
    return [{name: record.get(name) for name in names} for record in state.curves]


def make_dataset(
    sequences: Sequence[TokenSequence], config: TrainingConfig, *, separate: bool = True, keep: Path | None = None
) -> PackedDataset:
    """The packed dataset of a training run; TrainingError when there is nothing to train on."""
    if not sequences:
        raise TrainingError(
            "there is no training sequence: every recording was held out or rejected. Add recordings, lower "
            "ingestion.held_out_fraction, or pass --ingestion.split_by recording"
        )
    return PackedDataset(sequences, config.sequence_length, config.rows, config.seed, separate=separate, keep=keep)

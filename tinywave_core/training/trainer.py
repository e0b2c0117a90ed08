"""One training loop for teacher, student and control: it knows batches and steps, the objective knows the loss.

Exact resume: data order, sampled attention rows and learning rate are functions of the step, so weights, optimiser
moments and the step number are the whole state; on a CPU the curve after kill -9 is bit-equal to an undisturbed one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from transformers import LlamaForCausalLM

from tinywave_core.config.base import RuntimeConfig, TrainingConfig
from tinywave_core.errors import TrainingError
from tinywave_core.models.llama import on_device, pick_device
from tinywave_core.sequences.dataset import Batch, PackedDataset, TokenSequence
from tinywave_core.stages.base import Progress
from tinywave_core.threads import use_threads
from tinywave_core.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint


@dataclass(frozen=True)
class LossTerms:
    """What an objective makes of one micro-batch."""

    total: torch.Tensor
    """Sum over the micro-batch's targets; carries the gradient."""
    terms: dict[str, float]
    """Sums of the single terms over the micro-batch's targets, for the curves."""


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
    on_step: Callable[[int], None] | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place from the newest checkpoint in `resume` and return its curve, one record per step.

    Raises TrainingError when the loss is not finite: the last good checkpoint stays.
    """
    use_threads(runtime)
    device = pick_device(runtime)
    on_device(model, device).train()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = _optimizer(parameters, config)
    state = load_checkpoint(resume, parameters, optimizer)
    first, curves = (state.step, state.curves) if state else (0, [])
    for step in range(first, config.steps):
        rate = learning_rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        terms = _one_step(model, dataset.batch(step), objective, optimizer, parameters, config, runtime, step)
        curves.append({"step": step + 1, "learning_rate": rate, **terms})
        if (step + 1) % runtime.checkpoint_every == 0 and step + 1 < config.steps:
            save_checkpoint(resume, TrainingState(step + 1, curves), parameters, optimizer)
        progress(step + 1, config.steps, f"loss {terms['loss']:.3f}")
        if on_step:
            on_step(step + 1)
    model.eval()
    return curves


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Rate of step `step`, from 0: linear warm-up, then a cosine to the final ratio at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(config.steps - 1 - config.warmup_steps, 1)
    low = config.final_learning_rate_ratio
    return config.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def _optimizer(parameters: dict[str, torch.nn.Parameter], config: TrainingConfig) -> torch.optim.AdamW:
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=(0.9, 0.95))


def _one_step(
    model: LlamaForCausalLM,
    batch: Batch,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, torch.nn.Parameter],
    config: TrainingConfig,
    runtime: RuntimeConfig,
    step: int,
) -> dict[str, float]:
    sums: dict[str, float] = {}
    for micro in batch.split(runtime.micro_batch_rows):
        with torch.autocast("cuda", torch.bfloat16, enabled=next(model.parameters()).is_cuda):
            loss = objective(model, micro, step)
        (loss.total / batch.targets).backward()
        for name, value in {"loss": float(loss.total.detach()), **loss.terms}.items():
            sums[name] = sums.get(name, 0.0) + value
    norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), config.clip_norm)
    if not math.isfinite(sums["loss"]) or not torch.isfinite(norm):
        raise TrainingError(
            f"at step {step + 1} the loss is {sums['loss'] / batch.targets:.3g} and the gradient's norm {float(norm):.3g}: "
            "training stops before bad weights are kept. Lower training.learning_rate or training.clip_norm and run again"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {name: value / batch.targets for name, value in sums.items()} | {"gradient_norm": float(norm)}


def make_dataset(sequences: Sequence[TokenSequence], config: TrainingConfig, *, separate: bool = True) -> PackedDataset:
    """The packed dataset of a training run; TrainingError when there is nothing to train on."""
    if not sequences:
        raise TrainingError(
            "there is no training sequence: every recording was held out or rejected. Add recordings, lower "
            "ingestion.held_out_fraction, or pass --ingestion.split_by recording"
        )
    rows = max(1, config.batch_tokens // config.sequence_length)
    return PackedDataset(sequences, config.sequence_length, rows, config.seed, separate=separate)

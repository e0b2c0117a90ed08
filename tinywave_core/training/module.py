"""Model and objective as the one module that a training step calls: sharded, compiled and checkpointed as the runtime says.

Under `torchrun` it is FSDP2's root: whatever the objective reads of the model, inside its blocks or beside them, is whole
while the objective runs, and its gradient is summed over all processes. (A model that is called past its wrapper trains
replicas that drift apart.) The blocks are wrapped in a copy that shares the weights; the caller's model stays plain.
"""

import contextlib
import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM

from tinywave_core.config.base import RuntimeConfig
from tinywave_core.losses.attention import read_outside_of_compiled_blocks, recompute_context
from tinywave_core.models.attention import BLOCK_SPARSE, is_block_sparse
from tinywave_core.models.llama import on_device
from tinywave_core.models.parts import blocks_of
from tinywave_core.sequences.dataset import Batch
from tinywave_core.training.dropout import Draw, add_dropout
from tinywave_core.training.on_policy import Speaking, spoken
from tinywave_core.training.processes import process_count
from tinywave_core.training.sharding import mesh_of
from tinywave_core.training.validation import cross_entropy


@runtime_checkable
class Checks(Protocol):
    """An objective that validates by a figure of its own, in place of the cross-entropy."""

    def checked(self, model: LlamaForCausalLM, batch: Batch) -> Any:
        """Sums over the targets of a batch (trainer.LossTerms)."""
        ...


class TrainedModule(torch.nn.Module):
    """Calls the objective on its model; `model` is a copy of the caller's that shares its weights or holds a shard of them."""

    def __init__(self, model: LlamaForCausalLM, objective: Any, draw: Draw | None) -> None:
        super().__init__()
        self.model, self.objective, self.draw = model, objective, draw

    def forward(self, batch: Batch | Speaking, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The summed loss, bare so that FSDP2 finds its gradient, and the terms for the curves; in evaluation mode the summed
        cross-entropy alone, or what the objective has in its place. To one that asks the student to speak, what it says."""
        if isinstance(batch, Speaking):
            return spoken(self.model, batch), {}
        if not self.training and isinstance(self.objective, Checks):
            checked = self.objective.checked(self.model, batch)
            return checked.total, checked.terms
        if not self.training:
            return cross_entropy(self.model, batch), {}
        if self.draw:
            self.draw.step, self.draw.first_row = step, batch.first_row
        loss = self.objective(self.model, batch, step)
        return loss.total, loss.terms

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Parameters that are trained, by their names in the caller's model."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}


def trained_module(
    model: LlamaForCausalLM,
    objective: Any,
    runtime: RuntimeConfig,
    device: torch.device,
    *,
    dropout: float = 0.0,
    seed: int = 0,
) -> TrainedModule:
    """The module to train; with several processes each holds its shard, on `device`, and `model` stays where it is."""
    sharded = process_count() > 1
    if not sharded:
        on_device(model, device)
    # In a copy, for FSDP2 cannot be taken off a module again. The weights are not copied: a shard takes its own memory.
    weights = {id(p): _alias(p) if sharded else p for p in model.parameters()}
    copied = copy.deepcopy(model, weights)
    module = TrainedModule(copied, objective, add_dropout(copied, dropout, seed) if dropout else None)
    if is_block_sparse(runtime, copied, device):
        copied.set_attn_implementation(BLOCK_SPARSE)
    if runtime.compile:
        read_outside_of_compiled_blocks()
    blocks = blocks_of(module.model)
    for number, block in enumerate(blocks):
        if runtime.compile:
            block.forward = torch.compile(block.forward)
        if is_recomputed(number, len(blocks), runtime.activation_checkpointing):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=_contexts)
    if sharded:
        _shard(module, mesh_of(device, within_machine=runtime.shard_over == "machine"))
    return module.train()


def is_recomputed(block: int, blocks: int, share: float) -> bool:
    """Whether a block belongs to the evenly spaced `share` of all blocks that run again in the backward pass."""
    wanted = round(share * blocks)
    return (block + 1) * wanted // blocks > block * wanted // blocks


def micro_batches(module: TrainedModule, batch: Batch, runtime: RuntimeConfig) -> Iterator[Batch]:
    """A batch of this process's rows in micro-batches, with the module set for each: the backward pass belongs before the next one."""
    parts = batch.split(runtime.micro_batch_rows)
    for number, micro in enumerate(parts, start=1):
        if runtime.accumulate_whole and isinstance(module, FSDPModule):
            last = number == len(parts)
            module.set_requires_gradient_sync(last)
            module.set_reshard_after_backward(last)
            module.set_reshard_after_forward(False)
        yield micro


def reshard(module: TrainedModule) -> None:
    """Each process holds its shard again: a pass without a backward pass leaves the root's weights whole."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def gather(module: TrainedModule, model: LlamaForCausalLM) -> None:
    """Put the trained weights back into the caller's model, in every process."""
    trained = module.trainable()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if isinstance(shard := trained.get(name), DTensor):
                parameter.copy_(shard.full_tensor())


def _alias(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    return torch.nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)


def _contexts() -> tuple[Any, Any]:
    """Contexts of a block's first run and of its second one."""
    return contextlib.nullcontext(), recompute_context()


def _shard(module: TrainedModule, mesh: DeviceMesh) -> None:
    for part in (*blocks_of(module.model), module):
        fully_shard(part, mesh=mesh)
    for part in module.modules():
        if isinstance(part, FSDPModule):  # a sum, not a mean: the loss is already divided by the whole batch's targets
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)

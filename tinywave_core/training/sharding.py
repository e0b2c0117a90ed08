"""Who holds which shard: over all processes of a training, or within each machine, with a whole copy on every machine (hybrid).

Within a machine GPUs are joined by fast links, between machines by a network: hybrid sharding gathers weights over the links and sends
nothing but gradients over the network. A frozen teacher has no gradients, so nothing of it goes between machines at all.
"""

import os

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaForCausalLM

from tinywave_core.devices import frozen_dtype
from tinywave_core.models.parts import blocks_of, decoder_of, head_of
from tinywave_core.training.processes import process_count


def mesh_of(device: torch.device, *, within_machine: bool) -> DeviceMesh:
    """All processes in a row; within machines, a row of machines by the processes of each, as torchrun numbers them."""
    processes = process_count()
    of_each = int(os.environ["LOCAL_WORLD_SIZE"]) if within_machine else processes
    if of_each == processes:
        return init_device_mesh(device.type, (processes,))
    return init_device_mesh(device.type, (processes // of_each, of_each), mesh_dim_names=("machines", "processes"))


def shard_frozen(model: LlamaForCausalLM, device: torch.device) -> None:
    """Leave this process its machine's share of a frozen model's blocks on `device`; they are gathered one by one in a forward pass.

    Embeddings, the final norm and the head stay whole: losses read the head past the model's forward pass. Nothing changes in one process.
    """
    if process_count() == 1:
        return
    model.eval().requires_grad_(False).to(dtype=frozen_dtype(device))  # type: ignore[call-arg]
    blocks, mesh = blocks_of(model), mesh_of(device, within_machine=True)
    for whole in (*(each for each in decoder_of(model).children() if each is not blocks), head_of(model)):
        whole.to(device)
    # The decoder itself stays as it is: transformers finds what it hands out (hidden states) by its class, which FSDP2 changes. So each
    # block is a root, whose weights FSDP2 would keep whole after its forward pass.
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)

"""A teacher made narrower, as a student starts: the channels, heads and neurons that matter most on training speech stay.

Importance is what activations say on a few sequences (Minitron, arXiv 2407.14679, section 2.2): a channel's mean size behind all norms,
a head's mean length of its output, a neuron's mean size. Channels are the same in all blocks, since blocks add to one another; heads and
neurons are chosen in each. Heads that share keys stay or go together. All of it is computed on the CPU, so that it is the same everywhere.
Legend: L tokens, D width, H heads, E head width, G groups of heads that share keys, I neurons.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaForCausalLM

from tinywave_core.checkpoints.model_shape import ModelShape
from tinywave_core.models.parts import blocks_of, decoder_of
from tinywave_core.models.trim import with_weights

ALIGNMENT = "alignment"
"""Under which name a student has its projections while it is trained."""


@dataclass(frozen=True)
class Kept:
    """What stays of a teacher, by number, ascending."""

    channels: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...]
    """Of each block of the teacher."""
    neurons: tuple[tuple[int, ...], ...]
    """Likewise."""


@torch.no_grad()
def most_important(model: LlamaForCausalLM, sequences: Sequence[npt.NDArray[Any]], shape: ModelShape) -> Kept:
    """What stays of `model` for a student of `shape`, by what it does on these sequences [L]."""
    own = ModelShape.of_config(model.config.to_dict())
    sums: dict[str, torch.Tensor] = {}
    with _watched(model, own, sums):
        for ids in sequences:
            decoder_of(model)(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
    blocks = range(own.layers)
    return Kept(
        _largest(sums["channels"], shape.width),
        tuple(_heads(sums[f"heads {block}"], own, shape) for block in blocks),
        tuple(_largest(sums[f"neurons {block}"], shape.intermediate) for block in blocks),
    )


@contextmanager
def _watched(model: LlamaForCausalLM, own: ModelShape, sums: dict[str, torch.Tensor]) -> Iterator[None]:
    """Add up, over all tokens, what goes through the model in this block."""

    def add(name: str, values_LX: torch.Tensor) -> None:
        sums[name] = sums.get(name, torch.zeros(values_LX.shape[1], dtype=torch.float64)) + values_LX.double().sum(0)

    def channels(_: torch.nn.Module, __: Any, output_BLD: torch.Tensor) -> None:
        add("channels", output_BLD[0].abs())

    def watch(block: int) -> None:
        def heads(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
            add(f"heads {block}", inputs[0][0].unflatten(-1, (own.heads, own.head_width)).norm(dim=-1))

        def neurons(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
            add(f"neurons {block}", inputs[0][0].abs())

        module = blocks_of(model)[block]
        handles.append(module.self_attn.o_proj.register_forward_pre_hook(heads))  # type: ignore[union-attr, operator]
        handles.append(module.mlp.down_proj.register_forward_pre_hook(neurons))  # type: ignore[union-attr, operator]
        for norm in (module.input_layernorm, module.post_attention_layernorm):
            handles.append(norm.register_forward_hook(channels))  # type: ignore[operator, union-attr]

    handles: list[Any] = []
    for block in range(own.layers):
        watch(block)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _largest(values: torch.Tensor, count: int) -> tuple[int, ...]:
    """Numbers of the `count` largest, ascending; of equal ones the first."""
    return tuple(sorted(torch.argsort(values, descending=True, stable=True)[:count].tolist()))


def _heads(values_H: torch.Tensor, own: ModelShape, shape: ModelShape) -> tuple[int, ...]:
    """Whole groups where several stay; of a single one the heads."""
    if own.key_heads == shape.key_heads == 1:
        return _largest(values_H, shape.heads)
    size = own.heads // own.key_heads
    groups = _largest(values_H.unflatten(0, (own.key_heads, size)).sum(1), shape.key_heads)
    return tuple(group * size + head for group in groups for head in range(size))


def narrowed(model: LlamaForCausalLM, blocks: Sequence[int], kept: Kept, shape: ModelShape) -> LlamaForCausalLM:
    """A model, made of the teacher's `blocks`, with what is kept of it; the given one is left as it is."""
    own = ModelShape.of_config(model.config.to_dict())
    channels = torch.tensor(kept.channels)
    weights = {}
    for name, weight in model.state_dict().items():
        if ".layers." not in name:
            weights[name] = weight.index_select(-1, channels)
            continue
        _, _, rest = name.partition(".layers.")
        number, _, part = rest.partition(".")
        heads, neurons = kept.heads[blocks[int(number)]], torch.tensor(kept.neurons[blocks[int(number)]])
        weights[name] = _cut(part, weight, channels, _rows(heads, own.head_width), _key_rows(heads, own), neurons)
    config = type(model.config).from_dict(
        model.config.to_dict()
        | {
            "hidden_size": shape.width,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_heads,
            "head_dim": shape.head_width,
            "intermediate_size": shape.intermediate,
        }
    )
    return with_weights(model, config, {name: weight.clone() for name, weight in weights.items()})


def add_alignment(student: LlamaForCausalLM, kept: Kept, teacher_width: int, pairs: int) -> None:
    """Projections from the student's hidden states to the teacher's, one for each pair of blocks, as parts of the student, so that they
    are trained, sharded and kept in checkpoints with it. At first each gives a channel to the one that it was."""
    projections = []
    for _ in range(pairs):
        projection = torch.nn.Linear(len(kept.channels), teacher_width, bias=False)
        with torch.no_grad():
            projection.weight.zero_()
            projection.weight[torch.tensor(kept.channels), torch.arange(len(kept.channels))] = 1.0
        projections.append(projection)
    student.add_module(ALIGNMENT, torch.nn.ModuleList(projections))


def without_alignment(student: LlamaForCausalLM) -> None:
    """Take the projections off again: they are no part of a model that speaks."""
    if hasattr(student, ALIGNMENT):
        delattr(student, ALIGNMENT)


def _rows(heads: Sequence[int], head_width: int) -> torch.Tensor:
    return torch.cat([torch.arange(head * head_width, (head + 1) * head_width) for head in heads])


def _key_rows(heads: Sequence[int], own: ModelShape) -> torch.Tensor:
    size = own.heads // own.key_heads
    return _rows(sorted({head // size for head in heads}), own.head_width)


def _cut(
    part: str,
    weight: torch.Tensor,
    channels: torch.Tensor,
    rows: torch.Tensor,
    keys: torch.Tensor,
    neurons: torch.Tensor,
) -> torch.Tensor:
    """A weight of a block with what is kept of it."""
    name = part.split(".")[-2]
    if name in ("q_norm", "k_norm"):  # of a head's channels, which all stay
        return weight
    out = {"q_proj": rows, "k_proj": keys, "v_proj": keys, "gate_proj": neurons, "up_proj": neurons}.get(name, channels)
    into = {"o_proj": rows, "down_proj": neurons}.get(name, channels)
    weight = weight.index_select(0, out)
    return weight.index_select(1, into) if weight.ndim == 2 else weight

"""Dropout for a decoder that has none of its own, drawn anew from (seed, step, row, place) in every pass.

Zeroed: embeddings, and what attention and MLP of each block add (Srivastava et al. 2014; places as in GPT-2). A mask depends on
nothing else, so that a resumed run, other micro-batches and a block that is run twice (activation checkpointing) draw the same.
Legend: B rows of a micro-batch, T positions, D width.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaForCausalLM

from tinywave_core.models.parts import adding_of, blocks_of, embedding_of


@dataclass
class Draw:
    """Which masks are drawn; the trained module sets it before each micro-batch."""

    seed: int
    step: int = 0
    first_row: int = 0
    """Number of the micro-batch's first row in the whole batch."""


def add_dropout(model: LlamaForCausalLM, share: float, seed: int) -> Draw:
    """Zero `share` of the numbers in every pass of a model in training mode, and scale up the others."""
    draw = Draw(seed)
    places: list[torch.nn.Module] = [embedding_of(model)]
    for block in blocks_of(model):
        places += adding_of(block, model)
    for place, module in enumerate(places):
        module.register_forward_hook(_hook(draw, share, place))
    return draw


def _hook(draw: Draw, share: float, place: int) -> Callable[..., Any]:
    @torch.compiler.disable  # generators cannot be traced
    def hook(module: torch.nn.Module, _: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, tuple):  # attention gives its maps beside
            return (output[0] * _mask(output[0], draw, share, place), *output[1:])
        return output * _mask(output, draw, share, place)

    return hook


def _mask(like_BTD: torch.Tensor, draw: Draw, share: float, place: int) -> torch.Tensor:
    """0 or 1 / (1 - share), [B, T, D]."""
    rows = []
    for row in range(len(like_BTD)):
        # By row: micro-batches and processes share a batch differently, and must not change what is learned.
        generator = torch.Generator(like_BTD.device)
        generator.manual_seed(_mixed(draw.seed, draw.step, draw.first_row + row, place))
        rows.append(torch.rand(like_BTD.shape[1:], generator=generator, device=like_BTD.device))
    return (torch.stack(rows) >= share).to(like_BTD.dtype) / (1 - share)


def _mixed(*numbers: int) -> int:
    """A seed of 63 bits: neighbouring steps and rows must not draw related masks."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1

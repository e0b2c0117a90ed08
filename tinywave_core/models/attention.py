"""Attention of packed rows: which positions a query may look at, and what computes it.

Two ways, the same numbers to rounding: `dense`, a bool mask for SDPA, which on a GPU rules its fast kernels out, and
`block_sparse`, a list of the 128 x 128 blocks in which anything may be seen, for `flex_attention`: on a GPU a compiled kernel
that skips the other blocks. A model takes the second one by its attention implementation (BLOCK_SPARSE).
Legend: B rows, T positions, H heads, E head width, r some query positions, n blocks of a row.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tinywave_core.config.base import RuntimeConfig
from tinywave_core.models.parts import architecture

DENSE, BLOCK_SPARSE = "tinywave_sdpa", "tinywave_flex"
_BLOCK = 128  # positions along the side of a block, flex_attention's own
_NARROWEST_HEAD = 16  # of flex_attention's kernels on a GPU
Mask = torch.Tensor | BlockMask


def is_block_sparse(runtime: RuntimeConfig, model: LlamaForCausalLM, device: torch.device) -> bool:
    """Whether a model attends block by block on this device."""
    if not architecture(model).takes_blocks:
        return False
    if runtime.attention != "auto":
        return runtime.attention == "block_sparse"
    # Without a compiled kernel, as on a CPU, all scores are computed and most thrown away.
    width = model.config.hidden_size // model.config.num_attention_heads
    return device.type == "cuda" and width >= _NARROWEST_HEAD


def packed_mask(documents_BT: torch.Tensor, implementation: str | None) -> Mask:
    """What a model of this attention implementation takes as its mask of packed rows."""
    return block_sparse_mask(documents_BT) if implementation == BLOCK_SPARSE else dense_mask(documents_BT)


def dense_mask(documents_BT: torch.Tensor) -> torch.Tensor:
    """Bool mask [B, 1, T, T]: True where a query may look: causal, and within its own document.

    Padding (document 0) looks at padding, so that no row of the softmax is empty.
    """
    length = documents_BT.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents_BT.device).tril()
    same = documents_BT[:, :, None] == documents_BT[:, None, :]
    return (causal & same)[:, None]


def block_sparse_mask(documents_BT: torch.Tensor) -> BlockMask:
    """The same mask by blocks, from the smallest and largest document of each: [T, T] never exists.

    Exact where documents ascend along a row, as packing lays them; elsewhere some blocks are looked through for nothing.
    """
    length = documents_BT.shape[1]
    blocks = -(-length // _BLOCK)
    after_all = length + 1
    # Padding ends a row: as a document after all others it keeps the numbers ascending.
    ascending = documents_BT.where(documents_BT != 0, after_all)
    low_Bn, high_Bn = (
        _by_block(ascending, blocks, after_all).amin(-1),
        _by_block(ascending, blocks, -1).amax(-1),
    )
    low_q, high_q, low_k, high_k = low_Bn[:, :, None], high_Bn[:, :, None], low_Bn[:, None], high_Bn[:, None]
    number = torch.arange(blocks, device=documents_BT.device)
    seen = (number[:, None] >= number) & (low_q <= high_k) & (low_k <= high_q)
    # Blocks in which every query sees every key, so that nothing is looked up; never those that reach past the row.
    within = (number < length // _BLOCK)[:, None]
    whole = (number[:, None] > number) & within & (low_q == high_q) & (low_k == high_k) & (low_q == low_k)
    return BlockMask.from_kv_blocks(
        *_listed(seen & ~whole),
        *_listed(whole),
        BLOCK_SIZE=_BLOCK,
        mask_mod=_may_look(documents_BT),
        seq_lengths=(length, length),
    )


def allowed_rows(mask: Mask, positions_r: torch.Tensor, length: int) -> torch.Tensor:
    """Some rows of a mask, dense: bool [B, 1, r, T]."""
    if isinstance(mask, torch.Tensor):
        rows = mask[:, :, positions_r]
        # OPT adds its own mask to the scores: 0 where a query may look.
        return rows if rows.dtype == torch.bool else rows == 0
    device = positions_r.device
    row = torch.arange(mask.shape[0], device=device)[:, None, None, None]
    return mask.mask_mod(row, torch.zeros_like(row), positions_r[:, None], torch.arange(length, device=device))


def packed_attention(
    module: torch.nn.Module,
    query_BHTE: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Mask | None,
    scaling: float | None = None,
    **options: Any,
) -> torch.Tensor:
    """Attention output [B, T, H, E]: by SDPA, or by blocks if the mask is one of blocks."""
    if not isinstance(mask, BlockMask):
        output, _ = sdpa_attention_forward(module, query_BHTE, key, value, mask, scaling=scaling, **options)
        return output
    query_BHTE, key, value = _of_one_type(query_BHTE, key, value)
    grouped = query_BHTE.shape[1] != key.shape[1]  # several query heads share one key head
    attend = _kernel(query_BHTE.device.type)
    output_BHTE = attend(query_BHTE, key, value, block_mask=mask, scale=scaling, enable_gqa=grouped)
    return output_BHTE.transpose(1, 2).contiguous()


def _kernel(device: str) -> Callable[..., Any]:
    """What computes flex_attention: within compiled blocks it is part of them."""
    if torch.compiler.is_compiling():
        return flex_attention
    return _compiled() if device == "cuda" else _plain


@functools.cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention)


def _plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> Any:
    with warnings.catch_warnings():
        # It says that all scores are computed: this is how a CPU checks what a GPU does.
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        warnings.filterwarnings(
            "ignore", message="The .grad attribute of a Tensor"
        )  # the tracer's own look at its inputs
        return flex_attention(query, key, value, **options)


def _of_one_type(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """As autocast would have them: rotated queries and keys come in float32, and flex_attention takes one type."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]


def _by_block(documents_BT: torch.Tensor, blocks: int, filling: int) -> torch.Tensor:
    filled = F.pad(documents_BT, (0, blocks * _BLOCK - documents_BT.shape[1]), value=filling)
    return filled.unflatten(1, (blocks, _BLOCK))


def _listed(chosen_Bnn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per row of blocks how many are chosen, and which, those first: int32 [B, 1, n] and [B, 1, n, n]."""
    order = torch.argsort(chosen_Bnn.to(torch.int8), dim=-1, descending=True, stable=True)
    return chosen_Bnn.sum(-1, dtype=torch.int32)[:, None], order.to(torch.int32)[:, None].contiguous()


def _may_look(documents_BT: torch.Tensor) -> Callable[..., torch.Tensor]:
    def may_look(row: torch.Tensor, _: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (query >= key) & (documents_BT[row, query] == documents_BT[row, key])

    return may_look

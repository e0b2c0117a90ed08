"""The decoder's forward pass over packed rows, as capture, training and comparison take it.

Legend: B rows, T row length, D width.
"""

from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM

from tinywave_core.devices import sent
from tinywave_core.models.attention import packed_mask
from tinywave_core.models.parts import decoder_of
from tinywave_core.sequences.dataset import Batch


@dataclass(frozen=True)
class Forward:
    """A forward pass without its logits."""

    last_BTD: torch.Tensor
    """After the final norm: what the head reads."""
    hidden: tuple[torch.Tensor, ...]
    """Outputs of the blocks [B, T, D]; the last one after the final norm. Empty unless asked for."""


def forward(model: LlamaForCausalLM, batch: Batch, *, hidden: bool = False) -> Forward:
    """Run the decoder over packed rows: positions restart and attention ends with every sequence."""
    documents = sent(batch.documents, model.device)
    # Without the head: [B, T, V] logits of a large vocabulary would be most of the memory, and few callers want them whole.
    out = decoder_of(model)(
        input_ids=sent(batch.input_ids, model.device),
        position_ids=sent(batch.positions, model.device),
        attention_mask=packed_mask(documents, model.config._attn_implementation),
        use_cache=False,
        output_hidden_states=hidden,
    )
    return Forward(out.last_hidden_state, tuple(out.hidden_states[1:]) if hidden else ())

"""Where the parts of a causal language model lie: transformers names embeddings, blocks and heads by architecture.

All that trains, captures or prunes a model asks here, so that an architecture is one row of ARCHITECTURES. A row is there for models
whose packed rows were shown to give what each sequence gives alone (tests/core/models/test_architectures.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from tinywave_core.errors import CheckpointError


@dataclass(frozen=True)
class Architecture:
    """Names of modules, from the model with the head."""

    decoder: str = "model"
    """All but the head."""
    embedding: str = "embed_tokens"
    """Within the decoder, as the following."""
    blocks: str = "layers"
    adding: tuple[str, ...] = ("self_attn", "mlp")
    """Modules of a block whose outputs are added to the hidden states: where dropout goes."""
    projections: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear layers of a block: what adapters go beside."""
    takes_blocks: bool = True
    """Whether its attention can be computed block by block (models/attention.py)."""
    own_positions: bool = False
    """Whether it learned an embedding of each position, so that no row may be longer than those."""


ARCHITECTURES: Mapping[str, Architecture] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), Architecture()),
    "gpt_neox": Architecture(
        decoder="gpt_neox",
        embedding="embed_in",
        adding=("attention", "mlp"),
        projections=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    ),
    "opt": Architecture(
        decoder="model.decoder",
        adding=("self_attn",),  # its MLP is no module, and its second layer sees the positions of all rows in one line
        projections=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        takes_blocks=False,
        own_positions=True,
    ),
}
"""By the `model_type` of config.json."""


def fault_of(config: Mapping[str, Any]) -> str | None:
    """Why a model with this config.json cannot be a teacher or student; None if it can."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        return f"it is a model of type {kind!r:.80}; expected one of {', '.join(ARCHITECTURES)}"
    if config.get("use_sliding_window"):
        return "it attends to a window only (use_sliding_window); expected a model that attends to all that came before"
    if kind == "mistral" and config.get("sliding_window", 4096) is not None:
        return "it attends to a window only (sliding_window); expected a model that attends to all that came before"
    width = config.get("hidden_size")
    if kind == "opt" and config.get("word_embed_proj_dim", width) != width:
        return f"its embeddings are {config['word_embed_proj_dim']} wide, its blocks {width}; expected one width"
    if kind == "opt" and config.get("do_layer_norm_before", True) is not True:
        return "its norms come after what they are for (do_layer_norm_before false); expected them before"
    return None


def architecture(model: PreTrainedModel) -> Architecture:
    """The row of a model."""
    return ARCHITECTURES[model.config.model_type]


def require_architecture(config: Mapping[str, Any], folder: object) -> None:
    """CheckpointError where a directory's model cannot be a teacher or student."""
    if fault := fault_of(config):
        raise CheckpointError(f"{folder} cannot be a teacher or a student: {fault}")


def decoder_of(model: PreTrainedModel) -> torch.nn.Module:
    """Token ids in, hidden states out: all but the head."""
    return model.get_submodule(architecture(model).decoder)


def blocks_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The decoder's blocks in order."""
    return cast("torch.nn.ModuleList", decoder_of(model).get_submodule(architecture(model).blocks))


def embedding_of(model: PreTrainedModel) -> torch.nn.Embedding:
    """The embedding of token ids."""
    return cast("torch.nn.Embedding", decoder_of(model).get_submodule(architecture(model).embedding))


def head_of(model: PreTrainedModel) -> torch.nn.Linear:
    """From the last hidden states to logits; no head here has a bias."""
    return cast("torch.nn.Linear", model.get_output_embeddings())


def block_prefix(model_type: str) -> str:
    """How the names of all blocks' weights begin; the number of the block follows."""
    row = ARCHITECTURES[model_type]
    return f"{row.decoder}.{row.blocks}."


def adding_of(block: torch.nn.Module, model: PreTrainedModel) -> list[torch.nn.Module]:
    """The modules of a block whose outputs are added to the hidden states."""
    return [block.get_submodule(name) for name in architecture(model).adding]


def vocabulary_weights(model: PreTrainedModel) -> list[str]:
    """Names of the weights that have a row for each token: embedding and head."""
    head = next(name for name, module in model.named_modules() if module is head_of(model))
    row = architecture(model)
    return [f"{row.decoder}.{row.embedding}.weight", f"{head}.weight"]

"""Which causal language models of transformers can be teacher and student, and what they call their parts.

An architecture is one row of ARCHITECTURES. A row is there for models whose packed rows were shown to give what each sequence gives
alone (tests/core/models/test_architectures.py). Imports nothing heavy: plans ask here too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinywave_core.errors import CheckpointError


@dataclass(frozen=True)
class Architecture:
    """Names of modules, from the model with the head."""

    decoder: str = "model"
    """All but the head."""
    embedding: str = "embed_tokens"
    """Within the decoder."""
    head: str = "lm_head"
    """From the model with the head."""
    blocks: str = "layers"
    """Within the decoder."""
    adding: tuple[str, ...] = ("self_attn", "mlp")
    """Modules of a block whose outputs are added to the hidden states: where dropout goes."""
    projections: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear layers of a block: what adapters go beside."""
    takes_blocks: bool = True
    """Whether its attention can be computed block by block (models/attention.py)."""
    gguf: str | None = None
    """What llama.cpp calls it; None: it is not written as GGUF here."""
    own_positions: bool = False
    """Whether it learned an embedding of each position, so that no row may be longer than those."""

    @property
    def vocabulary_weights(self) -> tuple[str, str]:
        """Names of the weights that have a row for each token: embedding and head."""
        return f"{self.decoder}.{self.embedding}.weight", f"{self.head}.weight"


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(gguf="llama"),
    "mistral": Architecture(gguf="llama"),
    "qwen2": Architecture(gguf="qwen2"),
    "qwen3": Architecture(gguf="qwen3"),
    "gpt_neox": Architecture(
        decoder="gpt_neox",
        embedding="embed_in",
        head="embed_out",
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
    if not isinstance(kind, str) or kind not in ARCHITECTURES:  # a damaged config may have a list there
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


def require_architecture(config: Mapping[str, Any], folder: object) -> None:
    """CheckpointError where a directory's model cannot be a teacher or student."""
    if fault := fault_of(config):
        raise CheckpointError(f"{folder} cannot be a teacher or a student: {fault}")


def block_prefix(model_type: str) -> str:
    """How the names of all blocks' weights begin; the number of the block follows."""
    row = ARCHITECTURES[model_type]
    return f"{row.decoder}.{row.blocks}."

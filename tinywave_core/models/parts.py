"""The parts of a causal language model, whatever its architecture calls them: all that trains or captures a model asks here."""

from typing import cast

import torch
from transformers import PreTrainedModel

from tinywave_core.checkpoints.architectures import ARCHITECTURES, Architecture


def architecture(model: PreTrainedModel) -> Architecture:
    """The row of a model."""
    return ARCHITECTURES[model.config.model_type]


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


def adding_of(block: torch.nn.Module, model: PreTrainedModel) -> list[torch.nn.Module]:
    """The modules of a block whose outputs are added to the hidden states."""
    return [block.get_submodule(name) for name in architecture(model).adding]


def vocabulary_weights(model: PreTrainedModel) -> tuple[str, str]:
    """Names of the weights that have a row for each token: embedding and head."""
    return architecture(model).vocabulary_weights

"""A model without the vocabulary that speech does not need: embeddings and head of specials, markers and units alone.

Of SpiritLM's 32,000 text pieces a model that neither reads nor writes text needs four; embeddings and head are 266 of the
2B student's 2,290 million parameters, and of that 262 million go. What the kept rows give is what they gave before.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaForCausalLM, PretrainedConfig

from tinywave_core.errors import CheckpointError
from tinywave_core.models.parts import decoder_of, vocabulary_weights
from tinywave_core.sequences.table import in_other_ids
from tinywave_core.tokenizers.vocabulary import Vocabulary


def trim(model: LlamaForCausalLM, vocabulary: Vocabulary) -> tuple[LlamaForCausalLM, Vocabulary, list[int]]:
    """The model with the rows of `vocabulary.speech_only()`, that vocabulary, and the ids that its ids had before.

    All other weights are shared with `model`, not copied; `model` is left as it is.
    """
    if vocabulary.tokens > model.config.vocab_size:
        raise CheckpointError(
            f"the model has {model.config.vocab_size} embeddings, its vocabulary {vocabulary.tokens} tokens: they do not "
            "belong together"
        )
    kept = vocabulary.speech_only_ids()
    config = copy.deepcopy(model.config)
    config.vocab_size = len(kept)
    weights = model.state_dict()
    rows = {}
    for name in vocabulary_weights(model):
        rows[name] = weights[name][torch.tensor(kept, device=weights[name].device)]
    trimmed = with_rows(model, config, rows)
    trimmed.generation_config = copy.deepcopy(model.generation_config)
    return trimmed, vocabulary.speech_only(), kept


def with_rows(model: LlamaForCausalLM, config: PretrainedConfig, rows: Mapping[str, torch.Tensor]) -> LlamaForCausalLM:
    """A model of `config` with other rows of embedding and head; all other weights are shared with `model`, not copied."""
    return with_weights(model, config, {**model.state_dict(), **rows})


def with_weights(
    model: LlamaForCausalLM, config: PretrainedConfig, weights: Mapping[str, torch.Tensor]
) -> LlamaForCausalLM:
    """A model of `config`, which rotates as `model` does, with these weights."""
    # Without memory of its own: all weights are put into it below.
    with torch.device("meta"):
        made = type(model)(config)
    made.load_state_dict(dict(weights), assign=True, strict=True)
    made.tie_weights()
    if hasattr(decoder_of(model), "rotary_emb"):  # its frequencies are no weights, and would stay without values
        decoder_of(made).rotary_emb = decoder_of(model).rotary_emb
    return made.train(model.training)


def new_ids(vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """For each id of `vocabulary` its id in `vocabulary.speech_only()`, -1 for those that are not kept: [rows]."""
    # -1, for an id that is not kept must not become some other token.
    table = np.full(vocabulary.rows, -1, dtype=np.int64)
    kept = vocabulary.speech_only_ids()
    table[kept] = np.arange(len(kept))
    return table


def renumbering(model: LlamaForCausalLM, vocabulary: Vocabulary) -> npt.NDArray[np.int64] | None:
    """`new_ids` for a model of speech alone; None where the model has the vocabulary as it is."""
    if model.config.vocab_size != vocabulary.speech_only().rows or vocabulary.is_speech_only:
        return None
    return new_ids(vocabulary)


def in_ids_of(
    model: LlamaForCausalLM, vocabulary: Vocabulary, sequences: Sequence[npt.NDArray[Any]]
) -> list[npt.NDArray[Any]]:
    """Token sequences of `vocabulary` [L] as the model has them: as they are, or renumbered for a model of speech alone.

    TokenError where such a model would have to read text.
    """
    table = renumbering(model, vocabulary)
    if table is None:
        return list(sequences)
    return [in_other_ids(ids, table) for ids in sequences]

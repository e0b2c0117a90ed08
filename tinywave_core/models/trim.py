"""A model without the vocabulary that speech does not need: embeddings and head of specials, markers and units alone.

Of SpiritLM's 32,000 text pieces a model that neither reads nor writes text needs four; embeddings and head are 266 of the
2B student's 2,290 million parameters, and of that 262 million go. What the kept rows give is what they gave before.
"""

import copy

import torch
from transformers import LlamaForCausalLM

from tinywave_core.errors import CheckpointError
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
    with torch.device("meta"):
        trimmed = LlamaForCausalLM(config)
    weights = model.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][torch.tensor(kept, device=weights[name].device)]
    trimmed.load_state_dict(weights, assign=True, strict=True)
    trimmed.tie_weights()
    trimmed.model.rotary_emb = model.model.rotary_emb  # its frequencies are no weights, and would stay without values
    trimmed.generation_config = copy.deepcopy(model.generation_config)
    return trimmed.train(model.training), vocabulary.speech_only(), kept

"""A text model with rows for units: embedding and head get the rows of an enlarged vocabulary, all else is as it was.

A token of text starts with the row that it had. New rows are drawn from a seed: the mean of all old rows, plus a tenth of their
deviation in each channel. With the mean (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models") what is new
is at first as likely as an average token and changes least of what the model says of text; rows drawn as fresh ones (TWIST, arXiv
2305.13009) can outweigh all text. The deviation keeps units apart, which in the mean alone would be one and the same.
Legend: V rows of the text model, R rows of the enlarged one, D width.
"""

import copy
from collections.abc import Sequence

import torch
from transformers import GenerationConfig, LlamaForCausalLM

from tinywave_core.errors import CheckpointError
from tinywave_core.models.parts import vocabulary_weights
from tinywave_core.models.trim import with_rows
from tinywave_core.tokenizers.vocabulary import BOS_ID, EOS_ID, Vocabulary

NOISE = 0.1
"""Of a channel's deviation over the old rows."""


def enlarge(
    model: LlamaForCausalLM, sources: Sequence[int | None], vocabulary: Vocabulary, seed: int
) -> LlamaForCausalLM:
    """The model with a row for each token of `vocabulary`; `sources` are the old ids of its text, None for what is new.

    Tied rows stay tied. `model` is left as it is.
    """
    assert len(sources) == vocabulary.text
    rows = model.config.vocab_size
    beyond = [source for source in sources if source is not None and source >= rows]
    if beyond:
        raise CheckpointError(
            f"the text model has {rows:,} embeddings, its tokenizer a token {max(beyond):,}: they do not belong together"
        )
    weights, names = model.state_dict(), vocabulary_weights(model)
    tied = model.config.tie_word_embeddings
    enlarged = {}
    for number, name in enumerate(names):
        # Tied ones are drawn once, others apart.
        enlarged[name] = _rows(weights[name], sources, vocabulary.tokens, seed * 2 + (0 if tied else number))
    config = copy.deepcopy(model.config)
    config.vocab_size = vocabulary.tokens
    # The old numbers mean other tokens now. No padding: its row would learn nothing.
    config.bos_token_id, config.eos_token_id, config.pad_token_id = BOS_ID, EOS_ID, None
    made = with_rows(model, config, enlarged)
    made.generation_config = GenerationConfig.from_model_config(config)
    return made


def _rows(old_VD: torch.Tensor, sources: Sequence[int | None], rows: int, seed: int) -> torch.Tensor:
    """[R, D]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, old_VD.shape[1], generator=generator).to(old_VD)
    new_RD = old_VD.mean(0) + NOISE * old_VD.std(0) * noise
    kept = [(new, old) for new, old in enumerate(sources) if old is not None]
    if kept:
        new, old = (torch.tensor(ids) for ids in zip(*kept, strict=True))
        new_RD[new] = old_VD[old]
    return new_RD

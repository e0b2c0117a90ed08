"""The tokenizer.json of a vocabulary without text: specials, markers and units, in the convention of the vocabulary.

It gives exactly the tokens that the whole tokenizer gives as far as they were kept, in the new numbering, and <unk> for
the rest: text between units does not move or merge them.
"""

import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tinywave_core.errors import TokenError
from tinywave_core.tokenizers.text import SPECIALS
from tinywave_core.tokenizers.vocabulary import BOS_ID, Vocabulary

BOUNDARY = "▁"


def build_speech_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """<s> is added, </s> is not; the slow convention has one ▁ before the whole string, as SpiritLM's tokenizer."""
    if not vocabulary.is_speech_only:
        raise TokenError(f"the vocabulary has {vocabulary.text} text pieces; expected one that speech_only() gave")
    pieces = [*SPECIALS.values(), *([] if vocabulary.boundary is None else [BOUNDARY]), *vocabulary.names()]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    if vocabulary.boundary is not None:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BOUNDARY), normalizers.Replace(" ", BOUNDARY)])
    # A rule isolates units: as added tokens they would cut the text before ▁ is put.
    units = "|".join(re.escape(name) for name in vocabulary.names())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(units), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS_ID)]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace(BOUNDARY, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIALS.values()])
    return tokenizer

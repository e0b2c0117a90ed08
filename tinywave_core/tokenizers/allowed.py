"""Which ids a continuation may hold: speech, text or both, without what SpiritLM bans."""

from tinywave_core.tokenizers.prompts import OutputModality, forbidden_ids
from tinywave_core.tokenizers.vocabulary import EOS_ID, Vocabulary


def allowed_ids(vocabulary: Vocabulary, output: OutputModality) -> list[int]:
    """Ids that may be sampled for this kind of output, ascending: those that SpiritLM does not ban, and </s> always.

    The rows of padding are never among them, though SpiritLM leaves them in: no tokenizer can name them.
    """
    forbidden = forbidden_ids(vocabulary, output)
    # SpiritLM bans </s> with the text, but transformers takes it off that list: a continuation in speech alone must be able to end.
    return [i for i in range(vocabulary.tokens) if i == EOS_ID or i not in forbidden]

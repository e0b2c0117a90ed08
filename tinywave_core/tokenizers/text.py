"""Vocabulary -> a Hugging Face tokenizer directory for a fresh teacher: 256 bytes as text, then the unit tokens.

Ids: 0 <unk>, 1 <s>, 2 </s>, 3 … 258 the bytes, then [Text], [Speech], [Hu…], [Pi…], [St…] in the order of `Vocabulary`.
Any text encodes (as UTF-8 bytes) and decodes to itself. <s> is added, </s> is not, nor any word-boundary piece: the
fast convention, so `tokenizer("[Speech][Hu3]")` gives exactly the ids that token shards hold.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, processors

from tinywave_core.errors import TokenError
from tinywave_core.tokenizers.vocabulary import BOS_ID, BYTE_TEXT, Vocabulary

SPECIALS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def write_tokenizer(vocabulary: Vocabulary, folder: Path) -> None:
    """Write the byte tokenizer's files."""
    save_tokenizer(build_tokenizer(vocabulary), folder)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json, for AutoTokenizer to load."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        **SPECIALS,
        "tokenizer_class": "PreTrainedTokenizerFast",
        # Clean-up drops spaces before punctuation, but a text must decode to itself.
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],  # Llama's generate refuses token types
        "model_max_length": 1_000_000,
        "padding_side": "right",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(
        json.dumps(SPECIALS, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


def build_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """The same tokenizer as an object of the `tokenizers` package."""
    if vocabulary.text != BYTE_TEXT:
        raise TokenError(
            f"the vocabulary has {vocabulary.text} text pieces; expected the {BYTE_TEXT} of the byte tokenizer: a "
            "released teacher comes with a tokenizer of its own, use that"
        )
    pieces = [*SPECIALS.values(), *(f"<0x{byte:02X}>" for byte in range(256))]
    # No merges and no characters in the vocabulary: every character falls back to its bytes.
    model = models.BPE(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>", byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS_ID)]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIALS.values()])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in vocabulary.names()])
    return tokenizer

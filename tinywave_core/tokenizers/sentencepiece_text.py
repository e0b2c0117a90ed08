"""A release's tokenizer.model -> its vocabulary, and a tokenizer.json that gives exactly the same ids without sentencepiece.

SpiritLM was trained with the slow LlamaTokenizer: one ▁ goes before the whole text, none after a marker, so a speech
prompt is <s> ▁ [Speech] [Hu99] …. transformers' own conversion to the fast kind moves those ▁ and is not used here.

How the ids come out equal:
- Text is byte-pair encoding in both. sentencepiece merges any two neighbours that make a piece, best score first, then
  leftmost. Within the place where a piece ends up, these merges go as in the piece alone, so every piece has one last
  merge that can ever make it: those, ordered by score, are the merges of tokenizer.json.
- Units and markers are ordinary entries of the vocabulary (added tokens would cut the text before ▁ is put): a regular
  expression isolates them, and `ignore_merges` takes an isolated entry whole.
- `ignore_merges` must not take what sentencepiece would not give, e.g. a <0x41> spelled out between two markers: a second
  expression cuts such a stretch where sentencepiece's first piece of it ends.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tinywave_core.checkpoints.pieces import fault_of_pieces
from tinywave_core.errors import CheckpointError
from tinywave_core.tokenizers.text import SPECIALS, save_tokenizer
from tinywave_core.tokenizers.vocabulary import BOS_ID, EOS_ID, Vocabulary

FILE = "tokenizer.model"
BOUNDARY = "▁"
# What a written tokenizer must encode as sentencepiece does and decode to itself, besides every single piece.
PROBES = (
    "",
    " ",
    "  two  spaces ",
    "[Speech]",
    "[Speech][Hu1][Hu0]",
    "[Text]",
    "[Text] The cat",
    "[Text]The cat[Speech][Hu0][Hu0][Text] and then",
    "line\nbreak\t\r\n",
    "aaaaaaa          ----------",
    "Grüße, Привет, 世界, مرحبا, नमस्ते 🙂👩‍👩‍👧",
    "[[Text]][Hu0[Hu0]Hu0][Hu00][Hu9999][hu0][Hu-1][Pi][St",
    "[Text]<0x41>[Speech]<0x0A>",
)


def read_vocabulary(path: Path, rows: int) -> Vocabulary:
    """Sizes, ids and convention of a tokenizer.model that serves a model with `rows` embeddings."""
    vocabulary = _vocabulary(_open(path), path)
    if vocabulary.tokens > rows:
        raise CheckpointError(
            f"{path} has {vocabulary.tokens} pieces but the model has {rows} rows only: they are not of one release"
        )
    return Vocabulary(**{**vocabulary.to_json(), "padded": rows})


def build_exact_tokenizer(path: Path) -> Tokenizer:
    """The same ids as the slow LlamaTokenizer (<s> added, </s> not), from the `tokenizers` package alone.

    <s>, </s> and <unk> in a text are taken as the symbols, and cut it in two with a ▁ each, as LlamaTokenizer does.
    """
    processor = _open(path)
    text = _vocabulary(processor, path).text
    names = _names(processor)
    scores = {name: processor.get_score(i) for i, name in enumerate(names[:text]) if _mergeable(processor, i)}
    histories = {name: list(_merge(name, scores)) for name in names[len(SPECIALS) : text]}
    model = models.BPE(
        vocab={name: i for i, name in enumerate(names)},
        merges=[(histories[name][-2][0], histories[name][-2][1]) for name in _whole(histories, scores)],
        unk_token=SPECIALS["unk_token"],
        fuse_unk=True,
        byte_fallback=True,
        ignore_merges=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BOUNDARY), normalizers.Replace(" ", BOUNDARY)])
    broken = [parts for name, parts in ((n, h[-1]) for n, h in histories.items()) if parts != [name]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(rule), "isolated") for rule in (_units_rule(names[text:]), _broken_rule(broken))]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS_ID)]
    )
    # One ▁ was put before the text, so that one space, and no more, goes when it comes back.
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(BOUNDARY, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIALS.values()])
    return tokenizer


def write_release_tokenizer(source: Path, folder: Path) -> None:
    """Write the tokenizer of the release in `source` for AutoTokenizer to load, and check it against sentencepiece."""
    tokenizer = build_exact_tokenizer(source / FILE)
    _check(tokenizer, source / FILE)
    save_tokenizer(tokenizer, folder)
    shutil.copyfile(source / FILE, folder / FILE)


def _open(path: Path) -> SentencePieceProcessor:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: expected the sentencepiece model of a SpiritLM release")
    processor = SentencePieceProcessor()
    try:
        if fault := fault_of_pieces(path):
            raise ValueError(fault)
        processor.LoadFromSerializedProto(path.read_bytes())
        _names(processor)  # in a damaged file, pieces need not be text
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no sentencepiece model, or a truncated one ({error}): copy it again"
        ) from error
    # The rule of spaces is the last part of the file: one that was cut between two pieces still opens, without it.
    if processor.get_piece_size() == 0 or processor.normalize("  Ⅷ") != f"{BOUNDARY * 3}Ⅷ":
        raise CheckpointError(f"{path} does not treat spaces as Llama's tokenizer does: truncated, or not of SpiritLM")
    return processor


def _names(processor: SentencePieceProcessor) -> list[str]:
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def _vocabulary(processor: SentencePieceProcessor, path: Path) -> Vocabulary:
    """Counted from the pieces; CheckpointError unless they are text, [Text], [Speech], [Hu…], [Pi…], [St…] in order."""
    names = _names(processor)
    missing = [name for name in (BOUNDARY, "[Text]", "[Speech]", "[Hu0]") if name not in names]
    if missing:
        raise CheckpointError(f"{path} has no piece {' '.join(missing)}: it is not the tokenizer of a SpiritLM release")
    if names[: len(SPECIALS)] != list(SPECIALS.values()) or (processor.bos_id(), processor.eos_id()) != (
        BOS_ID,
        EOS_ID,
    ):
        raise CheckpointError(f"{path} begins with {names[: len(SPECIALS)]}, expected <unk>, <s> and </s>, as in Llama")
    hubert, pitch, style = (
        sum(re.fullmatch(rf"\[{prefix}[0-9]+\]", name) is not None for name in names) for prefix in ("Hu", "Pi", "St")
    )
    vocabulary = Vocabulary(names.index("[Text]"), hubert, pitch, style, boundary=names.index(BOUNDARY))
    found, expected = names[vocabulary.text :], vocabulary.names()
    if found != expected:
        at = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(expected))
        raise CheckpointError(
            f"{path} has {(found[at : at + 1] or ['nothing'])[0]} at id {vocabulary.text + at}, expected "
            f"{(expected[at : at + 1] or ['no more pieces'])[0]}: units must follow the text as [Text] [Speech] [Hu0] …, "
            "then [Pi…] and [St…] if there are any"
        )
    return vocabulary


def _mergeable(processor: SentencePieceProcessor, piece: int) -> bool:
    """sentencepiece neither makes bytes and control symbols by merging nor merges them with others."""
    return not (
        processor.is_byte(piece)
        or processor.is_control(piece)
        or processor.is_unknown(piece)
        or processor.is_unused(piece)
    )


def _merge(text: str, scores: Mapping[str, float]) -> Iterator[list[str]]:
    """sentencepiece's way from characters to pieces: the parts at the start and after every merge."""
    parts = list(text)
    yield list(parts)
    while ranks := [(scores[a + b], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]:
        at = -max(ranks)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        yield list(parts)


def _whole(histories: Mapping[str, list[list[str]]], scores: Mapping[str, float]) -> list[str]:
    """Pieces that merging makes, best first."""
    made = [name for name, history in histories.items() if len(history) > 1 and history[-1] == [name]]
    return sorted(made, key=lambda name: -scores[name])


def _units_rule(names: list[str]) -> str:
    """Matches exactly these pieces."""
    return "|".join(re.escape(name) for name in names)


def _broken_rule(broken: list[list[str]]) -> str:
    """Matches the first part of a stretch that is an entry of the vocabulary but not what its characters encode to."""
    rules = (rf"{re.escape(parts[0])}(?={re.escape(''.join(parts[1:]))}\z)" for parts in broken)
    return rf"\A(?:{'|'.join(rules)})"


def _check(tokenizer: Tokenizer, path: Path) -> None:
    processor = _open(path)
    pieces = _names(processor)[len(SPECIALS) :]
    # A piece alone does not show what markers do to it: there is no ▁ behind them.
    contexts = [text for piece in pieces for text in (piece, f"[Text]{piece}", f" a{piece}[Speech]{piece}a")]
    for text in (*PROBES, *contexts):
        expected, found = [BOS_ID, *processor.encode(text)], tokenizer.encode(text).ids
        if found != expected:
            raise CheckpointError(
                f"tokenizer.json would give {found} for {text!r}, {path} gives {expected}: this kind of sentencepiece "
                "model (expected: byte-pair encoding with byte fallback, as in Llama 2) is not supported"
            )
        # A prompt is cut off by its length in characters, so that decoding must give it back exactly.
        if text in PROBES and tokenizer.decode(expected) != text:
            raise CheckpointError(f"tokenizer.json would decode {text!r} to {tokenizer.decode(expected)!r}")

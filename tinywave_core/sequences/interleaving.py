"""Streams and words of an utterance -> spans of speech and text -> one sequence of ids, the same wherever it is computed.

Spans are drawn from (seed, drawing, utterance id) alone, by SHAKE-256 (FIPS 202): resuming, sharding, order and workers
change nothing, nor does another release of NumPy. They partition the utterance: a border lies in the middle of the gap
between two words, the first span begins at 0, the last one ends with the utterance.

A unit, pitch code or style belongs to the span in which it begins, by the times that `speech.merge` orders by (index /
its rate); what begins after the last span's end is the last span's. So raw streams partition exactly. The
tokens of a span of speech begin with the style and the pitch in force at its first unit, even if those began before the
span: as in every string of SpiritLM, the first token is [St]. They are copies, the raw streams hold them once.

Text of a span is its words joined by one space, with no space at either end, as in SpiritLM's prompts: what follows
[Text] has the same ids in the middle of a sequence as in a prompt.

Legend: U, P, S lengths of the streams; L length of the sequence.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tinywave_core.alignment.words import Word
from tinywave_core.config.interleaving import InterleavingConfig
from tinywave_core.errors import TokenError
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.tokenizers.prompts import MARKERS, Modality
from tinywave_core.tokenizers.speech import Streams, Units, run_starts
from tinywave_core.tokenizers.streams import STREAMS, Stream
from tinywave_core.tokenizers.vocabulary import BOS_ID, EOS_ID, KINDS, Ids, Vocabulary

# S speech, T text: the paper's five.
PATTERNS = ("S", "T", "ST", "TS", "STS")
SPECIAL, SPEECH, TEXT = 0, 1, 2  # what `modalities` gives
_MODALITY_OF_KIND = np.array([{"text": TEXT, "marker": SPECIAL}.get(kind, SPEECH) for kind in KINDS], np.int8)

EncodeText = Callable[[str], Sequence[int]]
DecodeText = Callable[[Sequence[int]], str]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Span:
    """A stretch of an utterance in one modality."""

    modality: Modality
    first_word: int
    last_word: int
    """Half-open: the first word after the span."""
    start_samples: int
    """At 16 kHz."""
    end_samples: int


@dataclass(frozen=True)
class Interleaved:
    """The sequence of one utterance: <s>, spans with their markers, </s>."""

    ids: Ids  # int64 [L]
    spans: tuple[Span, ...]
    ranges: tuple[tuple[int, int], ...]
    """Where the tokens of each span lie in `ids`, half-open, markers left out."""

    def tokens(self, modality: Modality) -> int:
        """Number of tokens in this modality, markers left out."""
        pairs = zip(self.spans, self.ranges, strict=True)
        return sum(end - start for span, (start, end) in pairs if span.modality == modality)


# Drawing of spans -------------------------------------------------------------------------------------------------


def draw_spans(
    words: Sequence[Word], num_samples: int, config: InterleavingConfig, *, epoch: int, utterance_id: str
) -> list[Span]:
    """The spans of one utterance in one epoch; without words there is nothing but speech, whatever the policy."""
    if not words:
        return [Span("speech", 0, 0, 0, num_samples)]
    random = _uniforms(f"{config.seed}/{epoch % config.variants}/{utterance_id}", len(words) + 2)
    first, cuts = _plan(len(words), random, config)
    return _spans(first, cuts, words, num_samples)


def _uniforms(key: str, count: int) -> Floats:
    """`count` numbers in [0, 1) that depend on the key alone."""
    bits = np.frombuffer(hashlib.shake_256(key.encode()).digest(8 * count), "<u8")
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


# The first modality, and the words at which it changes.
_Plan = tuple[Modality, list[int]]


def _plan(words: int, random: Floats, config: InterleavingConfig) -> _Plan:
    match config.policy:
        case "poisson":
            return _poisson(words, random, config)
        case "spiritlm":
            return _spiritlm(words, random, config)
        case "patterns":
            return _patterns(words, random)
        case one:
            return one, []


def _patterns(words: int, random: Floats) -> _Plan:
    """One of the five patterns; of one with more spans than there are words, the first spans, one for each word."""
    pattern = PATTERNS[int(random[0] * len(PATTERNS))]
    return "speech" if pattern[0] == "S" else "text", _choose(len(pattern) - 1, random[1:words], first=1)


def _spiritlm(words: int, random: Floats, config: InterleavingConfig) -> _Plan:
    """Text and speech in turn, each of a length between two bounds; either comes first."""
    text = (config.spiritlm_text_words_min, config.spiritlm_text_words_max)
    speech = (config.spiritlm_speech_words_min, config.spiritlm_speech_words_max)
    first: Modality = "speech" if random[0] < 0.5 else "text"
    least, most = np.resize([speech, text] if first == "speech" else [text, speech], (words, 2)).T
    ends = np.cumsum(least + (random[1 : words + 1] * (most - least + 1)).astype(np.int64))
    return first, ends[ends < words].tolist()


def _poisson(words: int, random: Floats, config: InterleavingConfig) -> _Plan:
    """Spans of speech of Poisson lengths, in any places of the text that keep them apart.

    As many words are speech as the share says, rounded up or down at random so that the mean over utterances is exact
    (slamkit draws spans until there is enough, and in short utterances overshoots).
    """
    speech = min(int(words * config.poisson_speech_share + random[0]), words)
    text = words - speech
    if not speech or not text:
        return "speech" if speech else "text", []
    lengths = np.searchsorted(_poisson_cumulated(config.poisson_words), random[1 : speech + 1], side="right")
    ends = np.cumsum(np.maximum(lengths, 1))
    # Between and around the words of text there are text + 1 places: a span that finds none joins the last one.
    ends = np.append(ends[ends < speech][:text], speech)
    starts = np.append(0, ends[:-1])
    before = np.array(_choose(len(ends), random[speech + 1 : words + 2], first=0))
    edges = np.stack([before + starts, before + ends], axis=1).ravel()
    return "text" if edges[0] else "speech", edges[(edges > 0) & (edges < words)].tolist()


def _choose(count: int, random: Floats, *, first: int) -> list[int]:
    """`count` different whole numbers from `first` on, ascending; each random number stands for one, so never more."""
    return np.sort(np.argsort(random, kind="stable")[:count] + first).tolist()


@lru_cache
def _poisson_cumulated(mean: float) -> Floats:
    """P(length <= k) for every k up to where nothing is left."""
    most = int(mean + 12 * math.sqrt(mean) + 30)
    log_k = np.cumsum(np.log(np.maximum(np.arange(most), 1)))
    return np.cumsum(np.exp(np.arange(most) * math.log(mean) - mean - log_k))


def _spans(first: Modality, cuts: Sequence[int], words: Sequence[Word], num_samples: int) -> list[Span]:
    other: Modality = "text" if first == "speech" else "speech"
    borders = [0]
    for cut in cuts:
        middle = (words[cut - 1].end_samples + words[cut].start_samples) // 2
        borders.append(min(max(middle, borders[-1]), num_samples))  # words that overlap leave no gap
    return [
        Span(other if i % 2 else first, a, b, start, end)
        for i, ((a, b), (start, end)) in enumerate(
            zip(pairwise([0, *cuts, len(words)]), pairwise([*borders, num_samples]), strict=True)
        )
    ]


# Spans -> streams and ids -----------------------------------------------------------------------------------------


def interleaved_ids(
    streams: Streams, words: Sequence[Word], spans: Sequence[Span], vocabulary: Vocabulary, encode_text: EncodeText
) -> Interleaved:
    """<s>, per span a marker and its merged tokens or its text, </s>; the slow convention has its ▁ after <s>.

    A span of speech too short for a single unit becomes text, so that none of its words is lost.
    """
    parts = [_Timed.of(streams, stream, vocabulary) for stream in reversed(STREAMS)]
    spans = _with_units(spans, parts[-1])
    bounds = [_bounds(part.times, spans) for part in parts]
    markers = {"text": vocabulary.text_marker, "speech": vocabulary.speech_marker}
    pieces: list[npt.ArrayLike] = [vocabulary.prompt_ids(markers[spans[0].modality])]
    ranges = []
    length = len(vocabulary.prompt_ids(0))
    for i, span in enumerate(spans):
        if i:  # neighbours differ in modality
            pieces.append([markers[span.modality]])
            length += 1
        if span.modality == "speech":
            ids = _merged(parts, [(int(b[i]), int(b[i + 1])) for b in bounds], span)
        else:
            text = " ".join(word.text for word in words[span.first_word : span.last_word])
            ids = np.asarray(encode_text(text), np.int64)
        pieces.append(ids)
        ranges.append((length, length + len(ids)))
        length += len(ids)
    return Interleaved(np.concatenate([*pieces, [EOS_ID]]).astype(np.int64), tuple(spans), tuple(ranges))


@dataclass(frozen=True)
class _Timed:
    """One stream as token ids with their times, and which of them begin a run; all of one length."""

    ids: Ids
    times: Floats
    kept: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, streams: Streams, stream: Stream, vocabulary: Vocabulary) -> "_Timed":
        values: Units = getattr(streams, stream.name)
        kept = np.zeros(len(values), bool)
        kept[run_starts(values) if stream.deduplicated else slice(None)] = True
        if len(values):
            for value in (values.min(), values.max()):
                vocabulary.to_id(stream.kind, int(value))  # refuses what does not fit
        rate_hz = vocabulary.rates.merge_hz[stream.name]
        return cls(values + vocabulary.first[stream.kind], _times(values, rate_hz), kept)


def _times(stream: Units, rate_hz: float) -> Floats:
    return np.arange(len(stream)) / rate_hz


def _bounds(times: Floats, spans: Sequence[Span]) -> npt.NDArray[np.int64]:
    """Where each span begins in a stream, and the stream's length: spans + 1 numbers."""
    starts = np.searchsorted(times, [span.start_samples / SAMPLE_RATE for span in spans[1:]])
    return np.concatenate([[0], starts, [len(times)]])


def _merged(parts: Sequence[_Timed], ranges: Sequence[tuple[int, int]], span: Span) -> Ids:
    """`speech.merge` within a span: [St] and [Pi] in force at its first unit, that unit, and so on as in the whole."""
    first_unit, last_unit = ranges[-1]
    begins = parts[-1].times[first_unit] if last_unit > first_unit else span.start_samples / SAMPLE_RATE
    ids, times = [], []
    for part, (_, end) in zip(parts, ranges, strict=True):
        start = max(int(np.searchsorted(part.times, begins, side="right")) - 1, 0)
        kept = part.kept[start:end].copy()
        kept[:1] = True  # a run that began before the span
        ids.append(part.ids[start:end][kept])
        times.append(np.maximum(part.times[start:end][kept], begins))
    return np.concatenate(ids)[np.argsort(np.concatenate(times), kind="stable")]


def _with_units(spans: Sequence[Span], units: _Timed) -> list[Span]:
    """Speech without a unit turned into text and joined with the text around it; alone, it stays speech."""
    if len(spans) == 1:
        return list(spans)
    empty = np.diff(_bounds(units.times, spans)) == 0
    joined: list[Span] = []
    for span, is_empty in zip(spans, empty, strict=True):
        modality: Modality = "text" if is_empty else span.modality
        if joined and joined[-1].modality == modality:
            joined[-1] = replace(joined[-1], last_word=span.last_word, end_samples=span.end_samples)
        else:
            joined.append(replace(span, modality=modality))
    return joined


# Text -------------------------------------------------------------------------------------------------------------


def text_encoder(tokenizer: Tokenizer, vocabulary: Vocabulary) -> EncodeText:
    """Ids of a text as it stands right after [Text], by the tokenizer of the model; TokenError where text is not all text."""
    prompt = vocabulary.prompt_ids(vocabulary.text_marker)

    def encode(text: str) -> list[int]:
        try:
            ids = tokenizer.encode(MARKERS["text"] + text).ids
        except TypeError as error:
            raise TokenError(f"the text {text[:40]!r} has halves of surrogate pairs; expected Unicode text") from error
        if ids[: len(prompt)] != prompt:
            raise TokenError(
                f"the tokenizer begins [Text] with the ids {ids[: len(prompt)]}, the vocabulary with {prompt}: they are not of "
                "one model"
            )
        ids = ids[len(prompt) :]
        if ids and not EOS_ID < min(ids) <= max(ids) < vocabulary.text:
            token = next(tokenizer.id_to_token(i) for i in ids if not EOS_ID < i < vocabulary.text)
            raise TokenError(f"{token} stands in the text {text[:40]!r}: expected words, not tokens; take it out")
        return ids

    return encode


def text_decoder(tokenizer: Tokenizer, vocabulary: Vocabulary) -> DecodeText:
    """The way back: the text of ids that follow [Text]."""
    prompt = vocabulary.prompt_ids(vocabulary.text_marker)[1:]

    def decode(ids: Sequence[int]) -> str:
        text = tokenizer.decode([*prompt, *ids], skip_special_tokens=False)
        return text.partition(MARKERS["text"])[2]

    return decode


# Sequences --------------------------------------------------------------------------------------------------------


def modalities(ids: npt.ArrayLike, vocabulary: Vocabulary) -> npt.NDArray[np.int8]:
    """SPECIAL, SPEECH or TEXT for every id [L]; ▁ is SPECIAL right after <s>, where the slow convention puts it, else TEXT."""
    ids = np.asarray(ids, np.int64)
    found = _MODALITY_OF_KIND[vocabulary.kinds(ids)]
    if vocabulary.boundary is not None:
        follows = np.concatenate([[False], ids[:-1] == BOS_ID])[: len(ids)]
        found[(ids == vocabulary.boundary) & ~follows] = TEXT
    return found


def switches(ids: npt.ArrayLike, vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    """Where the modality changes within a sequence [L]: its markers but the leading one, and the token after each."""
    ids = np.asarray(ids, np.int64)
    content = modalities(ids, vocabulary) != SPECIAL
    begun = np.cumsum(content) > 0
    found = begun & ((ids == vocabulary.text_marker) | (ids == vocabulary.speech_marker))
    found[1:] |= found[:-1].copy()
    return found

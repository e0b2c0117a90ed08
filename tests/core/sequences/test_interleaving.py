"""Spans partition an utterance and depend on its id alone; their ids are what the tokenizer gives for the whole string."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.fixtures.release import FOLDER
from tinywave_core.alignment.words import Word
from tinywave_core.config.interleaving import InterleavingConfig
from tinywave_core.errors import TokenError
from tinywave_core.sequences.interleaving import (
    PATTERNS,
    Span,
    draw_spans,
    interleaved_ids,
    modalities,
    split_streams,
    switches,
    text_decoder,
    text_encoder,
)
from tinywave_core.tokenizers.prompts import build_prompt
from tinywave_core.tokenizers.sentencepiece_text import build_exact_tokenizer
from tinywave_core.tokenizers.speech import Streams, encode_utterance
from tinywave_core.tokenizers.streams import SPIRITLM_RATES
from tinywave_core.tokenizers.text import build_tokenizer
from tinywave_core.tokenizers.vocabulary import Vocabulary

pytestmark = pytest.mark.arithmetic

BYTES = Vocabulary(text=259, hubert=501, pitch=64, style=100)
TOY = Vocabulary(text=600, hubert=501, pitch=64, style=100, padded=1280, boundary=521)
POLICIES = ("speech", "text", "poisson", "spiritlm", "patterns")
quick = settings(max_examples=60)


def words_of(count: int, length: int = 4000, gap: int = 1000) -> list[Word]:
    """Words of a quarter of a second, with gaps between them and around them."""
    starts = [gap + i * (length + gap) for i in range(count)]
    return [Word(f"w{i}", start, start + length) for i, start in enumerate(starts)]


def drawn(count: int, policy: str, name: str = "a", epoch: int = 0, **changes: object) -> list[Span]:
    config = InterleavingConfig.model_validate({"policy": policy, **changes})
    return draw_spans(words_of(count), 5000 * count + 1000, config, epoch=epoch, utterance_id=name)


def lengths(spans: list[Span], modality: str) -> list[int]:
    return [span.last_word - span.first_word for span in spans if span.modality == modality]


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def tokenizer_and_vocabulary(request: pytest.FixtureRequest) -> tuple[Tokenizer, Vocabulary]:
    """The embedded tokenizer, and the release's at toy size."""
    if request.param == "bytes":
        return build_tokenizer(BYTES), BYTES
    return build_exact_tokenizer(FOLDER / "toy_tokenizer.model"), TOY


timed_words = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 9000), st.text(min_size=1)), max_size=60).map(
    lambda rows: [
        Word(text, start, start + length)
        for (gap, length, text), start in zip(
            rows, np.cumsum([0] + [gap + length for gap, length, _ in rows])[:-1].tolist(), strict=True
        )
    ]
)
policies = st.sampled_from(POLICIES)
streams_of_any_length = st.builds(
    lambda units, pitch, style: Streams(*(np.array(x, dtype=np.int64) for x in (units, pitch, style))),
    st.lists(st.integers(0, 3), max_size=80),
    st.lists(st.integers(0, 2), max_size=40),
    st.lists(st.integers(0, 2), max_size=4),
)


# Drawing ----------------------------------------------------------------------------------------------------------


@quick
@given(timed_words, policies, st.integers(0, 300_000), st.text(max_size=5), st.integers(0, 9))
def test_spans_partition_words_and_samples_in_alternating_modalities(words, policy, num_samples, name, epoch):
    spans = draw_spans(words, num_samples, InterleavingConfig(policy=policy), epoch=epoch, utterance_id=name)
    assert (spans[0].first_word, spans[0].start_samples) == (0, 0)
    assert (spans[-1].last_word, spans[-1].end_samples) == (len(words), num_samples)
    assert all(a.last_word == b.first_word and a.end_samples == b.start_samples for a, b in pairwise(spans))
    assert all(a.modality != b.modality for a, b in pairwise(spans))
    assert all(span.first_word < span.last_word for span in spans) or not words
    assert all(span.start_samples <= span.end_samples for span in spans)


def test_a_border_lies_in_the_middle_of_the_gap_between_its_words():
    words = [Word("a", 100, 4000), Word("b", 5001, 9000)]
    spans = next(
        spans
        for name in "abcdefgh"
        if len(spans := draw_spans(words, 10_000, InterleavingConfig(policy="patterns"), epoch=0, utterance_id=name))
        == 2
    )
    assert [(span.start_samples, span.end_samples) for span in spans] == [(0, 4500), (4500, 10_000)]


def test_spans_are_those_that_they_were():
    # Cached logits belong to these: a change here is a change of every interleaved corpus.
    found = {
        policy: [(span.modality[0], span.last_word) for span in drawn(60, policy, "utterance", 1, seed=3)]
        for policy in ("poisson", "spiritlm", "patterns")
    }
    assert found == {
        "poisson": [("t", 15), ("s", 28), ("t", 44), ("s", 49), ("t", 60)],
        "spiritlm": [("t", 27), ("s", 34), ("t", 54), ("s", 60)],
        "patterns": [("s", 12), ("t", 50), ("s", 60)],
    }


@pytest.mark.parametrize("policy", ["poisson", "spiritlm", "patterns"])
def test_epochs_seeds_and_utterances_have_drawings_of_their_own_and_epochs_come_round(policy):
    first = [drawn(40, policy, f"u{i}") for i in range(20)]
    assert [drawn(40, policy, f"u{i}", epoch=4, variants=4) for i in range(20)] == first
    assert [drawn(40, policy, f"u{i}", epoch=1) for i in range(20)] != first
    assert [drawn(40, policy, f"u{i}", seed=1) for i in range(20)] != first
    assert len({str(spans) for spans in first}) > 10


@pytest.mark.parametrize("policy", POLICIES)
def test_an_utterance_without_words_is_speech(policy):
    assert drawn(0, policy) == [Span("speech", 0, 0, 0, 1000)]


def test_one_modality_is_one_span_and_one_drawing():
    assert drawn(9, "speech") == [Span("speech", 0, 9, 0, 46_000)]
    assert drawn(9, "text") == [Span("text", 0, 9, 0, 46_000)]
    assert InterleavingConfig(policy="text").drawings == 1
    assert InterleavingConfig(policy="poisson", variants=6).drawings == 6


def test_the_five_patterns_are_equally_likely_and_cut_anywhere():
    spans = [drawn(5, "patterns", f"u{i}") for i in range(4000)]
    names = ["".join(span.modality[0].upper() for span in utterance) for utterance in spans]
    assert all(abs(names.count(pattern) / 4000 - 0.2) < 0.03 for pattern in PATTERNS)
    halves = [utterance[0].last_word for utterance in spans if len(utterance) == 2]
    assert all(abs(halves.count(cut) / len(halves) - 0.25) < 0.05 for cut in (1, 2, 3, 4))


@pytest.mark.parametrize("count", [1, 2])
def test_with_fewer_words_than_spans_the_first_spans_of_the_pattern_are_left(count):
    names = {"".join(s.modality[0].upper() for s in drawn(count, "patterns", f"u{i}")) for i in range(100)}
    assert names == {pattern[:count] for pattern in PATTERNS}


@pytest.mark.parametrize("count", [1, 3, 20, 45])
def test_poisson_makes_three_words_in_ten_speech_whatever_the_length(count):
    spoken = sum(sum(lengths(drawn(count, "poisson", f"u{i}"), "speech")) for i in range(3000))
    assert spoken / (3000 * count) == pytest.approx(0.3, abs=0.02)


def test_poisson_spans_of_speech_have_ten_words_on_average():
    spans = [drawn(2000, "poisson", f"u{i}") for i in range(20)]
    inner = [length for utterance in spans for length in lengths(utterance, "speech")]
    # The last span of an utterance is cut where the share is reached: 1 in 60 here.
    assert np.mean(inner) == pytest.approx(10, abs=0.3)
    assert np.var(inner) == pytest.approx(10, abs=2)


@pytest.mark.parametrize(("share", "modality"), [(0, "text"), (1, "speech")])
def test_poisson_with_a_share_of_nothing_or_all_is_one_span(share, modality):
    assert drawn(7, "poisson", poisson_speech_share=share) == [Span(modality, 0, 7, 0, 36_000)]


def test_poisson_keeps_spans_of_speech_apart_where_there_is_little_text():
    for i in range(200):
        spans = drawn(20, "poisson", f"u{i}", poisson_speech_share=0.95, poisson_words=1)
        assert sum(lengths(spans, "text")) in (0, 1) and len(spans) <= 3


def test_spiritlm_spans_have_10_to_30_words_of_text_and_5_to_15_of_speech():
    spans = [drawn(300, "spiritlm", f"u{i}") for i in range(200)]
    assert {length for utterance in spans for length in lengths(utterance[:-1], "text")} == set(range(10, 31))
    assert {length for utterance in spans for length in lengths(utterance[:-1], "speech")} == set(range(5, 16))
    assert 70 < sum(utterance[0].modality == "text" for utterance in spans) < 130


# Streams ----------------------------------------------------------------------------------------------------------


@quick
@given(streams_of_any_length, timed_words, policies)
def test_raw_streams_of_the_spans_are_those_of_the_utterance(streams, words, policy):
    spans = draw_spans(words, 50_000, InterleavingConfig(policy=policy), epoch=0, utterance_id="a")
    parts = split_streams(streams, spans, SPIRITLM_RATES)
    assert len(parts) == len(spans)
    for name in ("units", "pitch", "style"):
        whole = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(whole, getattr(streams, name))


def test_a_unit_belongs_to_the_span_in_which_it_begins():
    # A border at 0.5 s: unit 12 begins at 0.4802 s and ends after it, unit 13 at 0.5202 s; pitch 6 at 0.48 s, 7 at 0.56 s.
    spans = [Span("speech", 0, 1, 0, 8000), Span("text", 1, 2, 8000, 16_000)]
    first, second = split_streams(Streams(np.arange(30), np.arange(14), np.arange(2)), spans, SPIRITLM_RATES)
    assert first.units.tolist() == list(range(13)) and second.units.tolist() == list(range(13, 30))
    assert first.pitch.tolist() == list(range(7)) and second.pitch.tolist() == list(range(7, 14))
    # Style 1 begins at the end of the last span: what begins there or later is the last span's.
    assert first.style.tolist() == [0] and second.style.tolist() == [1]


def test_what_begins_on_a_border_belongs_to_the_span_after_it():
    spans = [Span("speech", 0, 1, 0, 16_000), Span("text", 1, 2, 16_000, 32_000)]
    first, second = split_streams(Streams(np.arange(50), np.arange(25), np.arange(2)), spans, SPIRITLM_RATES)
    assert first.style.tolist() == [0] and second.style.tolist() == [1]
    assert second.pitch[0] == 13 and second.units[0] == 25  # 12.5 * 1 s, 24.99 * 1 s


# Ids --------------------------------------------------------------------------------------------------------------


def spoken(streams: Streams, span: Span) -> str:
    """The string of a span, token by token: what is in force at its first unit, then what begins, runs once."""
    begin, end = span.start_samples / 16_000, span.end_samples / 16_000
    units = [(i / 24.99, unit) for i, unit in enumerate(streams.units) if begin <= i / 24.99 < end]
    first = units[0][0]
    timed = []
    for letters, rate, stream in [("St", 1, streams.style), ("Pi", 12.5, streams.pitch)]:
        values = [(i / rate, unit) for i, unit in enumerate(stream)]
        before = [unit for time, unit in values if time <= first]
        values = [(first, before[-1])] * bool(before) + [(t, unit) for t, unit in values if first < t < end]
        timed.append((letters, values))
    tokens = []
    for letters, values in [*timed, ("Hu", units)]:
        previous = None
        for time, unit in values:
            if unit != previous or letters == "St":
                tokens.append((time, f"[{letters}{unit}]"))
            previous = unit
    return "".join(token for _, token in sorted(tokens, key=lambda pair: pair[0]))


def utterance_of(seed: int, seconds: int = 12) -> tuple[Streams, list[Word], int]:
    """Random streams with runs, and words in between."""
    random = np.random.default_rng(seed)
    units, pitch, style = (
        np.repeat(random.integers(0, size, 400), random.integers(1, 4, 400))[:length]
        for size, length in [(501, seconds * 25), (64, seconds * 25 // 2), (100, seconds)]
    )
    texts = ["the", "cat", "sat", "on", "Grüße", "世界", "mat,", "a  b", "[", "<0x41>", "🙂"]
    words = [Word(str(random.choice(texts)), 5000 * i + 900, 5000 * i + 4000) for i in range(seconds * 16 // 5)]
    return Streams(units, pitch, style), words, seconds * 16_000


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), policy=policies)
def test_ids_are_those_of_the_tokenizer_for_the_whole_string(tokenizer_and_vocabulary, seed, policy):
    tokenizer, vocabulary = tokenizer_and_vocabulary
    streams, words, num_samples = utterance_of(seed)
    spans = draw_spans(words, num_samples, InterleavingConfig(policy=policy), epoch=0, utterance_id=str(seed))
    found = interleaved_ids(streams, words, spans, vocabulary, text_encoder(tokenizer, vocabulary))
    inputs = [
        (span.modality, spoken(streams, span))
        if span.modality == "speech"
        else ("text", " ".join(word.text for word in words[span.first_word : span.last_word]))
        for span in spans
    ]
    assert found.ids.tolist() == [*tokenizer.encode(build_prompt(inputs, "arbitrary")).ids, 2]
    assert found.ids.dtype == np.int64 and found.spans == tuple(spans)


@quick
@given(streams_of_any_length, timed_words, st.sampled_from([BYTES, TOY]))
def test_one_span_of_speech_is_the_utterance_as_it_was(streams, words, vocabulary):
    spans = draw_spans(words, 50_000, InterleavingConfig(policy="speech"), epoch=0, utterance_id="a")
    found = interleaved_ids(streams, words, spans, vocabulary, lambda _: [])
    assert found.ids.tolist() == encode_utterance(streams, vocabulary).tolist()


def test_a_span_of_speech_begins_with_the_style_and_pitch_in_force():
    spans = [Span("text", 0, 1, 0, 8000), Span("speech", 1, 2, 8000, 12_800)]
    # Units from 0.5202 s on: style 0 began at 0 s, pitch 6 at 0.48 s; pitch 8, at 0.64 s, is the first new one.
    streams = Streams(np.full(20, 5), np.array([1, 1, 1, 1, 1, 1, 2, 2, 3, 3]), np.array([9]))
    found = interleaved_ids(streams, [Word("a", 0, 1), Word("b", 2, 3)], spans, BYTES, lambda text: list(text.encode()))
    assert BYTES.decode(found.ids[slice(*found.ranges[1])]) == "[St9][Pi2][Hu5][Pi3]"
    assert split_streams(streams, spans, SPIRITLM_RATES)[1].style.tolist() == []


def test_a_style_that_begins_within_the_span_follows_the_one_in_force():
    spans = [Span("text", 0, 1, 0, 8000), Span("speech", 1, 2, 8000, 32_000)]
    streams = Streams(np.full(50, 5), np.zeros(0, np.int64), np.array([9, 9]))
    found = interleaved_ids(streams, [Word("a", 0, 1), Word("b", 2, 3)], spans, BYTES, lambda _: [7])
    assert BYTES.decode(found.ids[3:-1]) == "[Speech][St9][Hu5][St9]"


def test_speech_too_short_for_a_unit_becomes_text_of_its_neighbours():
    words = [Word("a", 0, 8000), Word("b", 8010, 8020), Word("c", 8030, 16_000)]
    cuts = [0, 8005, 8025, 16_000]
    spans = [Span(modality, i, i + 1, *cuts[i : i + 2]) for i, modality in enumerate(["text", "speech", "text"])]
    found = interleaved_ids(
        Streams(np.arange(25), *[np.zeros(0, np.int64)] * 2), words, spans, BYTES, lambda t: [len(t)]
    )
    assert found.spans == (Span("text", 0, 3, 0, 16_000),)
    assert found.ids.tolist() == [1, BYTES.text_marker, len("a b c"), 2]


def test_ranges_tell_where_the_tokens_of_each_span_lie():
    streams, words, _ = utterance_of(1)
    spans = drawn(len(words), "patterns", "c")
    found = interleaved_ids(streams, words, spans, BYTES, lambda text: [5] * len(text))
    kinds = modalities(found.ids, BYTES)
    for span, (start, end) in zip(found.spans, found.ranges, strict=True):
        assert set(kinds[start:end]) == {1 if span.modality == "speech" else 2}
    assert found.tokens("speech") == (kinds == 1).sum() and found.tokens("text") == (kinds == 2).sum()


def test_units_that_the_vocabulary_does_not_have_are_refused():
    spans = [Span("speech", 0, 0, 0, 16_000)]
    with pytest.raises(TokenError, match="hubert unit 501 is out of range"):
        interleaved_ids(Streams(np.array([501]), *[np.zeros(0, np.int64)] * 2), [], spans, BYTES, lambda _: [])


# Text -------------------------------------------------------------------------------------------------------------


@quick
@given(text=st.text(max_size=30).filter(lambda text: "[" not in text and "<" not in text and "▁" not in text))
def test_text_goes_to_ids_and_back(tokenizer_and_vocabulary, text):
    tokenizer, vocabulary = tokenizer_and_vocabulary
    encode, decode = text_encoder(tokenizer, vocabulary), text_decoder(tokenizer, vocabulary)
    assert decode(encode(text)) == text


@pytest.mark.parametrize("text", ["so [Hu5]", "[Text]", "[Speech]", "</s>", "a <s> b", "<unk>", "\ud800"])
def test_tokens_in_a_text_are_refused(tokenizer_and_vocabulary, text):
    with pytest.raises(TokenError, match="in the text|surrogate"):
        text_encoder(*tokenizer_and_vocabulary)(text)


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(TokenError, match="not of one model"):
        text_encoder(build_tokenizer(BYTES), TOY)("a")


# Sequences --------------------------------------------------------------------------------------------------------


def test_modalities_and_switches_by_hand():
    unit, text, speech = TOY.first["hubert"], TOY.text_marker, TOY.speech_marker
    # <s> ▁ [Text] a ▁ b [Speech] u u [Text] c </s>: the first ▁ is the prompt's, the second one text.
    ids = [1, 521, text, 528, 521, 302, speech, unit, unit, text, 528, 2]
    assert modalities(ids, TOY).tolist() == [0, 0, 0, 2, 2, 2, 0, 1, 1, 0, 2, 0]
    assert np.flatnonzero(switches(ids, TOY)).tolist() == [6, 7, 9, 10]
    assert modalities(ids, TOY).dtype == np.int8 and switches(ids, TOY).dtype == bool


@pytest.mark.parametrize("ids", [[], [1], [1, BYTES.speech_marker, BYTES.first["hubert"], 2]])
def test_sequences_of_one_modality_have_no_switch(ids):
    assert not switches(ids, BYTES).any() and len(switches(ids, BYTES)) == len(ids)


def test_every_span_but_the_first_has_a_switch_of_two_tokens():
    streams, words, num_samples = utterance_of(3, seconds=60)
    spans = draw_spans(words, num_samples, InterleavingConfig(policy="poisson"), epoch=0, utterance_id="a")
    found = interleaved_ids(streams, words, spans, BYTES, lambda text: list(text.encode()))
    assert len(spans) > 3
    starts = [start for start, _ in found.ranges[1:]]
    assert np.flatnonzero(switches(found.ids, BYTES)).tolist() == [i for start in starts for i in (start - 1, start)]


def test_bounds_of_spiritlm_spans_must_be_in_order():
    with pytest.raises(ValueError, match="spiritlm_text_words_min is 40, more than spiritlm_text_words_max, 30"):
        InterleavingConfig(spiritlm_text_words_min=40)

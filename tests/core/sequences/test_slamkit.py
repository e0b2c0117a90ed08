"""slamkit's files have its form, and hold the units and texts of what they were written from."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.release import FOLDER
from tinywave_core.sequences.interleaving import text_decoder, text_encoder
from tinywave_core.sequences.slamkit import write_features, write_tokens
from tinywave_core.tokenizers.sentencepiece_text import build_exact_tokenizer
from tinywave_core.tokenizers.speech import Streams, encode_utterance
from tinywave_core.tokenizers.text import build_tokenizer
from tinywave_core.tokenizers.vocabulary import Vocabulary

VOCABULARY = Vocabulary(text=259, hubert=501)
EXPRESSIVE = Vocabulary(text=259, hubert=501, pitch=64, style=100)
TOY = Vocabulary(text=600, hubert=501, pitch=64, style=100, padded=1280, boundary=521)
TOKENIZER = build_tokenizer(VOCABULARY)
NOTHING = np.zeros(0, np.int64)
quick = settings(max_examples=60)


def decode(ids):
    return text_decoder(TOKENIZER, VOCABULARY)(ids)


encode = text_encoder(TOKENIZER, VOCABULARY)


def written(path, ids, vocabulary=VOCABULARY, decode_text=decode) -> str:
    """The representation of one sequence."""
    write_tokens(path / "t.jsonl", [("a", ids)], vocabulary, decode_text)
    row = json.loads((path / "t.jsonl").read_text())
    assert row.keys() == {"file_name", "audio_repr"} and row["file_name"] == "a"
    return row["audio_repr"]


@quick
@given(units=st.lists(st.lists(st.integers(0, 2), max_size=40), max_size=4), name=st.text(min_size=1, max_size=10))
def test_features_are_runs_of_the_raw_units(tmp_path, units, name):
    name = name.encode("utf-8", "replace").decode()
    write_features(tmp_path / "f.jsonl", [(name, Streams(np.array(u, np.int64), NOTHING, NOTHING)) for u in units])
    rows = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == [name] * len(units)
    assert [np.repeat(row["units"], row["duration"]).tolist() for row in rows] == units
    assert all(a != b for row in rows for a, b in zip(row["units"], row["units"][1:], strict=False))


def test_features_have_slamkits_form(tmp_path):
    write_features(tmp_path / "f.jsonl", [("a/b.flac", Streams(np.array([7, 7, 3]), np.array([1]), np.array([2])))])
    assert (tmp_path / "f.jsonl").read_text() == '{"units": [7, 3], "duration": [2, 1], "file_name": "a/b.flac"}\n'


def test_tokens_have_slamkits_form(tmp_path):
    unit, text, speech = VOCABULARY.first["hubert"], VOCABULARY.text_marker, VOCABULARY.speech_marker
    the, sat = encode("the"), encode("sat")
    sequences = [
        ("s", np.array([1, speech, unit + 3, unit + 49, 2])),
        ("i", np.array([1, text, *the, speech, unit + 5, text, *sat, 2])),
    ]
    write_tokens(tmp_path / "t.jsonl", sequences, VOCABULARY, decode)
    assert (tmp_path / "t.jsonl").read_text().splitlines() == [
        '{"file_name": "s", "audio_repr": "<Un3><Un49>"}',
        '{"file_name": "i", "audio_repr": "<text>the<speech><Un5><text> sat"}',
    ]


words = st.lists(st.text("aä世🙂,.'", min_size=1, max_size=6), min_size=1, max_size=4).map(" ".join)
spans = st.lists(st.tuples(st.lists(st.integers(0, 500), min_size=1, max_size=9), words), min_size=1, max_size=4)


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def text(request):
    """Vocabulary, encoder and decoder of the embedded tokenizer, and of the release's at toy size."""
    toy = request.param == "sentencepiece"
    tokenizer = build_exact_tokenizer(FOLDER / "toy_tokenizer.model") if toy else TOKENIZER
    vocabulary = TOY if toy else VOCABULARY
    return vocabulary, text_encoder(tokenizer, vocabulary), text_decoder(tokenizer, vocabulary)


@quick
@given(spans=spans, speech_first=st.booleans())
def test_interleaved_tokens_are_markers_units_and_texts_in_order(tmp_path, text, spans, speech_first):
    vocabulary, encode_text, decode_text = text
    parts, expected = [], []
    for units, content in spans:
        spoken = (vocabulary.speech_marker, [vocabulary.first["hubert"] + u for u in units])
        order = 1 if speech_first else -1
        parts += [spoken, (vocabulary.text_marker, encode_text(content))][::order]
        expected += ["<speech>" + "".join(f"<Un{u}>" for u in units), f"<text> {content}"][::order]
    ids = vocabulary.prompt_ids(parts[0][0]) + list(parts[0][1])
    ids += [i for marker, tokens in parts[1:] for i in (marker, *tokens)] + [2]
    expected[0] = expected[0].replace(
        "<text> ", "<text>"
    )  # a word brings its space along where something stands before it
    assert written(tmp_path, np.array(ids), vocabulary, decode_text) == "".join(expected)


def test_pitch_and_style_are_left_out(tmp_path):
    ids = encode_utterance(Streams(np.array([5, 6]), np.array([1]), np.array([2])), EXPRESSIVE)
    assert written(tmp_path, ids, EXPRESSIVE) == "<Un5><Un6>"


def test_an_utterance_without_units_is_empty(tmp_path):
    assert written(tmp_path, encode_utterance(Streams(NOTHING, NOTHING, NOTHING), VOCABULARY)) == ""

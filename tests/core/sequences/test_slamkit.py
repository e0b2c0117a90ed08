"""slamkit's files come back as what they were written from, and a line that is not in their form is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.release import FOLDER
from tinywave_core.errors import SourceError
from tinywave_core.sequences import text_corpus
from tinywave_core.sequences.interleaving import text_decoder, text_encoder
from tinywave_core.sequences.slamkit import read_features, read_tokens, write_features, write_tokens
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


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@quick
@given(units=st.lists(st.lists(st.integers(0, 2), max_size=40), max_size=4), name=st.text(min_size=1, max_size=10))
def test_features_come_back_as_the_raw_units(tmp_path, units, name):
    name = name.encode("utf-8", "replace").decode()
    write_features(tmp_path / "f.jsonl", [(name, Streams(np.array(u, np.int64), NOTHING, NOTHING)) for u in units])
    found = list(read_features(tmp_path / "f.jsonl"))
    assert [n for n, _ in found] == [name] * len(units)
    assert [streams.units.tolist() for _, streams in found] == units


def test_features_have_slamkits_form(tmp_path):
    write_features(tmp_path / "f.jsonl", [("a/b.flac", Streams(np.array([7, 7, 3]), np.array([1]), np.array([2])))])
    assert (tmp_path / "f.jsonl").read_text() == '{"units": [7, 3], "duration": [2, 1], "file_name": "a/b.flac"}\n'


def test_features_without_deduplication_and_with_other_fields_are_read(tmp_path):
    row = {"units": [4, 4, 9], "duration": [1, 1, 1], "file_name": "a", "aligned_text": [["a", 0.0, 0.1]]}
    ((name, streams),) = read_features(write(tmp_path / "f.jsonl", row))
    assert name == "a" and streams.units.tolist() == [4, 4, 9]
    assert len(streams.pitch) == len(streams.style) == 0


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
    found = list(read_tokens(tmp_path / "t.jsonl", VOCABULARY, encode))
    assert [(name, ids.tolist()) for name, ids in found] == [(name, ids.tolist()) for name, ids in sequences]


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
def test_interleaved_tokens_come_back_as_the_ids(tmp_path, text, spans, speech_first):
    vocabulary, encode_text, decode_text = text
    parts = []
    for units, content in spans:
        units = [u for i, u in enumerate(units) if i == 0 or u != units[i - 1]]
        spoken = (vocabulary.speech_marker, [vocabulary.first["hubert"] + u for u in units])
        parts += [spoken, (vocabulary.text_marker, encode_text(content))][:: 1 if speech_first else -1]
    ids = vocabulary.prompt_ids(parts[0][0]) + list(parts[0][1])
    ids += [i for marker, tokens in parts[1:] for i in (marker, *tokens)] + [2]
    write_tokens(tmp_path / "t.jsonl", [("a", np.array(ids))], vocabulary, decode_text)
    ((_, found),) = read_tokens(tmp_path / "t.jsonl", vocabulary, encode_text)
    assert found.tolist() == ids


def test_pitch_and_style_are_left_out(tmp_path):
    ids = encode_utterance(Streams(np.array([5, 6]), np.array([1]), np.array([2])), EXPRESSIVE)
    write_tokens(tmp_path / "t.jsonl", [("a", ids)], EXPRESSIVE, decode)
    ((_, found),) = read_tokens(tmp_path / "t.jsonl", EXPRESSIVE)
    assert EXPRESSIVE.decode(found[1:-1]) == "[Speech][Hu5][Hu6]"


def test_an_utterance_without_units_stays_one(tmp_path):
    ids = encode_utterance(Streams(NOTHING, NOTHING, NOTHING), VOCABULARY)
    write_tokens(tmp_path / "t.jsonl", [("a", ids)], VOCABULARY, decode)
    ((_, found),) = read_tokens(tmp_path / "t.jsonl", VOCABULARY)
    assert found.tolist() == ids.tolist() == [1, VOCABULARY.speech_marker, 2]


def test_units_that_were_not_deduplicated_count_once(tmp_path):
    path = write(tmp_path / "t.jsonl", {"file_name": "a", "audio_repr": "<speech><Un5><Un5><Un6>"})
    ((_, found),) = read_tokens(path, VOCABULARY)
    assert VOCABULARY.decode(found[1:-1]) == "[Speech][Hu5][Hu6]"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([], r"f.jsonl, line 2 is \[\]; expected an object"),
        ({"units": [1], "duration": [1]}, 'line 2 has no string under "file_name": null'),
        ({"units": [1], "duration": [1, 2], "file_name": "a"}, "1 units and 2 durations; expected as many"),
        ({"units": "1", "duration": [1], "file_name": "a"}, 'no list under "units": "1"'),
        ({"duration": [1], "file_name": "a"}, 'no list under "units": null'),
        (
            {"units": [1.5], "duration": [1], "file_name": "a"},
            "1.5 among its units; expected whole numbers from 0 to 9999",
        ),
        ({"units": [True], "duration": [1], "file_name": "a"}, "true among its units"),
        ({"units": [-1], "duration": [1], "file_name": "a"}, "-1 among its units"),
        ({"units": [10**30], "duration": [1], "file_name": "a"}, "among its units"),
        ({"units": [1], "duration": [0], "file_name": "a"}, "0 among its duration; expected whole numbers from 1"),
        ({"units": [1], "duration": [10**12], "file_name": "a"}, "among its duration"),
        ({"units": [1, 2], "duration": [2_000_000] * 2, "file_name": "a"}, "4000000 frames; expected a day's"),
    ],
)
def test_a_line_that_is_no_features_is_named(tmp_path, row, words):
    path = write(tmp_path / "f.jsonl", {"units": [1], "duration": [1], "file_name": "a"}, row)
    with pytest.raises(SourceError, match=words):
        list(read_features(path))


@pytest.mark.parametrize(
    ("representation", "words"),
    [
        (None, 't.jsonl, line 2 has no string under "audio_repr": null; expected "<Un3>'),
        ("<Un501>", "line 2: units 501 to 501 do not fit the vocabulary, which has 501"),
        ("hello<Un1>", "line 2: 'hello' at character 0 is no speech; expected a marker before it"),
        ("<Un12345>", "is no speech"),
        ("<Un1>hello", "'hello' at character 5 is no speech"),
        ("<text>a<Un1>", "'<Un1>' at character 7 is no text"),
        ("<text>a [Hu5]", "stands in the text"),
    ],
)
def test_a_line_that_is_no_tokens_is_named(tmp_path, representation, words):
    rows = [{"file_name": "a", "audio_repr": value} for value in ("<Un1>", representation)]
    with pytest.raises(SourceError, match=words):
        list(read_tokens(write(tmp_path / "t.jsonl", *rows), VOCABULARY, encode))


def test_text_without_a_text_tokenizer_is_named(tmp_path):
    path = write(tmp_path / "t.jsonl", {"file_name": "a", "audio_repr": "<text>hello"})
    with pytest.raises(SourceError, match="line 1: there is text, 'hello'; expected units alone"):
        list(read_tokens(path, VOCABULARY))


@pytest.mark.parametrize("line", [b"\xff\xfe", b"{", b"[" * 100_000, b'{"units": [1]'])
def test_a_line_that_is_not_json_is_named(tmp_path, line):
    (tmp_path / "f.jsonl").write_bytes(line + b"\n")
    with pytest.raises(SourceError, match="f.jsonl, line 1 is not JSON"):
        list(read_features(tmp_path / "f.jsonl"))


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_corpus, "LONGEST", 100)
    (tmp_path / "f.jsonl").write_bytes(b"1" * 101)
    with pytest.raises(SourceError, match="line 1 is longer than"):
        list(read_features(tmp_path / "f.jsonl"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SourceError, match="tokens.jsonl does not exist"):
        list(read_tokens(tmp_path / "tokens.jsonl", VOCABULARY))

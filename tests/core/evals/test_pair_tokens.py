"""Pairs as token sequences: markers where the modality changes, recordings joined before they are tokenized, each once."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.core.conftest import babble
from tinywave_core.evals.pair_tokens import Ears, digest, tokenize_pairs
from tinywave_core.evals.suites.base import Pair
from tinywave_core.sequences.interleaving import text_encoder
from tinywave_core.tokenizers.base import SpeechTokenizer
from tinywave_core.tokenizers.codebooks import Codebooks
from tinywave_core.tokenizers.speech import merge
from tinywave_core.tokenizers.text import build_tokenizer


@pytest.fixture
def wavs(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    for i, path in enumerate(paths):
        soundfile.write(path, babble(i, 1.0 + i / 2), 16_000, subtype="FLOAT")
    return paths


class Counting:
    """Codebooks that note how many recordings they were given."""

    def __init__(self, codebooks: Codebooks) -> None:
        self.given = 0
        self.codebooks = codebooks
        self.ears = Ears(SpeechTokenizer("codebooks", codebooks.vocabulary, "test", self))

    def __call__(self, recordings):
        self.given += len(recordings)
        return [self.codebooks.tokenize(each) for each in recordings]


@pytest.fixture
def counting(codebooks: Codebooks) -> Counting:
    return Counting(codebooks)


def tokenized(pairs: list[Pair], counting: Counting, longest: int = 500):
    vocabulary = counting.codebooks.vocabulary
    encode = text_encoder(build_tokenizer(vocabulary), vocabulary)
    return tokenize_pairs(pairs, vocabulary, encode, lambda: counting.ears, longest)


def test_a_recording_is_its_prompt_and_units(counting, wavs):
    (found,) = tokenized([Pair("1", wavs[0], wavs[1])], counting)
    v = counting.codebooks.vocabulary
    units = merge(counting.codebooks.tokenize(babble(0, 1.0)), v)
    assert found.positive.ids.tolist() == [*v.prompt_ids(v.speech_marker), *units]
    assert found.positive.predicted.tolist() == [False] * 2 + [True] * len(units)
    assert found.positive.prompt_length == 2


def test_a_prompt_and_its_continuation_are_heard_as_one_and_cut_in_time(counting, wavs):
    (found,) = tokenized([Pair("1", wavs[1], wavs[2], wavs[0])], counting)
    v = counting.codebooks.vocabulary
    joined = counting.codebooks.tokenize(np.concatenate([babble(0, 1.0), babble(1, 1.5)]))
    ids = merge(joined, v)
    assert found.positive.ids[2:].tolist() == ids.tolist()
    before, after = ids[: found.positive.prompt_length - 2], ids[found.positive.prompt_length - 2 :]
    style = v.first["style"]
    assert (before >= style).sum() == 1 and (
        after >= style
    ).sum() == 2  # the first second, and the two that begin after it


def test_markers_stand_where_the_modality_changes_and_are_given(counting, wavs):
    pairs = [Pair("s→t", "right", "wrong", wavs[0]), Pair("t→s", wavs[0], wavs[1], "once"), Pair("t→t", "b", "c", "a")]
    first, second, third = tokenized(pairs, counting)
    v = counting.codebooks.vocabulary
    heard = first.positive
    assert heard.ids[heard.prompt_length - 1] == v.text_marker and not heard.predicted[heard.prompt_length - 1]
    assert len(heard.ids) - heard.prompt_length == len("right")
    assert second.positive.ids[second.positive.prompt_length - 1] == v.speech_marker
    assert bytes((third.positive.ids[2:] - 3).tolist()) == b"a b" and third.positive.prompt_length == 3


def test_no_recording_is_tokenized_twice(counting, wavs):
    pairs = [Pair("1", wavs[0], wavs[1]), Pair("2", wavs[0], wavs[2])]
    first, again = tokenized(pairs, counting), tokenized(pairs, counting)
    assert counting.given == 3
    assert digest(first) == digest(again) != digest(first[:1])


def test_what_cannot_be_scored_is_kept_with_its_reason(counting, wavs, tmp_path: Path):
    (tmp_path / "bad.wav").write_text("no audio")
    soundfile.write(tmp_path / "short.wav", np.zeros(800, np.float32), 16_000)
    pairs = [
        Pair("bad", wavs[0], tmp_path / "bad.wav"),
        Pair("short", wavs[0], tmp_path / "short.wav"),
        Pair("good", wavs[0], wavs[0]),
        Pair("long", "a" * 300, "b"),
        Pair("token", "[Hu3]", "b"),
    ]
    reasons = {each.pair.id: each.reason for each in tokenized(pairs, counting, longest=250)}
    assert "cannot be read as audio" in reasons["bad"]
    assert reasons["short"] == "it is too short for a token"
    assert reasons["good"] == ""
    assert reasons["long"] == "it has 302 tokens, the model reads 250"
    assert "expected words, not tokens" in reasons["token"]

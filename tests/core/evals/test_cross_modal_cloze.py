"""Items of the cross-modal cloze: the second half of an utterance against another's, in four directions."""

import numpy as np
import pytest

from tinywave_core.alignment.words import Word
from tinywave_core.config.evaluation import EvaluationConfig
from tinywave_core.evals.cross_modal_cloze import DIRECTIONS, Timed, cross_modal_items
from tinywave_core.sequences.interleaving import text_encoder
from tinywave_core.tokenizers.speech import Streams
from tinywave_core.tokenizers.text import build_tokenizer
from tinywave_core.tokenizers.vocabulary import BYTE_TEXT, Vocabulary

VOCABULARY = Vocabulary(BYTE_TEXT, hubert=100)
ENCODE = text_encoder(build_tokenizer(VOCABULARY), VOCABULARY)
EMPTY = np.zeros(0, np.int64)


def utterance(name: str, units: range, words: str, speaker: str | None = None) -> Timed:
    """Words of half a second; a unit of its own in each frame of 40 ms."""
    texts = words.split()
    times = [Word(text, 8000 * i, 8000 * (i + 1)) for i, text in enumerate(texts)]
    streams = Streams(np.array(units, np.int64), EMPTY, EMPTY)
    return Timed(name, f"r-{name}", speaker, 8000 * len(texts), streams, tuple(times))


A, B = utterance("a", range(50), "a b c d"), utterance("b", range(50, 100), "e f g h")
CONFIG = EvaluationConfig(cloze_min_words=2)


def string_of(ids: np.ndarray) -> str:
    text = {i: build_tokenizer(VOCABULARY).decode([int(i)]) for i in set(ids.tolist()) if i < BYTE_TEXT}
    return "".join(text[i] if i < BYTE_TEXT else VOCABULARY.decode([i]) for i in ids.tolist())


def items(utterances: list[Timed], max_length: int = 200):
    return cross_modal_items(utterances, VOCABULARY, ENCODE, CONFIG, max_length)


def item(direction: str):
    (found,) = [i for i in items([A, B])[direction] if i.utterance_id == "a"]
    return found


def names(units: range) -> str:
    return "".join(f"[Hu{u}]" for u in units)


@pytest.mark.parametrize(
    ("direction", "head", "right", "wrong"),
    [
        ("T→T", "[Text]a b", " c d", " g h"),
        ("S→T", f"[Speech]{names(range(25))}[Text]", "c d", "g h"),
        ("T→S", "[Text]a b[Speech]", names(range(25, 50)), names(range(75, 100))),
        ("S→S", f"[Speech]{names(range(25))}", names(range(25, 50)), names(range(75, 100))),
    ],
)
def test_an_item_has_the_first_half_and_both_second_halves_in_their_modalities(direction, head, right, wrong):
    found = item(direction)
    assert string_of(found.right[1:]) == head + right  # without <s>
    assert string_of(found.wrong[1:]) == head + wrong
    assert string_of(found.right[1 : found.prompt_length]) == head


def test_every_direction_asks_about_the_same_utterances():
    found = items([A, B, utterance("c", range(30, 80), "i j k l")])
    pairs = {name: {(i.utterance_id, i.other_id) for i in found[name]} for name in DIRECTIONS}
    assert len({frozenset(each) for each in pairs.values()}) == 1 and len(pairs["S→S"]) == 3


def test_continuations_are_of_another_speaker_where_speakers_are_known():
    mine, same = utterance("m", range(50), "a b c d", "x"), utterance("n", range(50), "e f g h", "x")
    assert items([mine, same]) == {}
    (found,) = [
        i for i in items([mine, same, utterance("o", range(50), "i j k l", "y")])["T→T"] if i.utterance_id == "m"
    ]
    assert found.other_id == "o"


def test_short_utterances_and_items_longer_than_the_model_reads_are_left_out():
    assert items([A, utterance("short", range(50), "a b c")]) == {}
    assert set(items([A, B], max_length=20)) == {"T→T"}

"""Pocketsphinx on real speech: what it lacks in words and what it loses, and that nothing depends on what came before."""

import sys

import numpy as np
import pytest
import soundfile

from tests.fixtures.tiny import EXAMPLES
from tinywave_core.alignment.base import Refusal
from tinywave_core.alignment.sphinx import SphinxAligner, rough_pronunciation
from tinywave_core.alignment.words import Word
from tinywave_core.errors import ConfigError

READER = EXAMPLES / "LibriSpeech" / "test-other" / "2609" / "156975"
SECOND = 16_000


@pytest.fixture(scope="module")
def clips() -> list[tuple[np.ndarray, str]]:
    lines = (READER / "2609-156975.trans.txt").read_text().splitlines()[:4]
    texts = [line.split(" ", 1) for line in lines]
    return [(soundfile.read(READER / f"{name}.opus", dtype="float32")[0], text) for name, text in texts]


@pytest.fixture(scope="module")
def sphinx() -> SphinxAligner:
    return SphinxAligner()


def aligned(sphinx: SphinxAligner, samples: np.ndarray, text: str) -> list[Word]:
    found = sphinx.align(samples, text)
    assert isinstance(found, list), found
    return found


def test_words_are_the_same_in_whatever_order_utterances_come(sphinx: SphinxAligner, clips: list):
    forward = [sphinx.align(*clip) for clip in clips]
    assert [sphinx.align(*clip) for clip in reversed(clips)] == forward[::-1]


def test_words_that_the_dictionary_lacks_lie_where_the_words_did_that_they_sound_like(
    sphinx: SphinxAligner, clips: list
):
    """The same speech with words respelled: every edge stays within 50 ms, and their confidence falls."""
    samples, text = clips[0]
    words = text.split()
    longest = sorted(range(len(words)), key=lambda n: -len(words[n]))[:2]
    respelled = [f"{word}QE" if n in longest else word for n, word in enumerate(words)]
    right, rough = aligned(sphinx, samples, text), aligned(sphinx, samples, " ".join(respelled))
    assert [word.text for word in rough] == respelled
    for n, (a, b) in enumerate(zip(right, rough, strict=True)):
        assert abs(a.start_samples - b.start_samples) <= 800 and abs(a.end_samples - b.end_samples) <= 800
        assert n not in longest or (b.confidence or 0) < (a.confidence or 0)


def test_a_word_of_another_script_lies_between_its_neighbours_without_confidence(sphinx: SphinxAligner, clips: list):
    samples, text = clips[0]
    first, *rest = text.split()
    words = aligned(sphinx, samples, " ".join([first, "мир", *rest]))
    assert [word.confidence is None for word in words[:3]] == [False, True, False]
    assert words[0].end_samples <= words[1].start_samples < words[1].end_samples <= words[2].start_samples


def test_plurals_and_possessives_of_words_in_the_dictionary_are_known(sphinx: SphinxAligner, clips: list):
    found = sphinx.align(clips[0][0], "churchyards aardvark's churchyard")
    assert not isinstance(found, Refusal) or found.reason != "out_of_dictionary_share"
    assert not {"churchyards", "aardvark's"} & sphinx._rough


def test_a_transcript_in_words_that_nobody_knows_is_refused(sphinx: SphinxAligner, clips: list):
    found = sphinx.align(clips[0][0], "Sie ist nach der Kreisstadt Weißenburg benannt und liegt weitab")
    assert isinstance(found, Refusal) and found.reason == "out_of_dictionary_share"


def test_a_last_word_that_is_lost_is_noticed(sphinx: SphinxAligner, clips: list, monkeypatch: pytest.MonkeyPatch):
    """The decoder can end before the last word, and says nothing."""

    class Losing:
        def __init__(self, decoder: object) -> None:
            self.decoder = decoder

        def __getattr__(self, name: str) -> object:
            return getattr(self.decoder, name)

        def seg(self) -> list[object]:
            found = list(self.decoder.seg())  # type: ignore[attr-defined]
            return found[: max(n for n, each in enumerate(found) if each.word[0] not in "<[(")]

    monkeypatch.setattr(sphinx, "_decoder", Losing(sphinx._decoder))
    found = sphinx.align(*clips[0])
    assert isinstance(found, Refusal) and found.reason == "word_count"


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(1), np.zeros(3 * SECOND), np.full(SECOND, np.nan)])
def test_sound_that_holds_no_words_is_refused(sphinx: SphinxAligner, samples: np.ndarray):
    found = sphinx.align(samples.astype(np.float32), "a sentence of five words")
    assert isinstance(found, Refusal) and found.reason == "failed"


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ConfigError, match=r"pip install 'tinywave\[alignment\]'"):
        SphinxAligner()


@pytest.mark.parametrize(
    ("letters", "phones"), [("quick", "K W IH K"), ("nation", "N AE SH AH N"), ("plate", "P L AE T")]
)
def test_rough_pronunciations_go_by_the_letters(letters: str, phones: str):
    assert rough_pronunciation(letters) == phones


def test_phones_lie_in_their_words_and_are_those_of_the_dictionary(sphinx: SphinxAligner, clips: list):
    samples, text = clips[0]
    found = sphinx.align_phones(samples, text)
    assert not isinstance(found, Refusal)
    words, phones = found
    assert words == aligned(sphinx, samples, text)  # the second pass changes nothing
    for word in words:
        inside = [p for p in phones if word.start_samples <= p.start_samples < word.end_samples]
        assert inside and inside[0].start_samples == word.start_samples and inside[-1].end_samples == word.end_samples
    assert "SIL" not in {phone.text for phone in phones}
    assert sphinx.align_phones(samples, text) == found


def test_phones_of_another_transcript_are_refused_as_words_are(sphinx: SphinxAligner, clips: list):
    assert isinstance(sphinx.align_phones(clips[0][0][:3200], clips[1][1]), Refusal)

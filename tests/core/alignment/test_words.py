"""Words with times from files and from pocketsphinx, and what is refused by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.fixtures.tiny import EXAMPLES
from tinywave_core.alignment.base import Refusal
from tinywave_core.alignment.checks import check
from tinywave_core.alignment.normalize import spoken_words, written_words
from tinywave_core.alignment.readers import open_alignments, words_of_cut
from tinywave_core.alignment.sphinx import SphinxAligner
from tinywave_core.alignment.untimed import interpolate
from tinywave_core.alignment.words import Word
from tinywave_core.errors import SourceError

SECOND = 16_000
CHAPTER = EXAMPLES / "LibriSpeech" / "test-other" / "2033" / "164914"


def word(text: str, start: float, end: float, confidence: float | None = None) -> Word:
    return Word(text, round(start * SECOND), round(end * SECOND), confidence)


GOOD = [word("one", 0.1, 0.4), word("two", 0.5, 0.8), word("three", 0.9, 1.3), word("four", 1.4, 1.8)]

# Checks ------------------------------------------------------------------------------------------------------------


def test_words_in_order_that_fill_their_clip_are_accepted():
    assert check(GOOD, 2 * SECOND, transcript="one two three four") is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([*GOOD[:2], word("three", 0.7, 1.2), GOOD[3]], "overlap"),
        ([*GOOD[:2], word("three", 1.2, 1.0), GOOD[3]], "backwards"),
        ([word("one", -0.2, 0.4), *GOOD[1:]], "before_start"),
        ([*GOOD[:3], word("four", 1.4, 2.5)], "past_end"),
        (GOOD[:3], "word_count"),
        ([word(w.text, w.start_samples / SECOND, w.end_samples / SECOND, 0.01) for w in GOOD], "low_confidence"),
    ],
)
def test_impossible_alignments_are_refused_by_name(words: list[Word], reason: str):
    found = check(words, 2 * SECOND, transcript="one two three four", min_confidence=0.1)
    assert found is not None and found.reason == reason


@pytest.mark.parametrize(("unsure", "reason"), [(1, None), (2, "low_confidence")])
def test_one_word_in_four_may_be_unsure(unsure: int, reason: str | None):
    words = [replace(each, confidence=0.01 if n < unsure else 0.5) for n, each in enumerate(GOOD)]
    found = check(words, 2 * SECOND, min_confidence=0.1)
    assert (found and found.reason) == reason


def row(number: int, every: float, lasting: float) -> list[Word]:
    return [word(str(n), every * n, every * n + lasting) for n in range(number)]


@pytest.mark.parametrize(
    ("words", "seconds", "said"),
    [
        (row(8, 1.8, 0.9), 16, "0.5 words per second"),
        (row(40, 0.125, 0.12), 5, "8.0 words per second"),
        (row(10, 0.4, 0.3), 10, "words cover 30% of the audio"),
        ([*row(4, 0.05, 0.04), word("a", 0.2, 1.1), word("b", 1.1, 2.0)], 2, "67% of the words are under 50 ms"),
        (row(8, 1.3, 1.2), 11, "100% of the words are over 1 s"),
    ],
)
def test_a_transcript_of_something_else_shows_in_its_durations(words: list[Word], seconds: int, said: str):
    found = check(words, seconds * SECOND)
    assert found is not None and found.reason == "mismatch" and said in found.detail


# Files -------------------------------------------------------------------------------------------------------------

LONG = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2
tiers? <exists>
size = 1
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 2
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = "hello"
        intervals [2]:
            xmin = 0.5
            xmax = 1.0
            text = ""
        intervals [3]:
            xmin = 1.0
            xmax = 2
            text = "the ""world"""
'''
SHORT = '"ooTextFile"\n"TextGrid"\n0 2 <exists> 1\n"IntervalTier" "words" 0 2 2\n0 0.5 "hello"\n1.0 2 "world"\n'


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.TextGrid", LONG, [word("hello", 0, 0.5), word('the "world"', 1, 2)]),
        ("a.TextGrid", SHORT, [word("hello", 0, 0.5), word("world", 1, 2)]),
        ("a.ctm", "a 1 0.0 0.5 hello\na 1 1.0 1.0 world 0.5\n", [word("hello", 0, 0.5), word("world", 1, 2, 0.5)]),
        (
            "a.json",
            '{"aligned_text": [["hello", 0, 0.5], ["world", 1, 2]]}',
            [word("hello", 0, 0.5), word("world", 1, 2)],
        ),
        (
            "words.csv",
            "path,word,start,end\nx/a.flac,hello,0,0.5\nx/a.flac,world,1,2\n",
            [word("hello", 0, 0.5), word("world", 1, 2)],
        ),
    ],
)
def test_the_words_of_a_recording_are_found_by_its_path_in_every_form(
    tmp_path: Path, name: str, text: str, expected: list
):
    (tmp_path / name).write_text(text)
    place = tmp_path / name if name.endswith(".csv") else tmp_path
    alignments = open_alignments(str(place), ["x/a.flac", "x/b.flac"])
    assert alignments.words("x/a.flac") == expected
    assert alignments.words("x/b.flac") is None


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.ctm", "a 1 0.0 hello\n", "line 1: has 4 fields"),
        ("a.ctm", "a 1 zero 0.5 hello\n", "line 1: has the time 'zero'"),
        ("a.TextGrid", LONG[:300], "cut short"),
        ("a.json", '{"aligned_text": [["hello", 0]]}', "word 1.*expected .word, start in s, end in s"),
        ("a.json", "{", "is not JSON"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path: Path, name: str, text: str, said: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=rf"{name}.*{said}"):
        open_alignments(str(tmp_path), ["a.flac"]).words("a.flac")


def test_a_cut_of_a_recording_keeps_the_words_wholly_inside_it():
    found = words_of_cut(GOOD, round(0.45 * SECOND), round(0.9 * SECOND))
    assert [(w.text, w.start_samples) for w in found] == [("two", 800), ("three", 7200)]


# Transcripts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("1734", "seventeen thirty four"),
        ("20%", "twenty percent"),
        ("$3.50", "three dollars fifty"),
        ("2nd", "second"),
        ("Mr.", "mister"),
        ("well-known,", "well known"),
        ("don\u2019t", "don't"),
        ("\u201cYes!\u201d", "yes"),
    ],
)
def test_what_is_written_is_said_in_words_of_the_dictionary(written: str, said: str):
    assert " ".join(spoken_words(written)) == said


def test_words_of_a_transcript_are_the_transcript_again():
    text = "“Well-known,” she said — in 1734!"
    assert " ".join(w.text for w in written_words(text)) == text


def test_a_word_without_a_time_gets_one_between_its_neighbours():
    found = interpolate(["a", "bb", "c"], [word("a", 0, 1), None, word("c", 2, 3)], 4 * SECOND)
    assert found[1] == word("bb", 1, 2)


# Pocketsphinx ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips() -> dict[str, tuple[np.ndarray, str]]:
    lines = (CHAPTER / "2033-164914.trans.txt").read_text().splitlines()
    texts = dict(line.split(" ", 1) for line in lines)
    return {name: (soundfile.read(CHAPTER / f"{name}.opus", dtype="float32")[0], text) for name, text in texts.items()}


@pytest.fixture(scope="module")
def sphinx() -> SphinxAligner:
    return SphinxAligner()


def accepted(sphinx: SphinxAligner, samples: np.ndarray, text: str) -> bool:
    found = sphinx.align(samples, text)
    if isinstance(found, Refusal):
        return False
    return check(found, len(samples), transcript=text, min_confidence=sphinx.min_confidence) is None


def test_right_transcripts_are_aligned_word_for_word(sphinx: SphinxAligner, clips: dict):
    assert sum(accepted(sphinx, *clip) for clip in clips.values()) >= len(clips) - 1
    samples, text = next(iter(clips.values()))
    found = sphinx.align(samples, text)
    assert isinstance(found, list) and [w.text for w in found] == text.split()


def test_transcripts_of_other_recordings_are_noticed(sphinx: SphinxAligner, clips: dict):
    names = sorted(clips)
    swapped = [(clips[a][0], clips[b][1]) for a, b in zip(names, names[1:] + names[:1], strict=True)]
    assert not any(accepted(sphinx, *clip) for clip in swapped)


def test_a_pause_lies_between_words(sphinx: SphinxAligner, clips: dict):
    """Two recordings with a second of silence between them: the words of the second begin after it."""
    (first, text), (second, more) = list(clips.values())[:2]
    joined = np.concatenate([first, np.zeros(SECOND, np.float32), second])
    found = sphinx.align(joined, f"{text} {more}")
    assert isinstance(found, list)
    after = found[len(text.split())]
    assert after.start_samples >= len(first) + SECOND - 1600
    assert found[len(text.split()) - 1].end_samples <= len(first) + 4800


def test_what_cannot_be_aligned_is_refused_and_never_raised(sphinx: SphinxAligner):
    assert isinstance(sphinx.align(np.zeros(SECOND, np.float32), "…"), Refusal)
    assert isinstance(sphinx.align(np.zeros(800, np.float32), "a very long sentence for so little sound"), Refusal)

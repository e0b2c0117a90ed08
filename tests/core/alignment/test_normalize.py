"""Transcripts as they are said, word by word, and back."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinywave_core.alignment.base import Refusal
from tinywave_core.alignment.normalize import as_written, spoken_words, written_words
from tinywave_core.alignment.words import Word


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("1906", "nineteen oh six"),
        ("2005", "two thousand five"),
        ("1,734", "one thousand seven hundred thirty four"),
        ("1914–1918", "nineteen fourteen nineteen eighteen"),
        ("1840s", "eighteen forties"),
        ("100th", "one hundredth"),
        ("21st", "twenty first"),
        ("3.14", "three point one four"),
        ("-5", "minus five"),
        ("007", "zero zero seven"),
        ("10:05", "ten oh five"),
        ("$1,000,", "one thousand dollars"),
        ("£1", "one pound"),
        ("AT&T", "at and t"),
        ("U.S.", "u s"),
        ("Mrs", "missus"),
        ("naïve", "naive"),
        ("O’Clock", "o'clock"),
        ("‘boys’", "boys"),
        ("мир", ""),
    ],
)
def test_numbers_signs_and_quotes_are_said_as_a_reader_says_them(written: str, said: str):
    assert " ".join(spoken_words(written)) == said


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("019$%&.,:-'’“”stndh ")), max_size=30))
def test_whatever_is_written_only_dictionary_words_are_said_and_no_mark_is_lost(text: str):
    words = written_words(text)
    assert all(re.fullmatch(r"[a-z]+('[a-z]+)*", part) for word in words for part in word.spoken)
    assert not words or " ".join(word.text for word in words) == " ".join(text.split())


def test_a_mark_on_its_own_belongs_to_the_word_before_it():
    assert [(word.text, word.spoken) for word in written_words("— So — they & we …")] == [
        ("— So —", ("so",)),
        ("they", ("they",)),
        ("&", ("and",)),
        ("we …", ("we",)),
    ]


def times(*texts: str) -> list[Word]:
    return [Word(text, 1000 * n, 1000 * n + 900, 0.5) for n, text in enumerate(texts)]


def test_words_of_an_aligner_are_put_back_as_the_transcript_writes_them():
    found = as_written(times("jean", "luc", "paid", "twenty", "dollars", "<unk>"), "Jean-Luc paid $20, Søren!")
    assert found == [
        Word("Jean-Luc", 0, 1900, 0.5),
        Word("paid", 2000, 2900, 0.5),
        Word("$20,", 3000, 4900, 0.5),
        Word("Søren!", 5000, 5900, 0.5),
    ]


@pytest.mark.parametrize("texts", [("one", "three"), ("one",), ("one", "two", "three"), ()])
def test_words_of_another_transcript_are_refused(texts: tuple[str, ...]):
    found = as_written(times(*texts), "One two.")
    assert isinstance(found, Refusal) and found.reason == "word_count"

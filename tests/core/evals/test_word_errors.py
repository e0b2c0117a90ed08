"""Word errors by hand, in several scripts."""

import pytest

from tinywave_core.evals.word_errors import Compared, compare, distance, word_errors, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't -- she said; STOP!", ["don't", "she", "said", "stop"]),
        ("‘Quoted’ and rock’n’roll", ["quoted", "and", "rock'n'roll"]),
        ("Straße, GROẞ und Äpfel", ["strasse", "gross", "und", "äpfel"]),
        ("A\u0308pfel", ["äpfel"]),
        ("twenty-one 21", ["twenty", "one", "21"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा"]),
        ("Я помню, ЧУДНОЕ", ["я", "помню", "чудное"]),
        ("今日は、晴れ。", ["今", "日", "は", "晴", "れ"]),
        ("", []),
        ("?! …", []),
    ],
)
def test_spelling_alone_makes_no_other_word(text: str, expected: list[str]):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("reference", "heard", "errors", "length"),
    [
        ("the sea is calm", "The sea, is calm.", 0, 4),
        ("the sea is calm", "the sea was calm", 1, 4),  # substituted
        ("the sea is calm", "the calm", 2, 4),  # missing
        ("the sea", "the the sea to night", 3, 2),  # added
        ("the sea", "", 2, 2),
    ],
)
def test_substituted_missing_and_added_words_are_errors(reference: str, heard: str, errors: int, length: int):
    assert compare(reference, heard) == Compared(errors, length)


def test_the_distance_is_the_fewest_edits():
    assert distance("kitten", "sitting") == 3 and distance("", "abc") == 3 and distance([1, 2], [1, 2]) == 0


def test_the_rate_is_a_ratio_of_sums_and_empty_references_are_left_out():
    found = word_errors([("one two three", "one two three"), ("four", "five"), ("", "heard")], seed=0)
    assert found is not None
    assert (found.errors, found.words, found.utterances) == (1, 4, 2)
    assert found.rate == 0.25  # not 0.5, the mean of the rates
    assert found.interval == (0.0, 1.0)
    assert word_errors([("", "heard")], seed=0) is None

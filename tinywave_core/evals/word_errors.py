"""Texts -> word errors: how many words were substituted, left out or added, after what spelling alone decides is taken away.

For any language: letters are folded by Unicode (NFKC, case), marks of writing and punctuation go, apostrophes inside words stay. In
scripts that are written without spaces (Chinese, Japanese, Thai and their like) each character is a word, so that there it is a
character error rate. Numbers are not spelled out: "3" and "three" are two words.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from tinywave_core.evals.figures import WordErrors
from tinywave_core.evals.intervals import bootstrap_interval

UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
_APOSTROPHES = "'\u2019\u02bc"


@dataclass(frozen=True)
class Compared:
    """One text against its reference."""

    errors: int
    words: int
    """Of the reference."""


def words(text: str) -> list[str]:
    """The words of a text as they are compared."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    spaced = "".join(f" {c} " if _stands_alone(c) else _kept(c) for c in folded)
    return [word for part in spaced.split() if (word := part.strip("'"))]


def _kept(character: str) -> str:
    if character in _APOSTROPHES:
        return "'"
    return character if unicodedata.category(character)[0] in "LMN" else " "


def _stands_alone(character: str) -> bool:
    return unicodedata.category(character) == "Lo" and unicodedata.name(character, "").startswith(UNSPACED)


def compare(reference: str, heard: str) -> Compared:
    """Fewest substitutions, deletions and insertions of words between two texts (Levenshtein)."""
    expected, found = words(reference), words(heard)
    return Compared(distance(expected, found), len(expected))


def distance(expected: Sequence[object], found: Sequence[object]) -> int:
    """Fewest substitutions, deletions and insertions that make one sequence the other."""
    row = list(range(len(found) + 1))
    for i, item in enumerate(expected, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(found, start=1):
            before, row[j] = row[j], min(before + (item != other), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def word_errors(pairs: Sequence[tuple[str, str]], seed: int) -> WordErrors | None:
    """The rate over (reference, heard) texts: a ratio of sums; references without a word are left out. None where none is left."""
    compared = [c for reference, heard in pairs if (c := compare(reference, heard)).words]
    if not compared:
        return None
    errors, lengths = [c.errors for c in compared], [c.words for c in compared]
    return WordErrors(
        rate=sum(errors) / sum(lengths),
        interval=bootstrap_interval(errors, lengths, seed),
        errors=sum(errors),
        words=sum(lengths),
        utterances=len(compared),
    )

"""English transcript -> words as they are spoken, for a pronunciation dictionary or a vocabulary of letters.

Each word of the transcript keeps its own text beside the lower-case words that are said for it: "$20," has "twenty" and
"dollars", "Jean-Luc" has "jean" and "luc". Marks that nobody says, such as a dash on its own, belong to the word before.
Numbers are read in English only. The package num2words would do it too, but depends on docopt, which has been abandoned
since 2014 and has no wheel.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tinywave_core.alignment.base import Refusal
from tinywave_core.alignment.words import Word

ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))
ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
ORDINALS |= {"twelve": "twelfth"}
SYMBOLS = {"&": "and", "+": "plus", "%": "percent", "=": "equals", "@": "at", "#": "number", "°": "degrees"}
SYMBOLS |= {"§": "section", "×": "times", "~": "about"}
CURRENCIES = {"$": ("dollar", "dollars"), "£": ("pound", "pounds"), "€": ("euro", "euros"), "¥": ("yen", "yen")}
ABBREVIATIONS = {"mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint", "prof": "professor", "vs": "versus"}
ABBREVIATIONS |= {
    "jr": "junior",
    "sr": "senior",
    "capt": "captain",
    "col": "colonel",
    "gen": "general",
    "lt": "lieutenant",
}
ABBREVIATIONS |= {"etc": "et cetera"}
LETTERS = str.maketrans(
    {"’": "'", "‘": "'", "ʼ": "'", "`": "'", "–": "-", "—": "-", "‐": "-", "−": "-", "⁄": "/"}
    | {"æ": "ae", "œ": "oe", "ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ð": "th", "þ": "th"}
)
NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
TOKEN = re.compile(
    rf"(?P<money>[$£€¥](?:{NUMBER}))|(?P<time>\d{{1,2}}:\d\d)(?!\d)|(?P<ordinal>\d[\d,]*)(?:st|nd|rd|th)(?![a-z])"
    rf"|(?P<plural>\d+)'?s(?![a-z])|(?P<number>(?:(?<![\w.])-)?(?:{NUMBER}))"
    r"|(?P<initials>(?:[a-z]\.){2,}(?:[a-z](?![a-z]))?)|(?P<word>[a-z]+(?:'[a-z]+)*)(?P<stop>\.?)|(?P<symbol>\S)"
)


@dataclass(frozen=True)
class Written:
    """One word of a transcript."""

    text: str
    """As the transcript writes it, with its punctuation; a mark on its own follows after a space."""
    spoken: tuple[str, ...]
    """Lower-case words of the letters a-z and inner apostrophes; empty where there is nothing English to say."""


def written_words(transcript: str) -> list[Written]:
    """The words of a transcript. Joined by spaces they are the transcript again, but for its white space."""
    words: list[Written] = []
    opening = ""  # marks before the first word
    for text in transcript.split():
        if any(character.isalnum() for character in text) or spoken_words(text):
            words.append(Written(f"{opening}{text}", spoken_words(text)))
            opening = ""
        elif words:
            words[-1] = replace(words[-1], text=f"{words[-1].text} {text}")
        else:
            opening += f"{text} "
    return words


def spoken_words(text: str) -> tuple[str, ...]:
    """The spoken form of one written word, such as (twenty, percent) for "20%"."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).lower().translate(LETTERS))
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return tuple(word for match in TOKEN.finditer(plain) for word in _spoken_form(match))


def as_written(words: Sequence[Word], transcript: str) -> list[Word] | Refusal:
    """Words of another writing of a transcript (upper case, no punctuation, split at hyphens), as the transcript writes them.

    `<unk>`, which MFA puts for what its dictionary lacks, stands for any one word.
    """
    joined, used = list[Word](), 0
    for written in written_words(transcript):
        own = _own(words[used:], {_letters(written.text), "".join(written.spoken).replace("'", "")})
        if not own:
            other = repr(words[used].text) if used < len(words) else "no more words"
            return Refusal(
                "word_count",
                f"word {len(joined) + 1} of the transcript is {written.text!r}, where the alignment has {other}; "
                "expected the alignment of this transcript",
            )
        confidences = [word.confidence for word in own if word.confidence is not None]
        confidence = sum(confidences) / len(confidences) if confidences else None
        joined.append(Word(written.text, own[0].start_samples, own[-1].end_samples, confidence))
        used += len(own)
    if used < len(words):
        return Refusal("word_count", f"the transcript ends before {words[used].text!r} of the alignment")
    return joined


def number_words(number: int) -> list[str]:
    """A whole number of 0 to 10^15 - 1, as Americans say it: without "and"."""
    if number < 20:
        return [ONES[number]]
    for size, name in SCALES:
        if number >= size:
            rest = number % size
            return [*number_words(number // size), name, *(number_words(rest) if rest else [])]
    return [TENS[number // 10], *([ONES[number % 10]] if number % 10 else [])]


def year_words(year: int) -> list[str]:
    """A year of four digits in pairs; 2000 to 2009 and whole thousands as numbers."""
    pairs, rest = divmod(year, 100)
    if pairs % 10 == 0 and rest < 10:
        return number_words(year)
    tail = ["hundred"] if not rest else ["oh", ONES[rest]] if rest < 10 else number_words(rest)
    return [*number_words(pairs), *tail]


def _spoken_form(match: re.Match[str]) -> Iterator[str]:
    kind, text = str(match.lastgroup), match[0]
    if kind == "stop":
        word = match["word"]
        yield from ABBREVIATIONS.get(word, word).split() if match["stop"] or word in ("mr", "mrs") else [word]
    elif kind == "initials":
        yield from re.findall("[a-z]", text)
    elif kind == "symbol":
        yield from [SYMBOLS[text]] if text in SYMBOLS else []
    elif kind == "number":
        yield from _number(text)
    elif kind == "money":
        yield from _money(text)
    elif kind == "time":
        hours, minutes = map(int, text.split(":"))
        yield from number_words(hours)
        yield from ["oh", ONES[minutes]] if 0 < minutes < 10 else number_words(minutes) if minutes else []
    elif kind == "ordinal":
        *first, last = _number(match["ordinal"].replace(",", ""), year=False)
        yield from [*first, ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")]
    else:
        *first, last = _number(match["plural"])
        yield from [*first, f"{last[:-1]}ies" if last.endswith("y") else f"{last}es" if last[-1] == "x" else f"{last}s"]


def _number(text: str, *, year: bool = True) -> list[str]:
    if text.startswith("-"):
        return ["minus", *_number(text[1:], year=False)]
    whole, _, decimals = text.partition(".")
    digits = whole.replace(",", "")
    if (len(digits) > 1 and digits[0] == "0") or len(digits) > 15:  # telephone numbers and the like
        spoken_digits = [ONES[int(digit)] for digit in digits]
    elif year and len(whole) == 4 and 1100 <= int(digits) < 2100 and not decimals:
        spoken_digits = year_words(int(digits))
    else:
        spoken_digits = number_words(int(digits))
    return [*spoken_digits, *(["point", *(ONES[int(digit)] for digit in decimals)] if decimals else [])]


def _money(text: str) -> list[str]:
    one, many = CURRENCIES[text[0]]
    whole, _, cents = text[1:].partition(".")
    parts = [*_number(whole, year=False), one if whole == "1" else many]
    return [*parts, *(number_words(int(cents)) if len(cents) == 2 and int(cents) else [])]


def _own(words: Sequence[Word], writings: set[str]) -> Sequence[Word]:
    """The first words, as many as together make one of these writings; none if they make another word."""
    joined = ""
    for number, word in enumerate(words, start=1):
        joined += _letters(word.text)
        if joined in writings or (number == 1 and word.text == "<unk>"):
            return words[:number]
        if not any(writing.startswith(joined) for writing in writings):
            break
    return ()


def _letters(text: str) -> str:
    """What all writings of a word share."""
    return "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if c.isalnum()) or text

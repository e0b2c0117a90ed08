"""Bytes of a label file -> text, by what marks its encoding; and text -> one clean line.

A byte-order mark says UTF-8, UTF-16 or UTF-32. What has none must be UTF-8: Windows-1252, Latin-1 and their kin cannot be told apart,
and a wrong guess would train on garbage.
"""

import codecs
import unicodedata

# UTF-32's mark begins with that of UTF-16, so it is asked for first.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def decode(data: bytes) -> str:
    """The text of a file; UnicodeError where it is neither marked nor UTF-8."""
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")
    text = data.decode(encoding)
    if "\0" in text:  # UTF-16 without a mark passes as UTF-8 with a zero behind each letter
        raise UnicodeError("it has zero bytes, which no text has")
    return text


def lines(text: str) -> list[str]:
    """Its lines that are not empty. Not `str.splitlines`, which ends a line at characters that stand inside sentences."""
    return [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]


def clean(text: str | None) -> str | None:
    """One line without control characters, in NFC; None if nothing is left."""
    if text is None:
        return None
    line = unicodedata.normalize("NFC", text)
    if not line.isprintable():  # nearly all is, and asking each character takes ten times as long
        line = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in line)
    return " ".join(line.split()) or None

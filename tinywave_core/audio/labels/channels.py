"""Which channel a label is of: a column of a table, or the end of a file's name -> 1 or 2, as our own speakers are numbered.

Letters (A, B, L, R, left, right) are plain. Of numbers, those of a file are looked at together: with a 0 among them they count from 0, with
a 2 from 1; where all of them are 1, nobody can tell, and the row is told.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

COLUMNS = ("channel", "channel_id", "audio_channel")
LETTERS = {"a": 1, "b": 2, "l": 1, "r": 2, "left": 1, "right": 2}
_SUFFIX = re.compile(r"(?P<stem>.+)[._-](?:ch(?:annel)?[._-]?)?(?P<channel>[0-2]|[ablr]|left|right)", re.IGNORECASE)
UNCLEAR = "channel"  # a key of claims.PROBLEMS


def named(row: Mapping[str, Any]) -> str:
    """What a row says of its channel, in lower case; empty where it says nothing or several, or is about a channel of another kind."""
    value = next((row[name] for name in COLUMNS if row.get(name) not in (None, "")), None)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    name = str(value).strip().lower() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return name if name in LETTERS or name.isdecimal() else ""


def numbers(names: Iterable[str]) -> dict[str, int | None]:
    """The channel that each name of a file means; None where that is not clear, or there is no such channel."""
    each = set(names) - {""}
    first = 0 if "0" in each else 1 if "2" in each else None
    by_number = {} if first is None else {str(first): 1, str(first + 1): 2}
    return {name: (LETTERS | by_number).get(name) for name in each}


def in_name(stem: str) -> tuple[str, str] | None:
    """A path without ending as (the path of the recording, the name of its channel): `call-A` is (`call`, `a`)."""
    match = _SUFFIX.fullmatch(stem)
    return (match["stem"], match["channel"].lower()) if match else None

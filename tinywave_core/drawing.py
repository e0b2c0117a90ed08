"""Rows that come by one after the other -> the few that are drawn, in memory that the corpus does not change."""

from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
_BESIDE = 256  # rows that may be held beside those that are drawn, so that not every row sorts anew


def draw(
    rows: Iterable[Row], key: Callable[[Row], Any], most: float, weight: Callable[[Row], float] = lambda _: 1
) -> list[Row]:
    """The first rows in the order of `key`, until their weights make up `most`; of rows with one `utterance_id` the first.

    The same as sorting all of them and taking from the front: a row that is not among the first of some is not among those of more.
    """
    held: dict[str, tuple[Any, Row]] = {}
    room = _BESIDE
    for row in rows:
        if row["utterance_id"] not in held:
            held[row["utterance_id"]] = (key(row), row)
            if len(held) > room:
                held = _first(held, most, weight)
                room = 2 * len(held) + _BESIDE
    return [row for _, row in _first(held, most, weight).values()]


def _first(held: dict[str, tuple[Any, Row]], most: float, weight: Callable[[Row], float]) -> dict[str, tuple[Any, Row]]:
    drawn: dict[str, tuple[Any, Row]] = {}
    total = 0.0
    for name, (key, row) in sorted(held.items(), key=lambda each: each[1][0]):
        if total >= most:
            break
        drawn[name] = (key, row)
        total += weight(row)
    return drawn

"""Rows that are drawn from a stream are those that sorting all of them would give."""

import hashlib
import random

import pytest

from tinywave_core.drawing import draw


def by_hash(row: dict) -> bytes:
    return hashlib.sha256(row["utterance_id"].encode()).digest()


@pytest.mark.parametrize("number", [0, 1, 7, 300, 5000])
def test_so_many_rows_are_the_first_of_all(number: int):
    rows = [{"utterance_id": str(i), "num_samples": i} for i in range(2000)]
    assert draw(iter(rows), by_hash, number) == sorted(rows, key=by_hash)[:number]


def test_weights_are_filled_up_as_one_after_the_other():
    random.seed(1)
    rows = [{"utterance_id": str(i), "num_samples": random.randrange(1, 900)} for i in range(3000)]
    for most in (1, 899, 20_000, 600_000, 10**9):
        left, wanted = most, []
        for row in sorted(rows, key=by_hash):
            if left > 0:
                wanted.append(row)
                left -= row["num_samples"]
        assert draw(rows, by_hash, most, lambda row: row["num_samples"]) == wanted


def test_of_rows_with_one_id_the_first_counts_and_counts_once():
    rows = [{"utterance_id": str(i % 900), "from": i} for i in range(1800)]
    assert draw(rows, by_hash, 40) == sorted(rows[:900], key=by_hash)[:40]


def test_rows_that_are_not_drawn_are_not_held():
    alive: list[int] = [0, 0]

    class Row(dict):
        def __init__(self, number: int) -> None:
            super().__init__(utterance_id=str(number))
            alive[0] += 1
            alive[1] = max(alive)

        def __del__(self) -> None:
            alive[0] -= 1

    draw((Row(number) for number in range(20_000)), by_hash, 10)
    assert alive[1] < 400

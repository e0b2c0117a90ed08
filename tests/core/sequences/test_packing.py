"""Rows of an epoch: the order is that of hashes, the rows those of plain first-fit, and what is kept is what was packed."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinywave_core.sequences import packing
from tinywave_core.sequences.packing import Rows, kept_rows, order_of, pack

pytestmark = pytest.mark.arithmetic


def first_fit(order: list[int], lengths: list[int], room: int, window: int) -> list[list[int]]:
    """Each into the first of the last `window` rows that has room, by definition."""
    rows: list[list[int]] = []
    for index in order:
        fits = [row for row in rows[-window:] if sum(lengths[i] for i in row) + lengths[index] <= room]
        if fits:
            fits[0].append(index)
        else:
            rows.append([index])
    return rows


@settings(max_examples=60)
@given(st.lists(st.integers(2, 40), max_size=250), st.randoms(use_true_random=False))
def test_rows_are_those_of_first_fit_into_the_last_32_rows(lengths, random):
    order = list(range(len(lengths)))
    random.shuffle(order)
    assert pack(order, lengths, 40).lists() == first_fit(order, lengths, 40, window=32)


def test_a_row_that_is_no_longer_open_takes_nothing_though_it_has_room():
    lengths = [30] + [40] * 31 + [10, 40, 10]  # the second 10 comes when the first row has 32 others after it
    assert pack(range(34), lengths, 40).lists()[0] == [0, 32]
    late = [30] + [40] * 32 + [10]
    assert pack(range(34), late, 40).lists()[0] == [0]


def test_the_order_is_that_of_sha_256_of_prefix_and_id():
    names = [hashlib.md5(bytes([n])).hexdigest() for n in range(50)]
    numbers = np.array([4, 9, 40, 17, 3])
    want = sorted(numbers.tolist(), key=lambda n: hashlib.sha256(f"7/2/{names[n]}".encode()).digest())
    ids = np.array([bytes.fromhex(name) for name in names], "S16")
    assert order_of(ids, numbers, "7/2/").tolist() == want


def test_where_the_first_bytes_of_hashes_are_equal_the_others_decide(monkeypatch):
    ids = np.array([hashlib.md5(bytes([n])).digest() for n in range(50)], "S16")
    want = order_of(ids, np.arange(50), "0/")
    monkeypatch.setattr(packing, "_first_bytes", lambda ids, numbers, _: iter([np.zeros(len(numbers), ">u8")]))
    assert order_of(ids, np.arange(50), "0/").tolist() == want.tolist()


def test_some_rows_are_given_as_lists():
    rows = pack(range(9), [4] * 9, 8)
    assert rows.lists() == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    assert rows.lists(1, 3) == [[2, 3], [4, 5]] and rows.lists(4) == [[8]] and len(rows) == 5
    assert pack([], [], 8).lists() == []


@pytest.mark.one_machine  # about files
def test_rows_of_many_sequences_are_kept_by_their_key_and_made_again_when_they_are_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_WORTH_KEEPING", 3)
    made: list[str] = []

    def make(name: str, first: int):
        def rows() -> Rows:
            made.append(name)
            return pack(range(first, first + 3), [5] * 9, 5)

        return rows

    a = kept_rows(tmp_path / "rows", "a", 3, make("a", 0))
    again = kept_rows(tmp_path / "rows", "a", 3, make("a again", 5))
    assert again.lists() == a.lists() == [[0], [1], [2]] and made == ["a"]
    assert kept_rows(tmp_path / "rows", "b", 3, make("b", 2)).lists() == [[2], [3], [4]]
    for path in (tmp_path / "rows").iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    assert kept_rows(tmp_path / "rows", "a", 3, make("a anew", 0)).lists() == a.lists()
    assert made == ["a", "b", "a anew"]
    kept_rows(tmp_path / "few", "a", 2, make("few", 0))
    kept_rows(None, "a", 3, make("nowhere", 0))
    assert made[3:] == ["few", "nowhere"] and not (tmp_path / "few").exists()

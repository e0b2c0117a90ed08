"""Packing: nothing lost, nothing mixed, order a function of ids and seeds alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinywave_core.models.attention import dense_mask
from tinywave_core.sequences.dataset import IGNORED, PackedDataset
from tinywave_core.sequences.packing import pack
from tinywave_core.sequences.table import EVERY_EPOCH, TokenSequence

pytestmark = pytest.mark.arithmetic


def sequence(number: int, length: int) -> TokenSequence:
    ids = (np.arange(length) + 10 * number).astype(np.uint16)
    return TokenSequence(f"{number:032x}", f"u{number}", f"r{number}", None, ids, float(length))


@given(st.lists(st.integers(2, 40), min_size=1, max_size=60))
def test_every_sequence_lies_in_exactly_one_row_that_has_room_for_it(lengths):
    rows = pack(range(len(lengths)), lengths, 40).lists()
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 40 for row in rows)


def test_labels_are_the_next_tokens_of_the_same_sequence():
    dataset = PackedDataset([sequence(1, 3), sequence(2, 4)], 9, 1, seed=0)
    batch = dataset.collate([[0, 1]])
    assert batch.input_ids[0].tolist() == [10, 11, 12, 20, 21, 22, 23, 0, 0]
    assert batch.labels[0].tolist() == [11, 12, IGNORED, 21, 22, 23, IGNORED, IGNORED, IGNORED]
    assert batch.positions[0].tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 0]
    assert batch.documents[0].tolist() == [1, 1, 1, 2, 2, 2, 2, 0, 0]
    assert batch.targets == 5


def test_attention_is_causal_and_stays_within_a_document():
    mask = dense_mask(torch.tensor([[1, 1, 2, 0]]))[0, 0]
    assert mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_a_step_can_be_built_without_the_ones_before_it():
    sequences = [sequence(n, 5 + n % 7) for n in range(30)]
    early, late = (PackedDataset(sequences, 32, 2, seed=1) for _ in range(2))
    for step in range(9):
        early.batch(step)
    assert np.array_equal(early.batch(9).input_ids, late.batch(9).input_ids)


def test_epochs_differ_and_each_holds_everything_once():
    dataset = PackedDataset([sequence(n, 4) for n in range(8)], 16, 2, seed=1)
    epochs = [[i for row in dataset.batch(step).rows for i in row] for step in range(2)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs) and epochs[0] != epochs[1]


def test_order_does_not_depend_on_the_order_of_the_sequences():
    sequences = [sequence(n, 4) for n in range(12)]
    one, other = (PackedDataset(s, 16, 3, seed=5).batch(0).input_ids for s in (sequences, sequences[::-1]))
    assert np.array_equal(one, other)


def test_a_new_sequence_leaves_the_order_of_the_others():
    old, new = [sequence(n, 16) for n in range(12)], [sequence(n, 16) for n in range(13)]
    before, after = (
        [ids[0] for step in range(len(s)) for ids in PackedDataset(s, 16, 1, seed=5).batch(step).input_ids]
        for s in (old, new)
    )
    assert [first for first in after if first != 120] == before


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_micro_batches_hold_the_batch(rows):
    batch = PackedDataset([sequence(n, 16) for n in range(8)], 16, 8, seed=0).batch(0)
    assert np.array_equal(np.concatenate([m.input_ids for m in batch.split(rows)]), batch.input_ids)


def test_an_epoch_takes_one_drawing_of_each_utterance_and_all_that_has_none():
    drawn = [replace(sequence(10 * u + v, 4), utterance_id=f"u{u}", variant=v) for u in range(5) for v in range(3)]
    plain = [replace(sequence(100 + n, 4), variant=EVERY_EPOCH) for n in range(3)]
    dataset = PackedDataset([*drawn, *plain], 16, 2, seed=1)  # 8 sequences of 4: one step is an epoch
    epochs = [[dataset.sequences[i] for row in dataset.batch(step).rows for i in row] for step in range(6)]
    for number, epoch in enumerate(epochs):
        assert sorted(s.utterance_id for s in epoch) == sorted({s.utterance_id for s in [*drawn, *plain]})
        assert {s.variant for s in epoch} == {number % 3, EVERY_EPOCH}


def test_with_separators_only_a_row_is_one_document_and_otherwise_nothing_crosses():
    sequences = [sequence(1, 3), sequence(2, 4)]
    batch = PackedDataset(sequences, 9, 1, seed=0, separate=False).collate([[0, 1]])
    assert batch.documents[0].tolist() == [1] * 7 + [0, 0]
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 0]
    apart = PackedDataset(sequences, 9, 1, seed=0).collate([[0, 1]])
    assert np.array_equal(batch.labels, apart.labels) and np.array_equal(batch.input_ids, apart.input_ids)
    assert not dense_mask(torch.from_numpy(apart.documents))[0, 0, 3:7, :3].any()
    assert dense_mask(torch.from_numpy(batch.documents))[0, 0, 6, :7].all()

"""Packed rows of training sequences, batch by batch, a pure function of ids and seeds.

Any batch can be made without the ones before it: rows are packed per epoch (`packing.py`), and laid out when a batch asks for them,
with the teacher's cached targets where there are some. The next batch is read while this one is computed. Of an utterance
with several drawings of interleaved spans, an epoch takes one.
Legend: R rows, T row length, K entries of a cached target.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tinywave_core.sequences.packing import Rows, kept_rows, order_of, pack
from tinywave_core.sequences.table import EVERY_EPOCH, SequenceTable, TokenSequence

IGNORED = -100  # label of positions that are not trained on, as in PyTorch's cross-entropy
_EPOCHS_HELD = 2  # a batch can begin in one and end in the next; of short ones the rows are made again


@dataclass(frozen=True)
class CachedTargets:
    """The teacher's sparse targets of packed rows; zeros where there is padding."""

    ids: npt.NDArray[np.int64]
    """Token ids [R, T, K]."""
    weights: npt.NDArray[np.float32]
    """Unbiased probabilities [R, T, K]."""
    entropy: npt.NDArray[np.float32]
    """Of the teacher's whole distribution [R, T], nats."""

    def part(self, rows: slice) -> "CachedTargets":
        """Those of some rows."""
        return CachedTargets(self.ids[rows], self.weights[rows], self.entropy[rows])


class TargetReader(Protocol):
    """Where cached targets of a dataset's sequences come from."""

    def targets(self, rows: Sequence[Sequence[int]], row_length: int) -> CachedTargets:
        """Of sequences by number, side by side in rows."""
        ...


@dataclass(frozen=True)
class Batch:
    """Packed rows; arrays [R, T] of int64."""

    input_ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    """Position within the own sequence."""
    documents: npt.NDArray[np.int64]
    """Number of the sequence within the row from 1; 0 is padding. Attention stays within a document."""
    labels: npt.NDArray[np.int64]
    """The next token of the same sequence, or IGNORED."""
    rows: list[list[int]]
    """Which sequences lie in each row, in order."""
    first_row: int = 0
    """Of a micro-batch: where its first row stands in the whole batch."""
    cached: CachedTargets | None = None
    """The teacher's targets, where they are read with the rows."""
    step_targets: int = 0
    """Targets of all rows of the optimiser step, of which these may be one process's share."""
    row_targets: tuple[int, ...] = ()
    """Of each of these rows of the step."""
    own: npt.NDArray[np.bool_] | None = None
    """Which rows hold the student's own continuations [R]; None: all are data."""
    own_targets: int = 0
    """Targets of such rows, of the whole optimiser step."""
    reference: npt.NDArray[np.float64] | None = None
    """Of rows that are pairs of continuations (training/preference.py): log-probabilities of both before the training [R, 2]."""

    @property
    def data(self) -> "Batch":
        """The same rows, with nothing to learn in the student's own."""
        return self if self.own is None else self._of(~self.own)

    @property
    def own_speech(self) -> "Batch":
        """The same rows, with nothing to learn but in the student's own."""
        return self._of(np.zeros(len(self.rows), bool) if self.own is None else self.own)

    def _of(self, rows: npt.NDArray[np.bool_]) -> "Batch":
        kept = rows[:, None]
        return replace(
            self, documents=np.where(kept, self.documents, 0), labels=np.where(kept, self.labels, IGNORED), own=None
        )

    @property
    def targets(self) -> int:
        """Positions that are trained on."""
        return int((self.labels != IGNORED).sum())

    def split(self, rows: int) -> list["Batch"]:
        """Micro-batches of at most `rows` rows."""
        cuts = range(0, len(self.rows), rows)
        return [self._part(i, i + rows) for i in cuts]

    def _part(self, start: int, end: int) -> "Batch":
        rows = slice(start, end)
        return replace(
            self,
            input_ids=self.input_ids[rows],
            positions=self.positions[rows],
            documents=self.documents[rows],
            labels=self.labels[rows],
            rows=self.rows[rows],
            first_row=self.first_row + start,
            cached=self.cached.part(rows) if self.cached else None,
            own=None if self.own is None else self.own[rows],
            reference=None if self.reference is None else self.reference[rows],
        )


class PackedDataset:
    """Batches of packed rows by step number: any step can be built without the ones before it being kept."""

    def __init__(
        self,
        sequences: Sequence[TokenSequence],
        row_length: int,
        batch_rows: int,
        seed: int,
        *,
        separate: bool = True,
        keep: Path | None = None,
    ) -> None:
        """Without `separate`, the sequences of a row are one document: only their <s> and </s> stand between them.

        `keep`: a folder in which the rows of large epochs are kept for whoever goes on from here.
        """
        self.separate = separate
        self.sequences = SequenceTable.of(sequences)
        self.row_length = row_length
        self.batch_rows = batch_rows
        self.seed = seed
        self.reader: TargetReader | None = None
        """Reads the teacher's targets with every batch."""
        self._keep = keep
        self._variants = int(self.sequences.variants.max(initial=0)) + 1
        self._counts: list[int] = []  # rows of the epochs from the first on
        self._held: OrderedDict[int, Rows] = OrderedDict()

    def batch(self, step: int, share: slice = slice(None)) -> Batch:
        """The batch of one optimiser step, counted from 0; with `share` those of its rows alone, read and laid out."""
        rows = self.rows_of_step(step)
        targets = tuple(int(self.sequences.lengths[row].sum()) - len(row) for row in rows)
        first_row = share.indices(len(rows))[0]
        whole = self.collate(rows[share])
        return replace(whole, first_row=first_row, step_targets=sum(targets), row_targets=targets)

    def rows_of_step(self, step: int) -> list[list[int]]:
        """The rows of one optimiser step's batch: which sequences lie in each."""
        first = step * self.batch_rows
        rows: list[list[int]] = []
        epoch = before = 0
        while len(rows) < self.batch_rows:
            if epoch == len(self._counts):
                self._counts.append(len(self.rows_of_pass(epoch)))
            start = first + len(rows) - before
            if start < self._counts[epoch]:
                end = min(start + self.batch_rows - len(rows), self._counts[epoch])
                rows += self.rows_of_pass(epoch).lists(start, end)
            before += self._counts[epoch]
            epoch += 1
        return rows

    @contextmanager
    def reading_ahead(self, share: slice = slice(None)) -> "Iterator[ReadAhead]":
        """Batches, or shares of them, whose successor is read while they are computed."""
        with ThreadPoolExecutor(1, thread_name_prefix="reading-ahead") as pool:
            yield ReadAhead(self, share, pool)

    def steps_of(self, passes: float) -> int:
        """Optimiser steps that so many passes over the sequences take, one at least."""
        return max(1, round(passes * len(self.rows_of_pass(0)) / self.batch_rows))

    def rows_of_pass(self, epoch: int) -> Rows:
        """The packed rows of one pass: which sequences lie in each."""
        if epoch not in self._held:
            key = f"{self._digest}/{self.row_length}/{self.seed}/{epoch}"
            self._held[epoch] = kept_rows(self._keep, key, len(self.sequences), lambda: self._packed(epoch))
            while len(self._held) > _EPOCHS_HELD:
                self._held.popitem(last=False)
        return self._held[epoch]

    def _packed(self, epoch: int) -> Rows:
        drawing = epoch % self._variants
        variants = self.sequences.variants
        numbers = np.flatnonzero((variants == EVERY_EPOCH) | (variants == drawing))
        order = order_of(self.sequences.ids, numbers, f"{self.seed}/{epoch}/")
        return pack(order, self.sequences.lengths, self.row_length)

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for column in (self.sequences.ids, self.sequences.lengths, self.sequences.variants):
            digest.update(np.ascontiguousarray(column).data.cast("B"))
        return digest.hexdigest()

    def collate(self, rows: list[list[int]]) -> Batch:
        """Lay sequences side by side in rows."""
        shape = (len(rows), self.row_length)
        input_ids, positions, documents = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        labels = np.full(shape, IGNORED, dtype=np.int64)
        tokens = iter(self.sequences.tokens(np.array([index for row in rows for index in row], np.int64)))
        for r, row in enumerate(rows):
            start = 0
            for number in range(1, len(row) + 1):
                ids = next(tokens)
                end = start + len(ids)
                input_ids[r, start:end] = ids
                positions[r, start:end] = np.arange(len(ids)) if self.separate else np.arange(start, end)
                documents[r, start:end] = number if self.separate else 1
                labels[r, start : end - 1] = ids[1:]
                start = end
        cached = self.reader.targets(rows, self.row_length) if self.reader else None
        return Batch(input_ids, positions, documents, labels, rows, cached=cached)


class ReadAhead:
    """Gives batches by step; while one is computed, a thread reads the next."""

    def __init__(self, dataset: PackedDataset, share: slice, pool: ThreadPoolExecutor) -> None:
        self._dataset, self._share, self._pool = dataset, share, pool
        self._next: tuple[int, Future[Batch]] | None = None

    def batch(self, step: int) -> Batch:
        """The batch of one optimiser step, or this process's share of it."""
        ready = self._next[1] if self._next is not None and self._next[0] == step else self._begin(step)
        batch = ready.result()
        self._next = step + 1, self._begin(step + 1)
        return batch

    def _begin(self, step: int) -> "Future[Batch]":
        return self._pool.submit(self._dataset.batch, step, self._share)

"""Token shards -> training sequences -> packed rows, all a pure function of ids and seeds.

One sequence is one utterance, cut in equal pieces only where it is longer than a row. Sequences carry an id of their
own content, so cached logits belong to a sequence and not to a row or a run; rows are packed when a batch is built.
Order comes from a hash of (seed, epoch, sequence id): new audio slips in between and disturbs nothing else. Of an utterance
with several drawings of interleaved spans, an epoch takes one.
Legend: R rows, T row length, L sequence length.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tinywave_core.storage.schemas import SAMPLE_RATE, TOKENS_FILE
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact

EVERY_EPOCH = -1
IGNORED = -100  # label of positions that are not trained on, as in PyTorch's cross-entropy
_OPEN_ROWS = 32  # rows that packing keeps open at once: more fills rows better, and order stays local


@dataclass(frozen=True)
class TokenSequence:
    """One utterance, or one piece of a long one."""

    id: str
    """SHA-256 of utterance id, piece and ids; 32 hex digits."""
    utterance_id: str
    recording_id: str
    speaker: str | None
    ids: npt.NDArray[np.uint16]
    """Token ids [L]."""
    seconds: float
    """Length of its audio."""
    variant: int = 0
    """Which drawing of interleaved spans it is; EVERY_EPOCH for what has no drawings beside others that have."""


def load_sequences(shards: Iterable[Artifact], split: str, max_length: int) -> list[TokenSequence]:
    """All sequences of one split (train or held_out) in the token shards, sorted by id."""
    columns = ["utterance_id", "recording_id", "speaker", "num_samples", "ids", "split", "variant"]
    sequences = []
    for shard in shards:
        path = shard.path(TOKENS_FILE)
        table = read_table(path, [name for name in columns if name in pq.read_schema(path).names])
        for row in table.filter(pc.equal(table["split"], split)).to_pylist():
            if split == "train" or row.get("variant", 0) <= 0:  # held-out speech is scored in one drawing
                sequences += _cut(row, max_length)
    return sorted(sequences, key=lambda sequence: sequence.id)


def _cut(row: dict, max_length: int) -> list[TokenSequence]:
    ids = np.asarray(row["ids"], dtype=np.uint16)
    pieces = np.array_split(ids, -(-len(ids) // max_length))
    return [
        TokenSequence(
            id=hashlib.sha256(f"{row['utterance_id']}/{i}/".encode() + piece.tobytes()).hexdigest()[:32],
            utterance_id=row["utterance_id"],
            recording_id=row["recording_id"],
            speaker=row["speaker"],
            ids=piece,
            seconds=row["num_samples"] / SAMPLE_RATE * len(piece) / len(ids),
            variant=row.get("variant", 0),
        )
        for i, piece in enumerate(pieces)
        if len(piece) > 1  # one token alone predicts nothing
    ]


def replayed(
    heard: Sequence[TokenSequence], new: Sequence[TokenSequence], share: float, key: str
) -> list[TokenSequence]:
    """So many of the heard sequences that `share` of all tokens is theirs, drawn by a hash of (key, sequence id); or all.

    A token counts as often as epochs bring it until all drawings have come: what has no drawings comes in each of them.
    """
    drawings = max([1, *(s.variant + 1 for s in (*heard, *new))])

    def tokens(sequence: TokenSequence) -> int:
        return len(sequence.ids) * (drawings if sequence.variant == EVERY_EPOCH else 1)

    room = share / (1 - share) * sum(map(tokens, new))
    drawn: list[TokenSequence] = []
    for sequence in sorted(heard, key=lambda s: hashlib.sha256(f"{key}/{s.id}".encode()).digest()):
        if room < tokens(sequence) / 2:  # the nearest total, over or under
            break
        drawn.append(sequence)
        room -= tokens(sequence)
    return drawn


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
        arrays = (self.input_ids[rows], self.positions[rows], self.documents[rows], self.labels[rows])
        return Batch(*arrays, self.rows[rows], self.first_row + start)


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
    ) -> None:
        """Without `separate`, the sequences of a row are one document: only their <s> and </s> stand between them."""
        self.separate = separate
        self.sequences = sequences
        self.row_length = row_length
        self.batch_rows = batch_rows
        self.seed = seed
        self._rows: list[list[int]] = []
        self._epochs = 0
        self._variants = max((s.variant for s in sequences), default=0) + 1

    def batch(self, step: int) -> Batch:
        """The batch of one optimiser step, counted from 0."""
        while len(self._rows) < (step + 1) * self.batch_rows:
            self._rows += self.rows_of_pass(self._epochs)
            self._epochs += 1
        return self.collate(self._rows[step * self.batch_rows : (step + 1) * self.batch_rows])

    def steps_of(self, passes: float) -> int:
        """Optimiser steps that so many passes over the sequences take, one at least."""
        return max(1, round(passes * len(self.rows_of_pass(0)) / self.batch_rows))

    def rows_of_pass(self, epoch: int) -> list[list[int]]:
        """The packed rows of one pass: which sequences lie in each."""
        return pack(self._epoch_order(epoch), [len(s.ids) for s in self.sequences], self.row_length)

    def _epoch_order(self, epoch: int) -> list[int]:
        drawing = epoch % max(self._variants, 1)
        keys = {
            i: hashlib.sha256(f"{self.seed}/{epoch}/{s.id}".encode()).digest()
            for i, s in enumerate(self.sequences)
            if s.variant in (EVERY_EPOCH, drawing)
        }
        return sorted(keys, key=keys.__getitem__)

    def collate(self, rows: list[list[int]]) -> Batch:
        """Lay sequences side by side in rows."""
        shape = (len(rows), self.row_length)
        input_ids, positions, documents = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        labels = np.full(shape, IGNORED, dtype=np.int64)
        for r, row in enumerate(rows):
            start = 0
            for number, index in enumerate(row, start=1):
                ids = self.sequences[index].ids
                end = start + len(ids)
                input_ids[r, start:end] = ids
                positions[r, start:end] = np.arange(len(ids)) if self.separate else np.arange(start, end)
                documents[r, start:end] = number if self.separate else 1
                labels[r, start : end - 1] = ids[1:]
                start = end
        return Batch(input_ids, positions, documents, labels, rows)


def pack(order: Sequence[int], lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """First-fit packing of sequences, taken in `order`, into rows of `row_length` tokens; nothing is cut or lost."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in order:
        length = lengths[index]
        assert length <= row_length, f"sequence of {length} tokens in rows of {row_length}"
        first_open = max(0, len(rows) - _OPEN_ROWS)
        for r in range(first_open, len(rows)):
            if room[r] >= length:
                break
        else:
            r = len(rows)
            rows.append([])
            room.append(row_length)
        rows[r].append(index)
        room[r] -= length
    return rows

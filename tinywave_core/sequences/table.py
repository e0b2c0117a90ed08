"""Training sequences as columns: a few numbers of each are in memory, tokens and names are read where they lie.

12 million sequences (50,000 hours) take 38 bytes each here, whatever their length. Whoever asks for one gets a `TokenSequence`.
Legend: S sequences, L tokens of one of them, R sequences that are asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tinywave_core.errors import TokenError
from tinywave_core.sequences.packing import order_of

EVERY_EPOCH = -1
NAMES = ("utterance_id", "recording_id", "speaker")
_AT_ONCE = 512  # sequences whose tokens are read together while all are passed through


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


class Source(Protocol):
    """Where tokens and names of some sequences are."""

    def tokens(self, rows_R: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint16]]:
        """Token ids of rows."""
        ...

    def names(self, name: str) -> pa.Array:
        """One of NAMES of all rows: strings."""
        ...


class _Held:
    """Sequences that are in memory anyway."""

    def __init__(self, sequences: Sequence[TokenSequence]) -> None:
        self._sequences = sequences

    def tokens(self, rows_R: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint16]]:
        return [self._sequences[row].ids for row in rows_R.tolist()]

    def names(self, name: str) -> pa.Array:
        return pa.array([getattr(s, name) for s in self._sequences], pa.string())


@dataclass(frozen=True, eq=False)
class SequenceTable(Sequence[TokenSequence]):
    """Sequences by number; arrays [S]."""

    sources: tuple[Source, ...]
    source: npt.NDArray[np.int32]
    """Which source has the sequence."""
    row: npt.NDArray[np.int32]
    """Its row there."""
    ids: npt.NDArray[np.bytes_]
    """Sequence ids, 16 bytes each."""
    lengths: npt.NDArray[np.int32]
    """Tokens."""
    variants: npt.NDArray[np.int16]
    seconds: npt.NDArray[np.float64]
    renumbering: npt.NDArray[np.int64] | None = None
    """The id that each id of the sources becomes, -1 for one that there is no longer; None: as they are."""

    @classmethod
    def of(cls, sequences: Sequence[TokenSequence]) -> "SequenceTable":
        """These sequences."""
        if isinstance(sequences, SequenceTable):
            return sequences
        return cls(
            (_Held(sequences),),
            np.zeros(len(sequences), np.int32),
            np.arange(len(sequences), dtype=np.int32),
            np.array([bytes.fromhex(s.id) for s in sequences], "S16"),
            np.array([len(s.ids) for s in sequences], np.int32),
            np.array([s.variant for s in sequences], np.int16),
            np.array([s.seconds for s in sequences], np.float64),
        )

    @classmethod
    def joined(cls, tables: Sequence["SequenceTable"]) -> "SequenceTable":
        """All of several tables, sorted by id; they are numbered alike."""
        if not tables:
            return cls.of([])
        order = np.argsort(np.concatenate([table.ids for table in tables]), kind="stable")
        # A column at a time: all of them twice would be most of the memory that a training process needs for its data.
        columns = {name: np.concatenate([getattr(table, name) for table in tables])[order] for name in _COLUMNS[1:]}
        before = np.cumsum([0, *(len(table.sources) for table in tables)])[:-1]
        source = np.concatenate([table.source + np.int32(n) for table, n in zip(tables, before, strict=True)])[order]
        sources = tuple(source for table in tables for source in table.sources)
        return cls(sources, source, **columns, renumbering=tables[0].renumbering)

    def take(self, numbers_R: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "SequenceTable":
        """Some of the sequences, by number or by a mask."""
        return replace(self, **{name: getattr(self, name)[numbers_R] for name in _COLUMNS})

    def renumbered(self, renumbering: npt.NDArray[np.int64]) -> "SequenceTable":
        """The same sequences in other token ids."""
        return replace(self, renumbering=renumbering)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, number: int) -> TokenSequence: ...

    @overload
    def __getitem__(self, number: slice) -> "SequenceTable": ...

    def __getitem__(self, number: int | slice) -> "TokenSequence | SequenceTable":
        if isinstance(number, slice):
            return self.take(np.arange(len(self))[number])
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        return next(iter(self.take(np.array([number]))))

    def __iter__(self) -> Iterator[TokenSequence]:
        names = [self.column(name) for name in NAMES]
        for start in range(0, len(self), _AT_ONCE):
            numbers = np.arange(start, min(start + _AT_ONCE, len(self)))
            labels = zip(*(column[start : start + _AT_ONCE].to_pylist() for column in names), strict=True)
            for number, (utterance, recording, speaker), ids in zip(
                numbers.tolist(), labels, self.tokens(numbers), strict=True
            ):
                seconds, variant = float(self.seconds[number]), int(self.variants[number])
                yield TokenSequence(self.id(number), utterance, recording, speaker, ids, seconds, variant)

    def id(self, number: int) -> str:
        """The id of a sequence, 32 hex digits."""
        return self.ids[number : number + 1].tobytes().hex()  # not of the item: NumPy takes zeros at its end off

    def tokens(self, numbers_R: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint16]]:
        """Token ids of some sequences [L]; TokenError for a token that the ids of these sequences do not have."""
        found: list[npt.NDArray[np.uint16]] = [np.empty(0, np.uint16)] * len(numbers_R)
        sources_R = self.source[numbers_R]
        for source in np.unique(sources_R).tolist():
            here = np.flatnonzero(sources_R == source)
            for at, ids in zip(here.tolist(), self.sources[source].tokens(self.row[numbers_R[here]]), strict=True):
                found[at] = ids
        return found if self.renumbering is None else [in_other_ids(ids, self.renumbering) for ids in found]

    def column(self, name: str) -> pa.ChunkedArray:
        """One of NAMES of all sequences; read anew each time, for few need it."""
        tables = [source.names(name) for source in self.sources]
        before = np.cumsum([0, *(len(table) for table in tables)])
        every = pa.chunked_array(tables, pa.string())
        return every.take(pa.array(before[self.source] + self.row))

    def codes(self, name: str) -> tuple[npt.NDArray[np.int64], pa.Array]:
        """Numbers of the different strings of one of NAMES, -1 where there is none [S], and these strings."""
        encoded = self.column(name).combine_chunks().dictionary_encode()
        return pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary


_COLUMNS = ("source", "row", "ids", "lengths", "variants", "seconds")


def in_other_ids(ids: npt.NDArray[Any], renumbering: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
    """Token ids [L] as `renumbering` has them; TokenError for one that there is no longer."""
    new = renumbering[np.asarray(ids, dtype=np.int64)]
    if len(new) and new.min() < 0:
        raise TokenError(
            f"the model has no text, and the sequence has the text token {int(ids[int(new.argmin())])} in it: take "
            "distillation.vocabulary full for speech and text"
        )
    return new.astype(np.uint16)


def replayed(heard: Sequence[TokenSequence], new: Sequence[TokenSequence], share: float, key: str) -> SequenceTable:
    """So many of the heard sequences that `share` of all tokens is theirs, drawn by a hash of (key, sequence id); or all.

    A token counts as often as epochs bring it until all drawings have come: what has no drawings comes in each of them.
    """
    heard, new = SequenceTable.of(heard), SequenceTable.of(new)
    drawings = max(int(table.variants.max(initial=0)) + 1 for table in (heard, new))

    def tokens(table: SequenceTable) -> npt.NDArray[np.int64]:
        return table.lengths.astype(np.int64) * np.where(table.variants == EVERY_EPOCH, drawings, 1)

    room = share / (1 - share) * int(tokens(new).sum())
    order = order_of(heard.ids, np.arange(len(heard)), f"{key}/")
    sizes = tokens(heard)
    drawn = []
    for number in order.tolist():
        if room < sizes[number] / 2:  # the nearest total, over or under
            break
        drawn.append(number)
        room -= int(sizes[number])
    return heard.take(np.array(drawn, np.int64))

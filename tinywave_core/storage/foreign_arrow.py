"""An Arrow table of somebody else (a stream, or the file format) -> its columns, batch by batch: values, or where their bytes lie.

pyarrow ends the whole process on some damaged files, so the few structures that are needed are read here, as Arrow's columnar format
and its FlatBuffers say. Nothing is read but what is asked for: the bytes of a binary column stay where they are. Every number is held
against the bytes that are there; every fault is a pa.ArrowInvalid. Columns of other kinds than text, whole numbers, bytes and structs of
these are left out.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_MAGIC, _CONTINUES = b"ARROW1", 0xFFFF_FFFF
_MOST_METADATA, _DEEPEST, _MOST_COLUMNS = 1 << 24, 16, 10_000
_SCHEMA, _BATCH = 1, 3  # kinds of message
_INT, _BINARY, _TEXT, _STRUCT, _LARGE_BINARY, _LARGE_TEXT = 2, 4, 5, 13, 19, 20
# Buffers of each kind of column, without those of its children.
_BUFFERS = {1: 0, **dict.fromkeys((2, 3, 6, 7, 8, 9, 10, 11, 12, 15, 17, 18, 21), 2)}
_BUFFERS |= dict.fromkeys((_BINARY, _TEXT, _LARGE_BINARY, _LARGE_TEXT), 3) | dict.fromkeys((_STRUCT, 16), 1)
_WIDE = {_LARGE_BINARY: np.dtype("<i8"), _LARGE_TEXT: np.dtype("<i8")}
_NARROW = np.dtype("<i4")
_NONSENSE = (struct.error, LookupError, TypeError, ValueError, OverflowError, MemoryError, OSError)


@dataclass(frozen=True)
class Column:
    """One column, or a leaf of one, and which buffers of a batch are its own."""

    name: str
    kind: int
    node: int
    buffer: int
    numbers: str
    """Of whole numbers, as numpy calls them."""
    children: tuple["Column", ...]
    is_indexed: bool
    """Whether its values lie in a dictionary: it is not read."""

    @property
    def type(self) -> pa.DataType | None:
        """None where it is not read."""
        if self.is_indexed:
            return None
        if self.kind == _STRUCT:
            return pa.struct([(child.name, child.type) for child in self.children if child.type is not None])
        known = {_INT: pa.int64(), _BINARY: pa.binary(), _TEXT: pa.string()}
        return {**known, _LARGE_BINARY: pa.large_binary(), _LARGE_TEXT: pa.large_string()}.get(self.kind)


@dataclass(frozen=True)
class Batch:
    """Some rows, and where their buffers lie in the file."""

    rows: int
    nulls: tuple[int, ...]
    """By node."""
    buffers: tuple[tuple[int, int], ...]
    """Start in the file, and size."""


class ForeignArrow:
    """The columns and batches of a file that is open. pa.ArrowInvalid where it is no Arrow file."""

    def __init__(self, raw: BinaryIO, size: int) -> None:
        self._raw = raw
        self._size = size
        self._start = 8 if self._read(0, min(6, size)) == _MAGIC else 0
        message = next(self._messages(), None)
        if message is None or message.kind != _SCHEMA:
            raise pa.ArrowInvalid("it does not begin with the names of its columns")
        try:
            self.columns, self._nodes, self._buffers = _columns(message.header)
            metadata = {pair.text(0): pair.text(1) for pair in message.header.tables(2)}
        except _NONSENSE as error:
            raise pa.ArrowInvalid("the names of its columns are damaged") from error
        known = [(column.name, column.type) for column in self.columns if column.type is not None]
        self.schema = pa.schema(known, metadata=metadata)

    def batches(self) -> Iterator[Batch]:
        """All batches; a table that ends too soon is damaged."""
        for message in self._messages():
            if message.kind == _BATCH:
                try:
                    batch = _batch(message)
                except _NONSENSE as error:
                    raise pa.ArrowInvalid("the outline of a batch is damaged") from error
                if any(
                    not 0 <= start - message.body <= start - message.body + size <= message.bytes
                    for start, size in batch.buffers
                ):
                    raise pa.ArrowInvalid("its columns lead out of their batch")
                # Each row of a column of sound has an offset there, so that more rows than bytes are a lie that would take memory.
                if (len(batch.nulls), len(batch.buffers)) != (self._nodes, self._buffers) or batch.rows > message.bytes:
                    raise pa.ArrowInvalid("the outline of a batch does not fit the columns")
                yield batch

    def find(self, path: str) -> Column:
        """The column "text", or the leaf "audio.path"."""
        name, _, rest = path.partition(".")
        column = next(each for each in self.columns if each.name == name)
        return next(child for child in column.children if child.name == rest) if rest else column

    def values(self, batch: Batch, column: Column) -> list[Any]:
        """Texts or whole numbers, None where there is none."""
        is_there = self.is_there(batch, column)
        try:
            if column.kind == _INT:
                data = self._buffer(batch, column.buffer + 1)
                found = np.frombuffer(data, column.numbers, batch.rows).tolist()
            else:
                data = self._buffer(batch, column.buffer + 2)
                edges = self._offsets(batch, column).tolist()
                found = [
                    data[start:stop].decode() if there else None
                    for start, stop, there in zip(edges, edges[1:], is_there, strict=False)
                ]
        except _NONSENSE as error:
            raise pa.ArrowInvalid(f"its column {column.name} is damaged") from error
        return [value if there else None for value, there in zip(found, is_there, strict=True)]

    def stretches(self, batch: Batch, column: Column) -> list[tuple[int, int]]:
        """Of bytes: where each row's begin in the file, and how many they are."""
        base, _ = batch.buffers[column.buffer + 2]
        edges = self._offsets(batch, column)
        return list(zip((base + edges[:-1]).tolist(), np.diff(edges).tolist(), strict=True))

    def is_there(self, batch: Batch, column: Column) -> list[bool]:
        """Which rows have a value."""
        if not batch.nulls[column.node]:
            return [True] * batch.rows
        bits = np.frombuffer(self._buffer(batch, column.buffer), np.uint8)
        if len(bits) * 8 < batch.rows:
            raise pa.ArrowInvalid(f"its column {column.name} does not say which rows it has")
        return [bool(bit) for bit in np.unpackbits(bits, bitorder="little")[: batch.rows]]

    def _offsets(self, batch: Batch, column: Column) -> npt.NDArray[np.int64]:
        _, most = batch.buffers[column.buffer + 2]
        kind = _WIDE.get(column.kind, _NARROW)
        data = self._buffer(batch, column.buffer + 1)
        if not batch.rows:
            return np.zeros(1, np.int64)
        if len(data) < (batch.rows + 1) * kind.itemsize:
            raise pa.ArrowInvalid(f"its column {column.name} is cut short")
        edges = np.frombuffer(data, kind, batch.rows + 1).astype(np.int64)
        if edges[0] < 0 or (np.diff(edges) < 0).any() or edges[-1] > most:
            raise pa.ArrowInvalid(f"the edges of its column {column.name} lead out of it")
        return edges

    def _buffer(self, batch: Batch, number: int) -> bytes:
        return self._read(*batch.buffers[number])

    def _read(self, start: int, size: int) -> bytes:
        self._raw.seek(start)
        data = self._raw.read(size)
        if len(data) < size:
            raise pa.ArrowInvalid("it ends too soon")
        return data

    def _messages(self) -> Iterator["_Message"]:
        place = self._start
        while place + 8 <= self._size:
            mark, length = struct.unpack("<II", self._read(place, 8))
            if mark != _CONTINUES:
                raise pa.ArrowInvalid("it is no Arrow table of today's form")
            if not length:
                return
            if length > min(_MOST_METADATA, self._size - place - 8):
                raise pa.ArrowInvalid("it ends too soon")
            try:
                root = _root(self._read(place + 8, length))
                kind, header, size = root.number(1, "<B"), root.table(2), root.number(3, "<q")
            except _NONSENSE as error:
                raise pa.ArrowInvalid("an outline in it is damaged") from error
            body = place + 8 + length
            if not 0 <= size <= self._size - body or header is None:
                raise pa.ArrowInvalid("it ends too soon")
            yield _Message(kind, header, body, size)
            place = body + size


@dataclass(frozen=True)
class _Message:
    kind: int
    header: "_Flat"
    body: int  # where its buffers begin in the file
    bytes: int


def _batch(message: _Message) -> Batch:
    header = message.header
    if header.table(3) is not None:
        raise pa.ArrowInvalid("it is packed: write it without compression")
    nodes = [struct.unpack("<qq", each) for each in header.structs(1, 16)]
    buffers = [struct.unpack("<qq", each) for each in header.structs(2, 16)]
    rows = header.number(0, "<q")
    # Rows of nothing would be free; every column that is read says where each row of it ends.
    if rows < 0:
        raise ValueError("fewer rows than none")
    return Batch(rows, tuple(nulls for _, nulls in nodes), tuple((message.body + at, size) for at, size in buffers))


def _columns(schema: "_Flat") -> tuple[tuple[Column, ...], int, int]:
    """The columns, and how many nodes and buffers a batch of them has."""
    node = buffer = 0

    def column(field: _Flat, depth: int) -> Column:
        nonlocal node, buffer
        kind, own = field.number(2, "<B"), (node, buffer)
        is_indexed = field.table(4) is not None
        # A forged outline can name itself as its own child, many times.
        if depth > _DEEPEST or node > _MOST_COLUMNS or (not is_indexed and kind not in _BUFFERS):
            raise ValueError(f"columns of the kind {kind} are not known")
        node, buffer = node + 1, buffer + (2 if is_indexed else _BUFFERS[kind])
        children = () if is_indexed else tuple(column(child, depth + 1) for child in field.tables(5))
        numbers = ""
        if kind == _INT and (about := field.table(3)) is not None:
            sign, bits = ("i" if about.number(1, "<B") else "u"), about.number(0, "<i")
            numbers = f"<{sign}{bits // 8}"
        return Column(field.text(0), kind, *own, numbers, children, is_indexed)

    columns = tuple(column(field, 0) for field in schema.tables(1))
    return columns, node, buffer


# FlatBuffers -------------------------------------------------------------------------------------------------------


def _root(data: bytes) -> "_Flat":
    return _Flat(data, struct.unpack_from("<I", data)[0])


@dataclass(frozen=True)
class _Flat:
    """A table of a FlatBuffer by the numbers of its fields; struct.error or LookupError where that is none."""

    data: bytes
    at: int

    def _place(self, field: int) -> int:
        """Where a field lies; 0 where it is left out."""
        vtable = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        if vtable < 0:
            raise LookupError("a table without an outline")
        size = struct.unpack_from("<H", self.data, vtable)[0]
        if 4 + 2 * field + 2 > size:
            return 0
        offset = struct.unpack_from("<H", self.data, vtable + 4 + 2 * field)[0]
        return self.at + offset if offset else 0

    def number(self, field: int, form: str) -> int:
        place = self._place(field)
        return int(struct.unpack_from(form, self.data, place)[0]) if place else 0

    def _follow(self, field: int) -> int:
        place = self._place(field)
        return place + struct.unpack_from("<I", self.data, place)[0] if place else 0

    def table(self, field: int) -> "_Flat | None":
        place = self._follow(field)
        return _Flat(self.data, place) if place else None

    def structs(self, field: int, size: int) -> Sequence[bytes]:
        place = self._follow(field)
        if not place:
            return []
        count = struct.unpack_from("<I", self.data, place)[0]
        if place + 4 + count * size > len(self.data):
            raise LookupError("a list that leads out of the file")
        return [self.data[place + 4 + i * size : place + 4 + (i + 1) * size] for i in range(count)]

    def tables(self, field: int) -> list["_Flat"]:
        place = self._follow(field)
        offsets = [struct.unpack("<I", each)[0] for each in self.structs(field, 4)]
        return [_Flat(self.data, place + 4 + 4 * i + offset) for i, offset in enumerate(offsets)]

    def text(self, field: int) -> str:
        place = self._follow(field)
        if not place:
            return ""
        size = struct.unpack_from("<I", self.data, place)[0]
        if place + 4 + size > len(self.data):
            raise LookupError("a text that leads out of the file")
        return self.data[place + 4 : place + 4 + size].decode()

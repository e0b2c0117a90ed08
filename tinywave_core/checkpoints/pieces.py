"""A sentencepiece `tokenizer.model` before sentencepiece opens it: how many pieces, how long, and no table of characters.

The file is a protobuf message (sentencepiece_model.proto): field 1 a piece, whose field 1 is its text; fields 3 and 5 how text is
normalised. Llama's tokenizers normalise nothing. Their place for a compiled table stays empty, and sentencepiece follows such a
table wherever it points, so a file with one is not opened.
"""

from collections.abc import Iterator
from pathlib import Path

MOST_BYTES = 1 << 25  # Llama 2's has 0.5 MB, the largest known ones 5 MB
MOST_PIECES = 1 << 19  # the largest known ones have half of it
LONGEST_PIECE = 512  # bytes; Llama's have 48 at most, and finding how a piece is merged takes the square of its length
_PIECE, _NORMALIZERS, _TEXT, _TABLE = 1, (3, 5), 1, 2
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def fault_of_pieces(path: Path) -> str:
    """What is wrong with the file; empty where sentencepiece may open it."""
    if (size := path.stat().st_size) > MOST_BYTES:
        return f"it has {size:,} bytes, expected {MOST_BYTES:,} at most"
    try:
        _walk(path.read_bytes())
    except (ValueError, IndexError) as error:
        return str(error)
    return ""


def _walk(data: bytes) -> None:
    pieces = 0
    for field, start, end in _fields(data, 0, len(data)):
        pieces += field == _PIECE
        if pieces > MOST_PIECES:
            raise ValueError(f"more than {MOST_PIECES:,} pieces")
        within = _fields(data, start, end) if field in (_PIECE, *_NORMALIZERS) else ()
        for inner, first, last in within:
            if field == _PIECE and inner == _TEXT and last - first > LONGEST_PIECE:
                raise ValueError(f"a piece of {last - first:,} bytes, expected {LONGEST_PIECE} at most")
            if field != _PIECE and inner == _TABLE and last > first:
                raise ValueError("it normalises characters by a table, which Llama's tokenizers do not")


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number of each field between two places, and where what it holds begins and ends."""
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind == _VARINT:
            length = _varint(data, at)[1] - at
        elif kind in (_EIGHT, _FOUR):
            length = 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if at + length > end:
            raise ValueError(f"a field of {length:,} bytes where {end - at:,} are left")
        yield key >> 3, at, at + length
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number of more than ten bytes")

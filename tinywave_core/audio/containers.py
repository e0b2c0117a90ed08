"""What the bytes of an audio file say beside its samples: is it whole, were files put together, is its header to be trusted?

Reads through a file descriptor and never decodes. Runs in the decoding child: no imports but of the standard library. A fault
is a sentence that says what was found and how to mend it, or None.
"""

import itertools
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

# Sizes that programs write into a WAV header when they stream and do not know the length yet.
UNKNOWN_RIFF_BYTES = 0x7FFF_0000
# By the format: a header of 27 + 255 bytes and 255 segments of 255 bytes. The last page lies within so many bytes of the end.
MAX_OGG_PAGE = 65_307
# Bytes behind the last decoded frame that a reader may leave (measured on sound files: 0).
UNREAD_BYTES, UNREAD_SHARE = 4_096, 0.02
SEARCHED = 1 << 20  # bytes that are searched at a time
REPAIR_WAV = "if all of it is there, write its header anew (sox --ignore-length in.wav out.wav, or ffmpeg -i in.wav -c copy out.wav)"
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Part:
    """A stretch of an open file as a file of its own, with other bytes over its beginning; soundfile reads it."""

    def __init__(self, handle: int, start: int, stop: int, head: bytes = b"") -> None:
        self._handle, self._start, self._size, self._head = handle, start, stop - start, head
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """As of a file."""
        return self._position

    def read(self, count: int = -1) -> bytes:
        """As of a file."""
        left = max(0, self._size - self._position)
        count = left if count < 0 else min(count, left)
        data = os.pread(self._handle, count, self._start + self._position)
        if self._position < len(self._head):
            over = self._head[self._position : self._position + len(data)]
            data = over + data[len(over) :]
        self._position += len(data)
        return data


def size_of(handle: int) -> int:
    """Bytes of an open file."""
    return os.fstat(handle).st_size


# WAV ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataChunk:
    """Where the samples of a WAV begin, how many bytes its header promises and how many there are behind it."""

    start: int
    promised: int
    available: int
    little: bool
    frame_bytes: int

    @property
    def is_streamed(self) -> bool:
        """Whether the writer did not know the length and left none: all ones, or 0 with samples behind it."""
        return self.promised >= UNKNOWN_RIFF_BYTES or (self.promised == 0 and self.available >= self.frame_bytes)


def data_chunk(handle: int) -> DataChunk | None:
    """The data chunk of a WAV (RIFF, RIFX, RF64), None where there is none."""
    size = size_of(handle)
    little = os.pread(handle, 4, 0) in (b"RIFF", b"RF64")
    order: Literal["little", "big"] = "little" if little else "big"
    position, large, frame_bytes = 12, 0, 1
    while position + 8 <= size:
        name, raw = os.pread(handle, 4, position), os.pread(handle, 4, position + 4)
        length = int.from_bytes(raw, order)
        if name == b"ds64":
            large = int.from_bytes(os.pread(handle, 8, position + 16), "little")
        if name == b"fmt ":
            frame_bytes = max(1, int.from_bytes(os.pread(handle, 2, position + 20), order))
        if name == b"data":
            length = large if length == 0xFFFF_FFFF and large else length
            return DataChunk(position + 8, length, size - position - 8, little, frame_bytes)
        position += 8 + length + length % 2
    return None


def streamed_wav(handle: int) -> Part | None:
    """A WAV whose header says 0 bytes though samples follow, with their length in it; None for every other file."""
    if os.pread(handle, 4, 0) not in (b"RIFF", b"RIFX") or os.pread(handle, 4, 8) != b"WAVE":
        return None
    data = data_chunk(handle)
    if data is None or data.promised or not data.is_streamed or _is_chunk(handle, data.start):
        return None
    order = "<I" if data.little else ">I"
    head = bytearray(os.pread(handle, data.start, 0))
    head[4:8] = struct.pack(order, min(data.start + data.available - 8, 0xFFFF_FFFF))
    head[data.start - 4 : data.start] = struct.pack(order, min(data.available, 0xFFFF_FFFF))
    return Part(handle, 0, size_of(handle), bytes(head))


def riff_mismatch(handle: int) -> str | None:
    """A WAV's data chunk against the file: too long (cut file) or followed by no chunks (forged, shorter length)."""
    data = data_chunk(handle)
    if data is None or data.is_streamed:
        return None
    missing = data.promised - data.available
    if missing <= 0:
        end = data.start + data.promised + data.promised % 2
        return _riff_tail_mismatch(handle, min(end, size_of(handle)), size_of(handle))
    # Less than one sample, or the size of the file in place of the samples': a slip of the writer, and nothing is missing.
    if missing < data.frame_bytes or missing in (data.start, data.start - 8):
        return None
    return f"{data.available} bytes of samples; the header promises {data.promised}: the file is cut short: copy it again, or, {REPAIR_WAV}"


def _riff_tail_mismatch(handle: int, end: int, size: int) -> str | None:
    """What is wrong with the bytes behind the end of a WAV's data, if anything is; other chunks may lie there."""
    unread = size - end
    if unread > UNREAD_BYTES and unread > UNREAD_SHARE * size and not _is_chunk(handle, end):
        return f"{unread} of {size} bytes lie behind the end that the header gives and are no RIFF chunk: {REPAIR_WAV}"
    return None


def _is_chunk(handle: int, position: int) -> bool:
    head = os.pread(handle, 8, position)
    return len(head) == 8 and all(32 <= byte < 127 for byte in head[:4])


# Ogg ---------------------------------------------------------------------------------------------------------------


def ogg_fault(handle: int) -> str | None:
    """What is missing from an Ogg file: pages that are lost or fail their checksum (decoders skip them in silence), or its end."""
    lost, first, expected, ended = 0, 0, dict[int, int](), False
    for position, page in _ogg_pages(handle):
        serial, number = struct.unpack_from("<II", page, 14)
        begins = bool(page[5] & 0x02)
        if not begins and number != expected.get(serial, number):
            lost, first = lost + 1, first or position
        expected[serial] = number + 1
        ended = bool(page[5] & 0x04)
    if lost:
        return f"pages are missing or damaged at {lost} places, first before byte {first}: what was in them is lost; copy the file again"
    return None if ended else "the stream stops without its end mark: the file is cut short"


def _ogg_pages(handle: int) -> Iterator[tuple[int, bytes]]:
    """Position and bytes of every page that is whole and has the right checksum."""
    position, size = 0, size_of(handle)
    while position < size:
        page = _ogg_page(handle, position)
        if page is not None:
            yield position, page
            position += len(page)
            continue
        window = os.pread(handle, 1 << 16, position + 1)
        found = window.find(b"OggS")
        # Three bytes of a mark may lie at the end of a window.
        position += 1 + (found if found >= 0 else max(1, len(window) - 3))


def _ogg_page(handle: int, position: int) -> bytes | None:
    head = os.pread(handle, 27 + 255, position)
    if len(head) < 27 or head[:4] != b"OggS":
        return None
    segments = head[26]
    length = 27 + segments + sum(head[27 : 27 + segments])
    page = head[:length] if length <= len(head) else head + os.pread(handle, length - len(head), position + len(head))
    if len(page) < length:
        return None
    checksum = int.from_bytes(page[22:26], "little")
    return page if ogg_crc(page[:22] + bytes(4) + page[26:]) == checksum else None


def ogg_crc(data: bytes) -> int:
    """The checksum of Ogg (RFC 3533): zlib's polynomial, bits from the other end, begun with 0 and not turned at the end."""
    state = zlib.crc32(data.translate(_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{state:032b}"[::-1], 2)


# MP3 ---------------------------------------------------------------------------------------------------------------


def tag_bytes(handle: int) -> int:
    """Bytes of ID3v1 and APEv2 tags at the end of the file."""
    size = size_of(handle)
    id3 = 128 if size > 128 and os.pread(handle, 3, size - 128) == b"TAG" else 0
    footer = os.pread(handle, 32, max(size - id3 - 32, 0))
    if not footer.startswith(b"APETAGEX"):
        return id3
    return id3 + 32 + int.from_bytes(footer[12:16], "little")


def _mp3_headers(handle: int) -> Iterator[int]:
    """Where the frames begin that hold a Xing or Info header instead of sound."""
    for base in range(0, size_of(handle), SEARCHED):
        before = min(base, 64)  # such a frame begins up to 36 bytes before its mark
        window = os.pread(handle, before + SEARCHED + 3, base - before)
        for found in re.finditer(b"Xing|Info", window[before:]):
            mark = before + found.start()
            yield from (base - before + mark - back for back in (36, 21, 13) if _is_frame(window, mark - back, back))


def _is_frame(data: bytes, start: int, back: int) -> bool:
    """Whether the header of an MPEG layer III frame stands at `start`, `back` bytes before its Xing mark."""
    if start < 0 or len(data) < start + 4 or data[start] != 0xFF or data[start + 1] & 0xE6 != 0xE2:
        return False
    version_1, mono = data[start + 1] & 0x18 == 0x18, data[start + 3] & 0xC0 == 0xC0
    return back == {(True, False): 36, (True, True): 21, (False, False): 21, (False, True): 13}[version_1, mono]


# Files that were put together --------------------------------------------------------------------------------------


def joined_files(handle: int) -> list[Part]:
    """The files that were put together end to end in one (MP3, WAV, chained Ogg), in order; one part for a single file."""
    head = os.pread(handle, 4, 0)
    if head == b"OggS":
        starts = list(_ogg_links(handle))
    elif head in (b"RIFF", b"RIFX"):
        starts = _riffs(handle)
    elif head[:3] == b"ID3" or head[:1] == b"\xff":
        starts = sorted(_mp3_headers(handle))
    else:
        starts = []
    edges = [0, *starts[1:], size_of(handle)]
    return [Part(handle, start, stop) for start, stop in itertools.pairwise(edges)]


def _riffs(handle: int) -> list[int]:
    """Where WAV files begin that follow each other to the end, by the lengths in their headers; none where the last is cut."""
    starts, position = [], 0
    while (head := os.pread(handle, 12, position))[:4] in (b"RIFF", b"RIFX") and head[8:] == b"WAVE":
        starts.append(position)
        length = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big")
        position += 8 + length + length % 2
    return starts if position == size_of(handle) else []


def _ogg_links(handle: int) -> Iterator[int]:
    """Where the links of a chained Ogg begin: first pages of streams that follow other pages."""
    opening = False
    for position, page in _ogg_pages(handle):
        begins = bool(page[5] & 0x02)
        if begins and not opening:
            yield position
        opening = begins

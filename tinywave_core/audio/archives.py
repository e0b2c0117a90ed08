"""Tar files in a source, as WebDataset and lhotse Shar have them: their members are recordings and texts where they lie.

Nothing is unpacked to a path that a tar names: a member is a place in its file, and its name is a name only. Compressed archives
are not opened, since nothing in them can be found without reading all before it.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

ENDING = ".tar"
_LONGEST_HEADER = 1 << 20  # bytes: a tar that asks for more in one piece is no list of recordings
_MEMBER = re.compile(r"(?P<archive>.*)#tar:(?P<start>\d+)\+(?P<size>\d+)", re.DOTALL)


@dataclass(frozen=True)
class Member:
    """A file in a tar."""

    name: str
    """Below the tar; empty where it leads out of it."""
    start: int
    """In the tar, in bytes."""
    size: int


@dataclass(frozen=True)
class Place:
    """Where the bytes of a member lie."""

    archive: str
    start: int
    size: int

    @property
    def location(self) -> str:
        """As a location that `place_in` reads."""
        return f"{self.archive}#tar:{self.start}+{self.size}"


def place_in(location: str) -> Place | None:
    """The place that a member's location says; None for a file of its own."""
    match = _MEMBER.fullmatch(location)
    return Place(match["archive"], int(match["start"]), int(match["size"])) if match else None


def is_tar(name: str) -> bool:
    """Whether a file may be a tar, by its name."""
    return name.lower().endswith(ENDING)


def members(stream: IO[bytes], size: int) -> Iterator[Member]:
    """The files of a tar of so many bytes, in its order; `tarfile.TarError` where it is none or ends too soon."""
    try:
        with tarfile.open(fileobj=_Bounded(stream), mode="r:") as tar:  # type: ignore[call-overload]
            for info in tar:
                # Links and devices are no recordings; what a sparse file is made of is not in one place.
                if info.isreg() and not info.issparse():
                    if info.offset_data + info.size > size:
                        raise tarfile.ReadError("its last file is cut off")
                    yield Member(_below(info.name), info.offset_data, info.size)
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all of them
    except (ValueError, OverflowError, EOFError) as error:  # of damaged numbers in a header
        raise tarfile.ReadError(str(error)) from error


def _below(name: str) -> str:
    """A member's name as a path below its tar; empty for one that leads out of it."""
    path = PurePosixPath(name.replace("\\", "/"))
    inside = not path.is_absolute() and ".." not in path.parts and path.parts
    return str(path) if inside else ""


class _Bounded:
    """A stream that gives no piece larger than a header: a size that a tar claims must not become memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        if size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

"""Parts of one file, by position: of a file on this machine, or of one in a store elsewhere without a copy of it here.

A file is opened anew for each call: thousands of shards would use up the handles that a process may have. It is read by position
and not mapped into memory: a file that was cut meanwhile gives an error here, where a mapped page would kill the process.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fsspec import AbstractFileSystem

from tinywave_core.errors import DamagedArtifactError

Part = tuple[int, int]
"""Where it begins, and its bytes."""


class Ranges(Protocol):
    """A file of which parts are read."""

    def read(self, parts: Sequence[Part]) -> list[bytes]:
        """The bytes of some parts; DamagedArtifactError where the file is gone or has fewer."""
        ...


@dataclass(frozen=True)
class LocalRanges:
    """Of a file on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, parts: Sequence[Part]) -> list[bytes]:
        try:
            handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError as error:
            raise _gone(self) from error
        try:
            found = [os.pread(handle, size, start) for start, size in parts]
            _require_whole(self, found, parts, os.fstat(handle).st_size)
        finally:
            os.close(handle)
        return found


@dataclass(frozen=True)
class RemoteRanges:
    """Of a file in a store elsewhere: all parts are asked for at once."""

    filesystem: AbstractFileSystem
    name: str

    def __str__(self) -> str:
        return self.filesystem.unstrip_protocol(self.name)

    def read(self, parts: Sequence[Part]) -> list[bytes]:
        starts, ends = [start for start, _ in parts], [start + size for start, size in parts]
        try:
            found = self.filesystem.cat_ranges([self.name] * len(parts), starts, ends, on_error="raise")
        except FileNotFoundError as error:
            raise _gone(self) from error
        _require_whole(self, found, parts, None)
        return found


def _gone(file: Ranges) -> DamagedArtifactError:
    return DamagedArtifactError(f"{file} is gone: run its stage again")


def _require_whole(file: Ranges, found: Sequence[bytes], parts: Sequence[Part], size: int | None) -> None:
    for data, (start, wanted) in zip(found, parts, strict=True):
        if len(data) != wanted:
            has = f"has {size:,} bytes" if size is not None else f"gives {len(data):,} bytes from {start:,} on"
            raise DamagedArtifactError(
                f"{file} {has}, and those from {start:,} to {start + wanted:,} are needed: it was cut. "
                "Run `tinywave repair`, then run again"
            )

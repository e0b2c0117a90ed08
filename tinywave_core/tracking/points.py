"""A curve as trackers take it, a training that they show while it goes on, and settings by dotted key. Imports nothing heavy."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PROJECT = "tinywave"
"""The experiment, or project, that runs go into."""


@dataclass(frozen=True)
class Point:
    """One step of a training."""

    step: int
    values: dict[str, float]
    """By term, such as `loss`; steps at which a term was not measured lack it."""


@dataclass(frozen=True)
class Training:
    """What a tracker knows of a training from its beginning."""

    id: str
    """Of the artifact that it makes: the same however often it is stopped and goes on."""
    part: str
    """teacher, student, control, vocoder …"""
    parameters: dict[str, str]
    """Settings of its stage, by dotted key."""

    @property
    def name(self) -> str:
        return f"{self.part} {self.fingerprint[:8]}"

    @property
    def fingerprint(self) -> str:
        return self.id.rpartition("/")[2]


class LiveRun(Protocol):
    """A run of a tracker that grows. Points that it has already are not added again, whoever added them."""

    def add(self, points: list[Point], at_ms: int) -> None:
        """The curve so far, which was so at a time in ms since 1970."""

    def end(self, *, is_done: bool) -> None:
        """The training is done, or was stopped and may go on."""


def points_of(rows: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Records of a curve as points."""
    return [
        Point(int(row["step"]), {name: float(v) for name, v in row.items() if name != "step" and v is not None})
        for row in rows
    ]


def curve_of(path: Path) -> list[Point]:
    """The curve in a curves.parquet."""
    from tinywave_core.storage.shards import read_table

    return points_of(read_table(path).to_pylist())


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings by dotted key."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def in_words(error: BaseException) -> str:
    """The kind of an error and the beginning of its first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.200}"

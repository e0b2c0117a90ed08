"""How many recordings have labels and from where, which label rows found no recording, and what is wrong: for people."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

SHOWN = 5  # names of rows or files that stand for the others


@dataclass(frozen=True)
class Some:
    """Things of a kind: their number, and the first of them."""

    kind: str
    number: int = 0
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """Where labels came from."""

    layout: str
    files: int  # none where the recordings' own paths say it
    first: str  # one of the files
    transcripts: int  # of recordings that have it from here
    speakers: int


@dataclass(frozen=True)
class LabelReport:
    """Labels of a source in numbers. Recordings are its audio files, good and bad."""

    recordings: int = 0
    transcripts: int = 0
    speakers: int = 0
    origins: tuple[Origin, ...] = ()
    unmatched: Some = Some("unmatched")  # rows and texts that found no recording
    problems: tuple[Some, ...] = ()  # by a key of claims.PROBLEMS
    unread: Some = Some("unread")  # tables and JSON that are no labels
    details: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # all of the last three: kind and place

    @property
    def is_empty(self) -> bool:
        """Whether there are no labels at all, and no file that could have been some."""
        return not (self.transcripts or self.speakers or self.unmatched.number or self.problems or self.unread.number)


def some(kind: str, found: Iterable[str]) -> Some:
    """Their number and the first of them, each once."""
    each = list(dict.fromkeys(found))
    return Some(kind, len(each), tuple(each[:SHOWN]))


def origins(taken: Iterable[tuple[str, str, str]]) -> tuple[Origin, ...]:
    """Origins of labels that were taken, each what it is (transcript or speaker), its layout and its file; the largest first."""
    numbers: dict[str, Counter[str]] = defaultdict(Counter)
    files: dict[str, set[str]] = defaultdict(set)
    for what, layout, path in taken:
        numbers[layout][what] += 1
        files[layout] |= {path} if path else set()
    found = [
        Origin(layout, len(files[layout]), min(files[layout], default=""), count["transcript"], count["speaker"])
        for layout, count in numbers.items()
    ]
    return tuple(sorted(found, key=lambda origin: (-origin.transcripts - origin.speakers, origin.layout)))


def problems(found: Sequence[tuple[str, str]]) -> tuple[Some, ...]:
    """Problems by kind."""
    kinds = dict.fromkeys(kind for kind, _ in found)
    return tuple(some(kind, (where for k, where in found if k == kind)) for kind in kinds)


NO_LABELS = LabelReport()

"""What every benchmark of pairs comes down to: two versions of one thing, of which a model should prefer the first.

A recording is a Path, a text a str. Which version is the right one comes from file names, a table or a manifest, never from
the order of a folder: slamkit's reader takes that where two names begin with the same number, and with it half of the pairs
come out the wrong way round.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinywave_core.errors import SourceError
from tinywave_core.names import not_linked_out

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3")
WHOLE, MACRO = RESERVED = "all", "macro"  # figures over all pairs, and over all subsets
MANIFESTS = ("pairs.jsonl", "pairs.csv")
MANIFEST_ADVICE = "or write a pairs.jsonl into the folder, one line {id, pos, neg} per pair"

Content = Path | str
"""A recording, or words."""


@dataclass(frozen=True)
class Pair:
    """One two-way choice."""

    id: str
    positive: Content
    negative: Content
    prompt: Content | None = None
    """What both versions go on from; None where they are whole."""
    group: str | None = None
    """Pairs of one group are one item: voices of a sentence, say. None: the pair is an item of its own."""
    voice: str | None = None
    text: str | None = None
    """What the positive version says, for people."""
    subset: str = WHOLE


@dataclass(frozen=True)
class Suite:
    """A benchmark that was read."""

    name: str
    pairs: tuple[Pair, ...] = field(repr=False)
    subsets: Mapping[str, tuple[str, ...]]
    """What is reported beside the whole: each name with the `subset` values of the pairs that it covers."""

    @classmethod
    def of(cls, name: str, pairs: Sequence[Pair], unions: Mapping[str, Iterable[str]] | None = None) -> "Suite":
        """Every `subset` that occurs, in order of appearance, and `unions` of several as far as they occur."""
        names = dict.fromkeys(pair.subset for pair in pairs)
        subsets: dict[str, tuple[str, ...]] = {subset: (subset,) for subset in names} if len(names) > 1 else {}
        for union, parts in (unions or {}).items():
            occurring = tuple(part for part in parts if part in names)
            if len(occurring) > 1 and len(occurring) < len(names):
                subsets[union] = occurring
        return cls(name, tuple(pairs), subsets)


def audio_files(folder: Path) -> list[Path]:
    """Recordings in a folder by name, without the hidden ones that archivers leave behind."""
    return [p for p in entries(folder) if p.suffix.lower() in AUDIO and p.is_file() and p.name[0] != "."]


def folders(folder: Path) -> list[Path]:
    """Folders in a folder by name, hidden ones left out."""
    return [p for p in entries(folder) if p.is_dir() and p.name[0] not in "._"]


def entries(folder: Path) -> list[Path]:
    """All that lies in a folder by name; SourceError for a link that leads out of it."""
    return [not_linked_out(folder, path) if path.is_symlink() else path for path in sorted(folder.iterdir())]


def files_below(folder: Path) -> list[Path]:
    """Recordings of a folder; of the folders in it (one per voice, say) where it has none itself."""
    return audio_files(folder) or [path for inner in folders(folder) for path in audio_files(inner)]


def some(names: Iterable[object], most: int = 3) -> str:
    """The first few names, for a message."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def no_audio(folder: Path, expected: str) -> SourceError:
    """The error for a folder without recordings."""
    return SourceError(f"{folder} holds no audio files: expected {expected}; pass the folder that they are in")

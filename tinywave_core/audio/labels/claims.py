"""What label files say, before it is known which recordings they mean: claims, and what is wrong with them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from tinywave_core.audio.labels.tables import Table, read_table
from tinywave_core.audio.labels.text import decode

# What can be wrong with labels: its name, and what was found, expected and is to be done.
PROBLEMS = {
    "not UTF-8": "The file is neither UTF-8 nor marked; expected UTF-8 or a file with a byte-order mark: save it as UTF-8",
    "unreadable": "The file cannot be opened: check its permissions",
    "too large": "The file has more than 2 GiB, expected less of a table or text: cut it into several",
    "malformed": "The file or line cannot be read as what it looks like: mend it, or give it another name",
    "ambiguous": "The name fits several recordings, so none got it: write the path of the recording",
    "rows disagree": "One table says two things of one recording, so it counts for neither: keep one row",
    "files disagree": "Another label file says something else of this recording and was followed: mend one of them",
    "no sound": "The row of a table has neither sound nor the path of a file, so there is nothing to take",
    "segment": "The transcript is of a part of a recording whose beginning and end in seconds are not both known, so it is not cut out: "
    "write both",
    "several speakers": "Its parts are of several speakers, so it has none: cut the audio into one file per row to keep them apart",
    "voice activity": "The spans of speech are no pairs of beginning and end in seconds, so our own are used: mend them",
    "channel": "Whether channels count from 0 or from 1 is not clear, or there are more than two: write A and B",
    "command": "wav.scp asks for a command, which is never run: write the audio into files, and their paths into wav.scp",
}


@dataclass(frozen=True, slots=True)
class Claim:
    """What a label file says of one recording."""

    name: str
    """Of the recording: a path, or an id."""
    speaker: str | None = None
    transcript: str | None = None
    problem: str = ""
    """A key of PROBLEMS; the name of the recording is then told with it."""
    span: tuple[float, float] | None = None
    """Where in the recording it is said, in seconds, if the file says so."""
    channel: int | None = None
    """Which of two channels it is of, 1 or 2, if the file says so."""
    is_speech: bool = False
    """Whether it only says that somebody speaks in `span`, whatever is said."""


@dataclass(frozen=True)
class LabelFile:
    """A label file of the source."""

    path: str
    data: bytes = field(repr=False)
    read: Callable[[str], bytes | None] = field(repr=False)
    """The bytes of any other label file of the source, None where there is none that can be read."""

    @property
    def folder(self) -> str:
        """Its folder with a slash, or nothing for the source itself."""
        return self.path[: self.path.rfind("/") + 1]

    @property
    def name(self) -> str:
        """Its last part."""
        return self.path[len(self.folder) :]

    @cached_property
    def text(self) -> str:
        """What is in it; UnicodeError where that is no text."""
        return decode(self.data)

    @cached_property
    def table(self) -> Table | None:
        """Its rows with named columns, where it has such; ValueError where they cannot be read."""
        return read_table(self.name, self.data)

    def beside(self, name: str) -> str:
        """The text of another file in its folder; nothing where there is none."""
        return decode(self.read(self.folder + name) or b"")


@dataclass(frozen=True)
class Layout:
    """A way in which corpora write labels. `layouts.py` has all of them."""

    name: str
    fits: Callable[[LabelFile], bool]
    """Whether a file is written so, by its name or its content."""
    read: Callable[[LabelFile], Iterable[Claim]]
    folder: Callable[[LabelFile], str] = lambda file: file.folder
    """Where the names of its recordings begin."""

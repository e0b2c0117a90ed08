"""What lies below a source and is not looked at, by kind: how many entries, and the first few names; a line for people.

Links, pipes and hidden files are left alone for good reasons, but never in silence: whoever wonders where a recording is
finds its kind here. Entries are counted, not kept, so that a million of them take no memory.
"""

from collections import Counter
from dataclasses import dataclass, field

EXAMPLES = 3
STORE, OWN_FOLDER = "store", "own folder"
HIDDEN, LINK_IN, LINK_OUT, LINK_LOST = "hidden", "link in", "link out", "link lost"
PIPE, SOCKET, DEVICE = "pipe", "socket", "device"
COLUMN = "column"
CUT_OFF, OUTSIDE = "cut off", "outside"
CLOSED_FILE, CLOSED_FOLDER = "closed file", "closed folder"
# What one and several entries of a kind are called.
WORDS = {
    STORE: ("the store", "stores"),
    OWN_FOLDER: ("a folder of the store that the source is", "folders of the store that the source is"),
    CLOSED_FOLDER: ("folder that may not be read", "folders that may not be read"),
    CLOSED_FILE: ("file that may not be read", "files that may not be read"),
    CUT_OFF: ("tar that ends too soon, taken as far as it goes", "tars that end too soon, taken as far as they go"),
    OUTSIDE: ("file of a tar whose name leads out of it", "files of tars whose names lead out of them"),
    COLUMN: (
        "further column of sound in a table, which has another",
        "further columns of sound in tables, which have another",
    ),
    HIDDEN: ("hidden file", "hidden files"),
    LINK_LOST: ("symbolic link to nothing", "symbolic links to nothing"),
    LINK_OUT: ("symbolic link out of the source", "symbolic links out of the source"),
    LINK_IN: ("symbolic link inside the source", "symbolic links inside the source"),
    PIPE: ("named pipe", "named pipes"),
    SOCKET: ("socket", "sockets"),
    DEVICE: ("device", "devices"),
}


@dataclass
class LeftOut:
    """Entries by kind (a key of WORDS): their number, and the paths of the first few."""

    numbers: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, path: str) -> None:
        """Count one entry; `path` is relative to the source, and printable."""
        self.numbers[kind] += 1
        if len(seen := self.examples.setdefault(kind, [])) < EXAMPLES:
            seen.append(path)

    @property
    def total(self) -> int:
        """Entries of all kinds; a folder that is left out is one."""
        return self.numbers.total()

    def line(self) -> str:
        """All kinds in a line: "left out: the store out/store, 2 hidden files (.a.wav, .b.wav)"; empty where nothing is."""
        parts = [self._words(kind) for kind in WORDS if self.numbers[kind]]
        return f"left out below the source: {'; '.join(parts)}" if parts else ""

    def _words(self, kind: str) -> str:
        number, (one, several) = self.numbers[kind], WORDS[kind]
        names = ", ".join(self.examples[kind]) + (", …" if number > EXAMPLES else "")
        if kind in (STORE, OWN_FOLDER) and number == 1:
            return f"{one} {names}"
        return f"{number} {one if number == 1 else several} ({names})"

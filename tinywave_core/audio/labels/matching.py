"""Which recordings a name in a label file means: as it stands, or the only one that it can mean.

Names are paths or ids, with or without the ending, relative to their file, to the source or absolute, with either slash, in either
Unicode form. `exact` hits stand where the name says. Others are the only recording whose path ends like the name, whatever the case
of the letters or the ending of the file: a name that fits several is told, and never goes to one of them.
"""

import posixpath
import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

ENDINGS = "wav|flac|ogg|oga|opus|mp3|mp4|m4a|aac|webm|aif|aiff|sph|au|amr|wma|mka|caf"
AUDIO_ENDING = re.compile(rf"\.({ENDINGS})$", re.IGNORECASE)
CROWD = 64  # recordings of one name: each name that is looked up would be held against all of them
MICROPHONE = re.compile(r"_mic\d$")  # VCTK has one recording per microphone, and one text for both
# Where corpora keep the audio of the tables beside them.
AUDIO_FOLDERS = ("wavs", "wav", "clips")
# Where they keep tables and texts apart from the audio.
TEXT_FOLDERS = {
    *("txt", "text", "texts", "transcript", "transcripts", "transcription", "transcriptions", "label", "labels"),
    *("manifest", "manifests", "metadata", "meta", "tsv", "csv", "json", "list", "lists", "filelist", "filelists"),
}


@dataclass(frozen=True)
class _Index:
    """Recordings by what they are called, in one Unicode form."""

    paths: dict[str, str] = field(default_factory=dict)
    # A list for each of a million paths would be most of the memory, so one path stands for itself.
    stems: dict[str, str | list[str]] = field(default_factory=dict)
    """Without ending."""
    names: dict[str, str | list[str]] = field(default_factory=dict)
    """The last part without ending, in lower case."""
    folders: set[str] = field(default_factory=lambda: {""})
    """That have audio below."""
    by_folder: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Names that more than CROWD recordings have, as they are asked for: these by the last part of their folder, in lower case."""
    in_order: dict[str, list[str]] = field(default_factory=dict)
    """The same, in the order of their paths in one form."""

    def add(self, path: str) -> None:
        """One more recording."""
        plain = _form(path)
        stem = stem_of(plain)
        self.paths[plain] = path
        _put(self.stems, stem, path)
        last = posixpath.basename(stem).casefold()
        for name in {last, MICROPHONE.sub("", last)}:
            _put(self.names, name, path)
        folder = posixpath.dirname(plain)
        while folder and f"{folder}/" not in self.folders:
            self.folders.add(f"{folder}/")
            folder = posixpath.dirname(folder)

    def in_folders(self, name: str, parents: Iterable[str]) -> Sequence[str]:
        """The recordings of a name; of a crowd, those in a folder that is called like one of `parents`."""
        found = _all(self.names, name)
        if len(found) <= CROWD:
            return found
        if name not in self.by_folder:
            crowd = self.by_folder[name] = defaultdict(list)
            for path in found:
                crowd[posixpath.basename(posixpath.dirname(_fold(path)))].append(path)
        return [path for parent in dict.fromkeys(parents) for path in self.by_folder[name].get(parent, ())]

    def below(self, name: str, folder: str) -> Sequence[str]:
        """The recordings of a name; of a crowd, the first ones below a folder, enough to see that they are many."""
        found = _all(self.names, name)
        if len(found) <= CROWD:
            return found
        if name not in self.in_order:
            self.in_order[name] = sorted(found, key=_form)
        first = bisect_left(self.in_order[name], folder, key=_form)
        return self.in_order[name][first : first + CROWD + 1]


def _put(index: dict[str, str | list[str]], key: str, path: str) -> None:
    held = index.setdefault(key, path)
    if isinstance(held, list):
        held.append(path)
    elif held is not path:
        index[key] = [held, path]


def _all(index: dict[str, str | list[str]], key: str) -> Sequence[str]:
    held = index.get(key, ())
    return (held,) if isinstance(held, str) else held


@dataclass(frozen=True)
class Match:
    """Recordings that a name means: one, or the same one in several formats."""

    paths: tuple[str, ...] = ()
    exact: bool = False
    ambiguous: bool = False


class Recordings:
    """The audio files of a source by their names. `root` is where the source lies, for absolute paths."""

    def __init__(self, paths: Iterable[str], root: str = "") -> None:
        self._root = root.replace("\\", "/").rstrip("/") + "/"
        self._listed = list(paths)

    @cached_property
    def _index(self) -> "_Index":
        """Made where a name is looked up: most folders of a million files have no labels."""
        index = _Index()
        for path in self._listed:
            index.add(path)
        return index

    def beside(self, stem: str) -> tuple[str, ...]:
        """The recordings in the same folder with this path but for the ending, in these letters or else in others."""
        stem = _form(stem)
        if hits := _all(self._index.stems, stem):
            return tuple(hits)
        parent = posixpath.basename(posixpath.dirname(_fold(stem)))
        same = [
            path
            for path in self._index.in_folders(posixpath.basename(stem).casefold(), [parent])
            if _fold(stem_of(path)) == _fold(stem)
        ]
        return tuple(same) if len({stem_of(path) for path in same}) == 1 else ()

    def find(self, name: str, folder: str) -> Match:
        """What a name means in a label file whose names begin in `folder` ("" or "a/b/")."""
        form = _form(name.strip())
        if not form:
            return Match()
        for way in dict.fromkeys((form, form.replace("\\", "/"))):
            if match := self._exact(way, _form(folder)):
                return match
        return self._nearest(form.replace("\\", "/"), _form(folder))

    def _exact(self, name: str, folder: str) -> Match | None:
        if name.startswith(self._root):  # an absolute path below the source, or one in a bucket
            name, folder = name[len(self._root) :], ""
        audio_folders = [f"{folder}{audio}/" for audio in AUDIO_FOLDERS if ".." not in name]
        for places in ([folder], audio_folders, [""] if "/" in name else []):
            found = [hits for place in places if (hits := self._at(place + name))]
            if len(found) > 1:
                return Match(ambiguous=True)
            if found:
                return Match(tuple(found[0]), exact=True)
        return None

    def _at(self, path: str) -> Sequence[str]:
        path = posixpath.normpath(path)
        if path in self._index.paths:
            return [self._index.paths[path]]
        return _all(self._index.stems, path) or _all(self._index.stems, AUDIO_ENDING.sub("", path))

    def _nearest(self, name: str, folder: str) -> Match:
        parts = [part.casefold() for part in name.split("/") if part not in ("", ".") and not part.endswith(":")]
        if not parts:
            return Match()
        home = self._home(folder, has_folders=len(parts) > 1)
        names = (parts[-1], AUDIO_ENDING.sub("", parts[-1]))
        if len(parts) > 1:
            # What shares no folder with the name lies right in the folder of the file, or in its home.
            parents = [parts[-2], *(posixpath.basename(_fold(place)[:-1]) for place in (folder, home))]
            named = next(filter(None, (self._index.in_folders(name, parents) for name in names)), ())
        else:
            named = next(filter(None, (self._index.below(name, home) for name in names)), ())
        named = [path for path in named if posixpath.basename(_fold(path)) == parts[-1]] or named
        scores = {
            path: shared
            for path in named
            if _form(path).startswith(home) and (shared := _shared(parts[:-1], path, folder, home)) is not None
        }
        most = max(scores.values(), default=0)
        best = [path for path, shared in scores.items() if shared == most]
        if len({MICROPHONE.sub("", stem_of(path)) for path in best}) > 1:
            return Match(ambiguous=True)
        return Match(tuple(best))

    def _home(self, folder: str, *, has_folders: bool) -> str:
        """The nearest folder at or above a label file's that has audio below; above only for paths, or from a folder of texts."""
        while folder and folder not in self._index.folders:
            if not has_folders and posixpath.basename(folder[:-1]).lower() not in TEXT_FOLDERS:
                return folder
            folder = folder[: folder[:-1].rfind("/") + 1]
        return folder


def stem_of(path: str) -> str:
    """A path without its ending; what begins with its only dot, or ends with one, has none."""
    dot = path.rfind(".")
    return path[:dot] if path.rfind("/") + 1 < dot < len(path) - 1 else path


def _shared(folders: Sequence[str], path: str, folder: str, home: str) -> int | None:
    """How many folders above a recording are those of the name; None unless all of the one's or all of the other's are.

    The name has more of them than the recording where the corpus was moved, or a part of it is here.
    """
    own = [part for part in posixpath.dirname(_fold(path)).split("/") if part]
    shared = 0
    while shared < min(len(folders), len(own)) and folders[-1 - shared] == own[-1 - shared]:
        shared += 1
    base = folder if _form(path).startswith(folder) else home
    return shared if shared == len(folders) or shared >= len(own) - base.count("/") else None


def _form(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _fold(path: str) -> str:
    return _form(path).casefold()

"""Which recordings a name in a label file means: as it stands, or the only one that it can mean.

Names are paths or ids, with or without the ending, relative to their file, to the source or absolute, with either slash, in either
Unicode form. `exact` hits stand where the name says. Others are the only recording whose path ends like the name, whatever the case
of the letters or the ending of the file: a name that fits several is told, and never goes to one of them.
"""

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

ENDINGS = "wav|flac|ogg|oga|opus|mp3|mp4|m4a|aac|webm|aif|aiff|sph|au|amr|wma|mka|caf"
AUDIO_ENDING = re.compile(rf"\.({ENDINGS})$", re.IGNORECASE)
MICROPHONE = re.compile(r"_mic\d$")  # VCTK has one recording per microphone, and one text for both
# Where corpora keep the audio of the tables beside them.
AUDIO_FOLDERS = ("wavs", "wav", "clips")
# Where they keep tables and texts apart from the audio.
TEXT_FOLDERS = {
    *("txt", "text", "texts", "transcript", "transcripts", "transcription", "transcriptions", "label", "labels"),
    *("manifest", "manifests", "metadata", "meta", "tsv", "csv", "json", "list", "lists", "filelist", "filelists"),
}


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
        self._paths: dict[str, str] = {}
        self._stems: dict[str, list[str]] = defaultdict(list)  # without ending
        self._names: dict[str, list[str]] = defaultdict(list)  # last part without ending, in lower case
        self._folders = {""}  # that have audio below
        for path in paths:
            plain = unicodedata.normalize("NFC", path)
            stem = stem_of(plain)
            self._paths[plain] = path
            self._stems[stem].append(path)
            last = posixpath.basename(stem).casefold()
            for name in {last, MICROPHONE.sub("", last)}:
                self._names[name].append(path)
            folder = posixpath.dirname(plain)
            while folder and f"{folder}/" not in self._folders:
                self._folders.add(f"{folder}/")
                folder = posixpath.dirname(folder)

    def beside(self, stem: str) -> tuple[str, ...]:
        """The recordings in the same folder with this path but for the ending, in these letters or else in others."""
        stem = unicodedata.normalize("NFC", stem)
        if hits := self._stems.get(stem):
            return tuple(hits)
        same = [
            path
            for path in self._names.get(posixpath.basename(stem).casefold(), ())
            if _fold(stem_of(path)) == _fold(stem)
        ]
        return tuple(same) if len({stem_of(path) for path in same}) == 1 else ()

    def find(self, name: str, folder: str) -> Match:
        """What a name means in a label file whose names begin in `folder` ("" or "a/b/")."""
        form = unicodedata.normalize("NFC", name.strip())
        if not form:
            return Match()
        for way in dict.fromkeys((form, form.replace("\\", "/"))):
            if match := self._exact(way, unicodedata.normalize("NFC", folder)):
                return match
        return self._nearest(form.replace("\\", "/"), unicodedata.normalize("NFC", folder))

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
        if path in self._paths:
            return [self._paths[path]]
        return self._stems.get(path) or self._stems.get(AUDIO_ENDING.sub("", path)) or ()

    def _nearest(self, name: str, folder: str) -> Match:
        parts = [part.casefold() for part in name.split("/") if part not in ("", ".") and not part.endswith(":")]
        if not parts:
            return Match()
        home = self._home(folder, has_folders=len(parts) > 1)
        named = self._names.get(parts[-1]) or self._names.get(AUDIO_ENDING.sub("", parts[-1])) or []
        named = [path for path in named if posixpath.basename(_fold(path)) == parts[-1]] or named
        scores = {
            path: shared
            for path in named
            if unicodedata.normalize("NFC", path).startswith(home)
            and (shared := _shared(parts[:-1], path, folder, home)) is not None
        }
        most = max(scores.values(), default=0)
        best = [path for path, shared in scores.items() if shared == most]
        if len({MICROPHONE.sub("", stem_of(path)) for path in best}) > 1:
            return Match(ambiguous=True)
        return Match(tuple(best))

    def _home(self, folder: str, *, has_folders: bool) -> str:
        """The nearest folder at or above a label file's that has audio below; above only for paths, or from a folder of texts."""
        while folder and folder not in self._folders:
            if not has_folders and posixpath.basename(folder[:-1]).lower() not in TEXT_FOLDERS:
                return folder
            folder = folder[: folder[:-1].rfind("/") + 1]
        return folder


def stem_of(path: str) -> str:
    """A path without its ending."""
    return path[: -len(PurePosixPath(path).suffix) or None]


def _shared(folders: Sequence[str], path: str, folder: str, home: str) -> int | None:
    """How many folders above a recording are those of the name; None unless all of the one's or all of the other's are.

    The name has more of them than the recording where the corpus was moved, or a part of it is here.
    """
    own = [part for part in posixpath.dirname(_fold(path)).split("/") if part]
    shared = 0
    while shared < min(len(folders), len(own)) and folders[-1 - shared] == own[-1 - shared]:
        shared += 1
    base = folder if unicodedata.normalize("NFC", path).startswith(folder) else home
    return shared if shared == len(folders) or shared >= len(own) - base.count("/") else None


def _fold(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()

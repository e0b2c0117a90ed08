"""A folder -> its benchmark: `open_suite("salmon", folder)`; the kind can be left to the folder where that says it."""

import csv
import re
from pathlib import Path
from typing import Literal

from tinywave_core.errors import ConfigError, SourceError
from tinywave_core.evals.suites.base import MANIFESTS, Suite
from tinywave_core.evals.suites.manifest import open_manifest
from tinywave_core.evals.suites.salmon import PARTS, open_salmon
from tinywave_core.evals.suites.story_cloze import open_story_cloze
from tinywave_core.evals.suites.zerospeech import FOLDER, GOLD, Task, open_zerospeech
from tinywave_core.names import not_linked_out

Kind = Literal["sSC", "tSC", "salmon", "swuggy", "sblimp", "pairs"]
KINDS: tuple[Kind, ...] = ("sSC", "tSC", "salmon", "swuggy", "sblimp", "pairs")


def open_suite(kind: str | None, folder: str | Path) -> Suite:
    """The benchmark in a folder (for `pairs` also a manifest itself); None asks the folder for its kind.

    A pairs.jsonl or pairs.csv in a folder of any kind has the last word on its pairs. SourceError where the folder does not
    say which recordings make a pair, or which of them is the right one.
    """
    place = Path(folder).expanduser()
    if not place.exists():
        raise SourceError(f"there is nothing at {place}: expected the folder of a benchmark, or a manifest of pairs")
    name = kind_of(kind) if kind is not None else detect(place)
    manifest = _manifest(place)
    if manifest:
        return open_manifest(name, manifest)
    if place.is_file():
        raise SourceError(f"{place} is a file: expected a folder, or a manifest of pairs (.jsonl or .csv)")
    match name:
        case "sSC" | "tSC":
            return open_story_cloze(name, place)
        case "salmon":
            return open_salmon(place)
        case "swuggy" | "sblimp":
            return open_zerospeech(name, place)
        case "pairs":
            raise SourceError(
                f"{place} has no {' or '.join(MANIFESTS)}: expected one with id, pos and neg of every pair"
            )


def split_word(word: str) -> tuple[str | None, Path]:
    """Kind and folder of a word such as `salmon=DIR`, or of a folder alone."""
    name, equals, place = word.partition("=")
    is_named = bool(equals) and re.fullmatch(r"[A-Za-z]\w*", name) is not None
    return name if is_named else None, Path(place if is_named else word).expanduser()


def kind_of(name: str) -> Kind:
    """The kind as it is spelled here, whatever the case."""
    for kind in KINDS:
        if kind.lower() == name.lower():
            return kind
    raise ConfigError(f"{name!r} is no kind of suite: expected one of {', '.join(KINDS)}, as in --suite salmon=DIR")


def detect(folder: Path) -> Kind:
    """The kind that a folder's names and files tell; SourceError where they tell none or several."""
    if _manifest(folder):
        return "pairs"
    path = folder.resolve()
    kinds: set[Kind] = set()
    if path.name in PARTS or any((folder / part).is_dir() for part in PARTS):
        kinds.add("salmon")
    for task, name in FOLDER.items():
        if _gold_task(folder / GOLD) == task or (folder / name).is_dir() or name in (path.name, path.parent.name):
            kinds.add(task)
    plain = path.name.lower().replace("_", "").replace("-", "")
    if plain.endswith(("ssc", "sstorycloze")):
        kinds.add("sSC")
    if plain.endswith(("tsc", "tstorycloze")):
        kinds.add("tSC")
    if len(kinds) == 1:
        return kinds.pop()
    found = f"could be {' or '.join(sorted(kinds))}" if kinds else "does not say which benchmark it is"
    raise SourceError(f"{folder} {found}: pass its kind, one of {', '.join(KINDS)}, as in --suite sSC={folder}")


def _manifest(place: Path) -> Path | None:
    if place.is_file():
        return place if place.suffix.lower() in (".jsonl", ".csv") and place.name != GOLD else None
    found = next((place / name for name in MANIFESTS if (place / name).is_file()), None)
    return not_linked_out(place, found) if found else None


def _gold_task(path: Path) -> Task | None:
    """sWUGGY has words, sBLIMP sentences."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            columns = next(csv.reader(file), [])
        except csv.Error:  # the reader of the suite says what is wrong
            return None
    return "swuggy" if "word" in columns else "sblimp" if "subtype" in columns else None

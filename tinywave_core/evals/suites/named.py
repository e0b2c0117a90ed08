"""Pairs of whole recordings whose names say which is which: `12_correct.wav` and `12_incorrect.wav`, or slamkit's numbers.

slamkit's layout is `<number><separator>…wav`, sorted by the number and taken two by two, the positive one first; folders in
it are voices. That is taken only where it can mean one thing: all numbers differ and those of a pair follow one another.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tinywave_core.errors import SourceError
from tinywave_core.evals.suites.base import MANIFEST_ADVICE, Pair, files_below, no_audio, some

POLARITY = {
    **dict.fromkeys(("correct", "positive", "pos"), True),
    **dict.fromkeys(("incorrect", "negative", "neg"), False),
}
_WORD = re.compile(rf"(?P<stem>.*)[_+-](?P<word>{'|'.join(POLARITY)})", re.IGNORECASE)


def named_pairs(folder: Path, separator: str = "_") -> list[Pair]:
    """Pairs of the recordings in `folder`, or in the folders in it; SourceError where their names leave it open."""
    files = files_below(folder)
    if not files:
        raise no_audio(
            folder, f"<number>{separator}…wav two by two, or <id>_correct.wav and <id>_incorrect.wav for each pair"
        )
    polar = {path: polarity(path) for path in files}
    said = [path for path in files if polar[path] is not None]
    if not said:
        voices = defaultdict(list)
        for path in files:
            voices[path.parent].append(path)
        several = len(voices) > 1
        return [
            pair
            for place, inside in voices.items()
            for pair in _numbered(place, inside, separator, place.name if several else None)
        ]
    if len(said) < len(files):
        silent = [path.name for path in files if polar[path] is None]
        raise SourceError(
            f"{folder}: {len(said)} names say which version they are, such as {said[0].name}, and {len(silent)} do not, such as "
            f"{some(silent, 1)}; expected it of all: rename those or take them out, {MANIFEST_ADVICE}"
        )
    return _worded(folder, [(path, *found) for path in files if (found := polar[path])])


def polarity(path: Path) -> tuple[str, bool] | None:
    """(Name without the word, whether it is the positive version) of `7_correct.wav` or `correct/7.wav`; else None."""
    if path.parent.name.lower() in POLARITY:
        return path.stem, POLARITY[path.parent.name.lower()]
    match = _WORD.fullmatch(path.stem)
    return (match["stem"], POLARITY[match["word"].lower()]) if match else None


def _worded(folder: Path, files: Sequence[tuple[Path, str, bool]]) -> list[Pair]:
    versions: dict[tuple[str | None, str], dict[bool, list[Path]]] = defaultdict(lambda: {True: [], False: []})
    for path, stem, positive in files:
        inside = path.parent != folder and path.parent.name.lower() not in POLARITY
        versions[(path.parent.name if inside else None), stem][positive].append(path)
    for (_, stem), found in versions.items():
        if (len(found[True]), len(found[False])) != (1, 1):
            names = some(path.relative_to(folder) for path in found[True] + found[False])
            raise SourceError(
                f"{folder}: {len(found[True])} positive and {len(found[False])} negative versions of {stem!r} ({names}); "
                f"expected one of each: add or remove files, {MANIFEST_ADVICE}"
            )
    return [
        Pair(stem if voice is None else f"{voice}/{stem}", found[True][0], found[False][0], group=stem, voice=voice)
        for (voice, stem), found in versions.items()
    ]


def _numbered(folder: Path, files: Sequence[Path], separator: str, voice: str | None) -> list[Pair]:
    numbers = {path: _number(path, separator) for path in files}
    strange = [path.name for path in files if numbers[path] is None]
    if strange:
        raise SourceError(
            f"{folder}: {len(strange)} of {len(files)} names begin with no number and {separator!r}, such as {strange[0]}; "
            f"expected <number>{separator}…wav two by two, or <id>_correct.wav and <id>_incorrect.wav: rename them, "
            f"{MANIFEST_ADVICE}"
        )
    ordered = sorted(files, key=lambda path: (numbers[path] or 0, path.name))
    shared = [(a, b) for a, b in pairwise(ordered) if numbers[a] == numbers[b]]
    if shared:
        raise SourceError(
            f"{folder}: {len(shared)} names share their number with the one before, such as {shared[0][0].name} and "
            f"{shared[0][1].name}, so nothing says which is the positive one; expected numbers that differ, the positive one "
            f"first, or names that end in _correct and _incorrect: rename them, {MANIFEST_ADVICE}"
        )
    twos = [ordered[i : i + 2] for i in range(0, len(ordered), 2)]
    torn = [two for two in twos if len(two) < 2 or numbers[two[0]] + 1 != numbers[two[1]]]  # type: ignore[operator]
    if torn:
        raise SourceError(
            f"{folder}: {len(files)} files, and {some((p.name for p in torn[0]), 2)} make no pair; expected the numbers of a pair "
            f"to follow one another, as 0 and 1, 2 and 3: a file is missing or one too many; complete the folder, "
            f"{MANIFEST_ADVICE}"
        )
    return [Pair(p.stem if voice is None else f"{voice}/{p.stem}", p, n, group=p.stem, voice=voice) for p, n in twos]


def _number(path: Path, separator: str) -> int | None:
    head = path.stem.partition(separator)[0]
    return int(head) if re.fullmatch(r"[0-9]{1,12}", head) else None

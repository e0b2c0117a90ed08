"""sWUGGY and sBLIMP of ZeroSpeech 2021: words against non-words, grammatical sentences against ungrammatical ones.

The data set has `lexical/{dev,test}` and `syntactic/{dev,test}`, recordings with names drawn at random, and a gold.csv (not in
every archive, and withheld for test) that pairs them. slamkit's renaming needs none: `<number>_…wav` for sWUGGY, `<number>+…wav`
for sBLIMP. Voices of a word or sentence are one item, as in the official scorer; unlike it, rows are paired by key and not by
their order. Its frequency bands "1-5", "6-20" and "21-100" are closed on the left and hold 1 to 4, 5 to 19, 20 to 99: so
they are called here.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from tinywave_core.errors import SourceError
from tinywave_core.evals.suites.base import MANIFEST_ADVICE, Pair, Suite, audio_files, files_below, no_audio, some
from tinywave_core.evals.suites.named import named_pairs
from tinywave_core.names import not_linked_out

Task = Literal["swuggy", "sblimp"]
GOLD = "gold.csv"
FOLDER: dict[Task, str] = {"swuggy": "lexical", "sblimp": "syntactic"}
SEPARATOR: dict[Task, str] = {"swuggy": "_", "sblimp": "+"}
COLUMNS: dict[Task, tuple[str, ...]] = {
    "swuggy": ("id", "filename", "voice", "frequency", "word", "correct"),
    "sblimp": ("id", "filename", "voice", "type", "subtype", "transcription", "correct"),
}
_BANDS = ((1, "oov"), (5, "1-4"), (20, "5-19"), (100, "20-99"), (float("inf"), "100+"))
IN_VOCABULARY = tuple(name for _, name in _BANDS[1:])

Row = Mapping[str, str]


def open_zerospeech(task: Task, folder: Path) -> Suite:
    """sWUGGY by word frequency, or sBLIMP by type."""
    place = task_folder(task, folder)
    unions = {"in vocabulary": IN_VOCABULARY} if task == "swuggy" else None
    if not (place / GOLD).is_file():
        _require_numbers(task, place)
        return Suite.of(task, named_pairs(place, SEPARATOR[task]))
    files = {path.stem: path for path in audio_files(place)}
    rows = _rows(task, place / GOLD)
    missing = [row["filename"] for row in rows if row["filename"] not in files]
    if missing:
        raise SourceError(
            f"{place / GOLD} names {len(missing)} recordings that are not beside it, such as {some(missing)}; expected all of "
            f"them among the {len(files)} there: copy the folder again, or take the gold.csv that belongs to it"
        )
    return Suite.of(task, _pairs(task, place / GOLD, rows, files), unions)


def task_folder(task: Task, folder: Path) -> Path:
    """Where the recordings of a task lie: `folder`, or in it dev or test, or lexical/dev and so on, if only one of them is there."""
    inner = [folder / below / part for below in (".", FOLDER[task]) for part in ("dev", "test")]
    there = [place for place in inner if place.is_dir() and audio_files(not_linked_out(folder, place))]
    if audio_files(folder) or not there:
        return folder
    if len(there) > 1:
        raise SourceError(f"{folder} holds {some(there)}: pass the one that is meant")
    return there[0]


def recordings(task: Task, folder: Path) -> tuple[str, list[Path]]:
    """`dev` or `test`, and all recordings, for a file of scores to submit."""
    place = task_folder(task, folder)
    files = audio_files(place)
    if not files:
        raise no_audio(place, f"the recordings of {FOLDER[task]}/dev or {FOLDER[task]}/test")
    return ("test" if place.name == "test" else "dev"), files


def score_lines(files: Sequence[Path], scores: Sequence[float]) -> str:
    """The file of scores to submit: `<stem> <score>`, likelier is higher, one line for every recording."""
    return "".join(f"{path.stem} {score:.9g}\n" for path, score in zip(files, scores, strict=True))


def has_pairs(task: Task, folder: Path) -> bool:
    """Whether something pairs the recordings: a gold.csv, or slamkit's names."""
    place = task_folder(task, folder)
    return (place / GOLD).is_file() or not _unnumbered(task, files_below(place))


def _require_numbers(task: Task, folder: Path) -> None:
    files = files_below(folder)
    if not files:
        raise no_audio(folder, f"the recordings of {FOLDER[task]}/dev with their {GOLD}")
    odd = _unnumbered(task, files)
    if odd:
        raise SourceError(
            f"{folder} has {len(files)} recordings such as {odd[0]}, and no {GOLD} to say which of them belong together; expected "
            f"{GOLD} beside them (some archives lack it; that of test is withheld), or slamkit's <number>{SEPARATOR[task]}…wav: "
            f"put it there, {MANIFEST_ADVICE}; --submission writes the file of scores without it"
        )


def _unnumbered(task: Task, files: Iterable[Path]) -> list[str]:
    return [path.name for path in files if not path.stem.partition(SEPARATOR[task])[0].isdecimal()]


def _rows(task: Task, path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read as CSV ({error}): copy it again") from error
    absent = [name for name in COLUMNS[task] if name not in columns]
    if absent:
        raise SourceError(
            f"{path} has the columns {', '.join(columns)} and not {', '.join(absent)}: expected the gold.csv of {FOLDER[task]}"
        )
    if not rows:
        raise SourceError(f"{path} has no rows: copy it again")
    for number, row in enumerate(rows, start=2):
        if row["correct"] not in ("0", "1"):
            raise SourceError(f"{path} line {number}: correct is {row['correct']!r}, expected 0 or 1: copy it again")
    return [{**row, "filename": row["filename"].removesuffix(".wav")} for row in rows]


def _pairs(task: Task, path: Path, rows: Iterable[Row], files: Mapping[str, Path]) -> list[Pair]:
    names = ("id",) if task == "swuggy" else ("type", "subtype", "id")
    versions: dict[tuple[str, ...], dict[str, list[Row]]] = defaultdict(lambda: {"1": [], "0": []})
    for row in rows:
        versions[(*(row[name] for name in names), row["voice"])][row["correct"]].append(row)
    pairs: list[Pair] = []
    for key, found in versions.items():
        if (len(found["1"]), len(found["0"])) != (1, 1):
            what = ", ".join(f"{name} {value}" for name, value in zip((*names, "voice"), key, strict=True))
            listed = some(row["filename"] for row in found["1"] + found["0"])
            raise SourceError(
                f"{path}: {what} has {len(found['1'])} correct and {len(found['0'])} incorrect recordings ({listed}); expected "
                "one of each: copy the file again"
            )
        (right,), (wrong,) = found["1"], found["0"]
        text = right["word" if task == "swuggy" else "transcription"]
        subset = _band(right["frequency"]) if task == "swuggy" else right["type"]
        recorded = files[right["filename"]], files[wrong["filename"]]
        pairs.append(Pair("/".join(key), *recorded, None, "/".join(key[:-1]), key[-1], text, subset))
    return sorted(pairs, key=lambda pair: _order(task, pair))


def _order(task: Task, pair: Pair) -> tuple[int, str, int, str]:
    last = (pair.group or "").rpartition("/")[2]
    band = (
        next((i for i, (_, name) in enumerate(_BANDS) if name == pair.subset), len(_BANDS)) if task == "swuggy" else 0
    )
    return band, pair.subset, int(last) if last.isdecimal() else 0, pair.id


def _band(frequency: str) -> str:
    try:
        return next(name for end, name in _BANDS if float(frequency) < end)
    except (ValueError, StopIteration):
        return "no frequency"

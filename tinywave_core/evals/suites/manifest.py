"""Pairs of your own: a JSONL or CSV file with id, pos, neg and, where wanted, prompt, group, voice, text, subset.

pos, neg and prompt are recordings if they end like one (.wav, .flac, .ogg, .opus, .mp3), in or below the folder of the manifest, else text:

    {"id": "1", "pos": "1/right.wav", "neg": "1/wrong.wav"}
    {"id": "2", "prompt": "Tom lost his key.", "pos": "He could not get in.", "neg": "He ate the soup.", "group": "tom"}
"""

import csv
import io
import json
from pathlib import Path

from tinywave_core.errors import SourceError
from tinywave_core.evals.suites.base import AUDIO, RESERVED, WHOLE, Content, Pair, Suite, some
from tinywave_core.names import inside

REQUIRED = ("id", "pos", "neg")
OPTIONAL = ("prompt", "group", "voice", "text", "subset")


def open_manifest(name: str, path: Path) -> Suite:
    """The suite called `name` that the manifest at `path` lists."""
    pairs: dict[str, Pair] = {}
    for place, row in _rows(path):
        pair = _pair(path.parent, place, row)
        if pair.id in pairs:
            raise SourceError(f"{place}: the id {pair.id!r} is there already; expected a new one in every line")
        pairs[pair.id] = pair
    if not pairs:
        raise SourceError(f"{path} lists no pairs: expected lines with {', '.join(REQUIRED)}")
    unnamed = [pair.id for pair in pairs.values() if pair.subset == WHOLE]
    if 0 < len(unnamed) < len(pairs):
        raise SourceError(
            f"{path}: some lines have a subset and {some(unnamed)} have none; expected it in all lines or in none"
        )
    return Suite.of(name, list(pairs.values()))


def _rows(path: Path) -> list[tuple[str, dict[str, object]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = csv.DictReader(io.StringIO(text, newline=""))
            return [(f"{path}:{number}", dict(row)) for number, row in enumerate(rows, start=2)]
        lines = [(f"{path}:{number}", line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        return [(place, _object(place, line)) for place, line in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read ({error}): expected a manifest in UTF-8") from error


def _object(place: str, line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{place} is no JSON ({error}): expected an object with {', '.join(REQUIRED)}") from error
    if not isinstance(row, dict):
        raise SourceError(f"{place} is no JSON object: expected one with {', '.join(REQUIRED)}")
    return row


def _pair(folder: Path, place: str, row: dict[str, object]) -> Pair:
    unknown = [name for name in row if name not in (*REQUIRED, *OPTIONAL)]
    given = {name: str(value) for name, value in row.items() if value not in (None, "")}
    missing = [name for name in REQUIRED if name not in given]
    if unknown or missing:
        found = f"no {some(missing)}" if missing else f"the unknown {some(unknown)}"
        raise SourceError(f"{place} has {found}; expected {', '.join(REQUIRED)} and any of {', '.join(OPTIONAL)}")
    if given["pos"] == given["neg"]:
        raise SourceError(f"{place}: pos and neg are both {given['pos']!r}; expected two versions")
    if given.get("subset") in RESERVED:
        raise SourceError(f"{place}: {given['subset']!r} is the name of a figure here; expected another subset")
    positive, negative = (_content(folder, place, given[name]) for name in ("pos", "neg"))
    if isinstance(positive, Path) != isinstance(negative, Path):
        raise SourceError(f"{place}: one version is a recording and the other a text; expected both in one modality")
    prompt = _content(folder, place, given["prompt"]) if "prompt" in given else None
    group, voice, text = (given.get(name) for name in ("group", "voice", "text"))
    return Pair(given["id"], positive, negative, prompt, group, voice, text, given.get("subset", WHOLE))


def _content(folder: Path, place: str, value: str) -> Content:
    if not value.lower().endswith(AUDIO):
        return value
    path = inside(folder, value, place)
    if not path.is_file():
        raise SourceError(
            f"{place} names {value}, and there is no such file in {folder}: correct the path or copy the file"
        )
    return path

"""slamkit's two files, both ways: features.jsonl <-> units of utterances, tokens.jsonl <-> sequences of ids.

Forms (github.com/slp-rl/slamkit, example_data and cli/prepare_tokens.py), one JSON object a line:
- features.jsonl: {"units": [3, 49], "duration": [1, 2], "file_name": "a.flac"}: runs of equal units and their lengths in
  frames of 25 Hz. Where it was made without deduplication every duration is 1.
- tokens.jsonl: {"file_name": "a.flac", "audio_repr": "<Un3><Un49>"}; interleaved: "<text>the cat<speech><Un3><text> sat",
  in which words bring their leading spaces along.

slamkit has no pitch and no style: they are left out, and come back empty. Other fields are not looked at. The same file
name may come twice: slamkit appends to a file that exists.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinywave_core.errors import SourceError, TokenError
from tinywave_core.sequences.interleaving import SPECIAL, SPEECH, DecodeText, EncodeText, modalities
from tinywave_core.sequences.text_corpus import LONGEST, lines
from tinywave_core.tokenizers.speech import EMPTY, HUBERT, Streams, merge, run_starts
from tinywave_core.tokenizers.vocabulary import EOS_ID, Ids, Vocabulary

_MOST_UNITS = 10_000  # [Hu9999] is the last that has a name
_LONGEST_FRAMES = 24 * 3600 * 25  # a day: a forged duration must not fill the memory
_PARTS = re.compile(
    r"(?P<speech>(?:<Un[0-9]{1,4}>)+)|<(?P<marker>speech|text)>|(?P<text>(?:(?!<Un[0-9]{1,4}>|<speech>|<text>).)+)",
    re.DOTALL,
)


def write_features(path: Path, utterances: Iterable[tuple[str, Streams]]) -> None:
    """Write features.jsonl of (file name, streams)."""
    with path.open("w", encoding="utf-8") as file:
        for name, streams in utterances:
            starts = run_starts(streams.units)
            row = {
                "units": streams.units[starts].tolist(),
                "duration": np.diff(starts, append=len(streams.units)).tolist(),
                "file_name": name,
            }
            file.write(json.dumps(row) + "\n")


def read_features(path: Path) -> Iterator[tuple[str, Streams]]:
    """File names and raw units of a features.jsonl; SourceError, naming file and line, on anything else."""
    for place, row in _rows(path):
        units = _whole_numbers(row, "units", place, 0, _MOST_UNITS - 1)
        duration = _whole_numbers(row, "duration", place, 1, _LONGEST_FRAMES)
        if len(units) != len(duration):
            raise SourceError(f"{place} has {len(units)} units and {len(duration)} durations; expected as many")
        if sum(duration) > _LONGEST_FRAMES:
            raise SourceError(f"{place} has {sum(duration)} frames; expected a day's {_LONGEST_FRAMES} at most")
        yield _name(row, place), Streams(np.repeat(np.array(units, np.int64), duration), EMPTY, EMPTY)


def write_tokens(
    path: Path, sequences: Iterable[tuple[str, Ids]], vocabulary: Vocabulary, decode_text: DecodeText
) -> None:
    """Write tokens.jsonl of (file name, ids). Sequences of speech alone have no markers, as slamkit's speech models want."""
    with path.open("w", encoding="utf-8") as file:
        for name, ids in sequences:
            row = {"file_name": name, "audio_repr": _representation(ids, vocabulary, decode_text)}
            file.write(json.dumps(row) + "\n")


def read_tokens(path: Path, vocabulary: Vocabulary, encode_text: EncodeText | None = None) -> Iterator[tuple[str, Ids]]:
    """File names and ids (<s>, marker, …, </s>) of a tokens.jsonl; spaces around a text go, repeated units count once.

    SourceError, naming file and line, on anything else, and on text where there is no `encode_text`.
    """
    for place, row in _rows(path):
        text = row.get("audio_repr")
        if not isinstance(text, str):
            raise SourceError(f'{place} has no string under "audio_repr": {_found(text)}; expected "<Un3><Un49>…"')
        try:
            yield _name(row, place), _ids(text, vocabulary, encode_text)
        except TokenError as error:
            raise SourceError(f"{place}: {error}") from error


def _representation(ids: Ids, vocabulary: Vocabulary, decode_text: DecodeText) -> str:
    found = modalities(ids, vocabulary)
    content, kinds = np.asarray(ids)[found != SPECIAL], found[found != SPECIAL]
    is_speech_only = bool((kinds == SPEECH).all())
    parts: list[str] = []
    for run in np.split(np.arange(len(kinds)), run_starts(kinds.astype(np.int64))[1:]):
        if len(run) and kinds[run[0]] != SPEECH:
            parts.append(f"<text>{' ' if parts else ''}{decode_text(content[run].tolist())}")
        else:
            units = content[run][vocabulary.kinds(content[run]) == HUBERT] - vocabulary.first["hubert"]
            parts.append("" if is_speech_only else "<speech>")
            parts.append("".join(f"<Un{unit}>" for unit in units.tolist()))
    return "".join(parts)


def _ids(representation: str, vocabulary: Vocabulary, encode_text: EncodeText | None) -> Ids:
    """Ids of a representation; without a marker it is speech."""
    markers = {"speech": vocabulary.speech_marker, "text": vocabulary.text_marker}
    modality: str | None = None
    parts: list[Sequence[int]] = []
    for part in _PARTS.finditer(representation):
        kind = part.lastgroup
        changed = part["marker"] if kind == "marker" else modality or "speech"
        if changed != modality:
            parts.append(vocabulary.prompt_ids(markers[changed]) if modality is None else [markers[changed]])
            modality = changed
        if kind == "marker":
            continue
        if kind != modality:
            raise TokenError(
                f"{part[0][:20]!r} at character {part.start()} is no {modality}; expected a marker before it"
            )
        if kind == "speech":
            units = np.array(re.findall("[0-9]+", part[0]), np.int64)
            parts.append(merge(Streams(units, EMPTY, EMPTY), vocabulary).tolist())
        elif encode_text is None:
            raise TokenError(f"there is text, {part[0][:20]!r}; expected units alone, as no text tokenizer was given")
        else:
            parts.append(encode_text(part[0].strip()))
    if modality is None:  # an utterance without a single unit
        parts.append(vocabulary.prompt_ids(vocabulary.speech_marker))
    return np.array([i for ids in (*parts, [EOS_ID]) for i in ids], np.int64)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every line as an object, with its place for messages."""
    if not path.is_file():
        raise SourceError(f"{path} does not exist; expected a file of slamkit, features.jsonl or tokens.jsonl")
    for number, line in lines(path):
        place = f"{path}, line {number}"
        if line is None:
            raise SourceError(f"{place} is longer than {LONGEST} bytes; expected one utterance a line")
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{place} is not JSON ({error}); expected one object a line") from error
        if not isinstance(row, dict):
            raise SourceError(f"{place} is {_found(row)}; expected an object")
        yield place, row


def _name(row: dict[str, Any], place: str) -> str:
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        raise SourceError(f'{place} has no string under "file_name": {_found(name)}; expected the path of its audio')
    return name


def _whole_numbers(row: dict[str, Any], key: str, place: str, least: int, most: int) -> list[int]:
    values = row.get(key)
    if not isinstance(values, list):
        raise SourceError(f'{place} has no list under "{key}": {_found(values)}; expected whole numbers')
    for value in values:
        if type(value) is not int or not least <= value <= most:
            raise SourceError(
                f"{place} has {_found(value)} among its {key}; expected whole numbers from {least} to {most}"
            )
    return values


def _found(value: Any) -> str:
    return json.dumps(value)[:40]

"""Tables of labels with named columns: CSV, TSV, JSON, JSON lines and Parquet -> rows, and which columns mean what.

Corpora agree on what they write and not on its name, so columns are known by the names that are in use. The delimiter is the one
that makes a name and a label of the first line. Quotes of tabs and pipes are literal, unless they are doubled as CSV does it.
"""

import contextlib
import csv
import gzip
import io
import itertools
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tinywave_core.audio.labels.channels import COLUMNS as CHANNELS
from tinywave_core.audio.labels.text import decode, lines
from tinywave_core.storage import foreign_parquet

PATHS = (
    *("path", "file_name", "filename", "file_path", "filepath", "file", "audio_filepath", "audio_file", "audio_path"),
    *("audio", "wav_filename", "wav_path", "wav_file", "wav", "clip", "recording"),
)
IDS = ("id", "utterance_id", "utt_id", "utterance", "utt", "audio_id", "segment_id", "sid", "key")
SPEAKERS = ("speaker", "speaker_id", "speaker_name", "client_id", "spk", "spk_id")
# The normalised text before the raw one: it is what was said. The first that is not empty is taken.
TRANSCRIPTS = (
    *("transcript", "transcription", "normalized_text", "normalised_text", "normalized_transcription", "text_tn"),
    *("sentence", "text", "raw_text", "raw_transcription"),
)
STARTS = ("offset", "start", "start_s", "start_time", "begin", "begin_time")
ENDS = ("end", "end_s", "end_time", "stop", "stop_s", "stop_time")
DURATIONS = ("duration", "duration_s", "dur")
# What GigaSpeech writes for signs, and for parts without speech.
_SIGNS = {"COMMA": ",", "PERIOD": ".", "QUESTIONMARK": "?", "EXCLAMATIONPOINT": "!"}
_NO_SPEECH = re.compile(r"\s*<(SIL|MUSIC|NOISE|OTHER)>\s*")
USED = {*CHANNELS, *ENDS, *DURATIONS, *PATHS, *IDS, *SPEAKERS, *TRANSCRIPTS, *STARTS}
_LARGEST_TEXT = 1 << 30  # bytes of a table that is packed: a few kilobytes can claim terabytes
NO_SPEAKER = {"none", "nan", "null", "n/a", ""}  # as programs write that there is none
QUOTED = re.compile(r'"(?:[^"]|"")*"')

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows by the names of their columns, and the lines that are no rows."""

    columns: tuple[str, ...]  # in lower case, words joined by _
    rows: Sequence[Row]
    broken: tuple[int, ...] = ()  # numbers of lines

    @property
    def has_labels(self) -> bool:
        """Whether its columns name recordings and say something of them; words with times are read as alignments."""
        columns = set(self.columns)
        return bool(columns & {*PATHS, *IDS}) and bool(columns & {*SPEAKERS, *TRANSCRIPTS}) and "word" not in columns


def read_table(name: str, data: bytes) -> Table | None:
    """The table in a file, None where it is none; ValueError where it is damaged."""
    ending = name.lower().rpartition(".")[2]
    if ending == "parquet":
        return _parquet(data)
    if name.lower().endswith(".jsonl.gz"):
        return _json(decode(_unpacked(data)))
    if ending in ("json", "jsonl"):
        return _json(decode(data))
    return _delimited(decode(data))


def _unpacked(data: bytes) -> bytes:
    """What a gzip file holds; ValueError where it is damaged, or far larger than tables are."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            text = file.read(_LARGEST_TEXT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error
    if len(text) > _LARGEST_TEXT:
        raise ValueError(f"it unpacks to more than {_LARGEST_TEXT:,} bytes")
    return text


def name_of(row: Row) -> str:
    """The path or id of the row's recording."""
    value = _first(row, (*PATHS, *IDS))
    value = value.get("path") if isinstance(value, dict) else value  # as `datasets` writes an audio
    return str(value) if isinstance(value, str | int) else ""


def speaker_of(row: Row) -> str | None:
    """The row's speaker; a number is a name too."""
    value = _first(row, SPEAKERS)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return None if str(value).strip().lower() in NO_SPEAKER else str(value)


def transcript_of(row: Row) -> str | None:
    """The row's transcript."""
    value = _first(row, TRANSCRIPTS)
    return value if isinstance(value, str) else None


def label_columns(schema: pa.Schema) -> list[str]:
    """Columns of a table of sound that say who speaks and what; not those that hold several values."""
    wanted = {*SPEAKERS, *TRANSCRIPTS}
    return [each.name for each in schema if _column(each.name) in wanted and not pa.types.is_nested(each.type)]


def labels_of(row: Row) -> tuple[str | None, str | None]:
    """Speaker and transcript of a row whose columns have the names that they have in the file."""
    known = {_column(name): value for name, value in row.items()}
    return speaker_of(known), transcript_of(known)


def starts_later(row: Row) -> bool:
    """Whether the row is of a part of its recording that does not begin with it."""
    try:
        return float(_first(row, STARTS) or 0) > 0
    except (TypeError, ValueError):
        return False


def span_of(row: Row) -> tuple[float, float] | None:
    """Beginning and end of what the row is of, in seconds of its recording, where both stand there."""
    given = row.get("span")
    if isinstance(given, tuple):
        return given
    try:
        start = float(_first(row, STARTS))
        stop = _first(row, ENDS)
        end = float(stop) if stop is not None else start + float(_first(row, DURATIONS))
    except (TypeError, ValueError):
        return None
    return (start, end) if 0 <= start < end < math.inf else None


def spans_of_speech(row: Row) -> list[tuple[float, float]]:
    """Where somebody speaks, in seconds: Libri-Light's `voice_activity`. ValueError where it is no list of beginnings and ends."""
    given = row.get("voice_activity", [])
    if not isinstance(given, list):
        raise ValueError("it is no list")
    spans = [tuple(map(_seconds, span)) for span in given if isinstance(span, list)]
    if len(spans) != len(given) or not all(len(span) == 2 and span[0] <= span[1] for span in spans):
        raise ValueError("not every span has a beginning and an end")
    return [(start, end) for start, end in spans if start < end]


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError("it is no time")
    return float(value)


def _first(row: Row, names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def is_header(fields: Sequence[str]) -> bool:
    """Whether the first field of a line is the name of a column of recordings."""
    return _column(fields[0]) in {*PATHS, *IDS}


def _column(name: object) -> str:
    return re.sub(r"[\s-]+", "_", str(name).strip().strip('"').lower())


# Text with delimiters ----------------------------------------------------------------------------------------------


def _delimited(text: str) -> Table | None:
    head = text.lstrip().partition("\n")[0].partition("\r")[0]
    for delimiter in "\t|;,":
        columns = tuple(map(_column, head.split(delimiter)))
        if len(columns) > 1 and Table(columns, ()).has_labels:
            rows = _quoted_rows(text, delimiter) if delimiter in ";," else _literal_rows(text, delimiter)
            used = [(column, at) for at, column in enumerate(columns) if column in USED]
            return Table(columns, [{column: row[at] for column, at in used if at < len(row)} for row in rows])
    return None


def _quoted_rows(text: str, delimiter: str) -> Iterator[list[str]]:
    try:
        rows = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=delimiter, skipinitialspace=True)
        yield from itertools.islice(filter(None, rows), 1, None)
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _literal_rows(text: str, delimiter: str) -> Iterator[list[str]]:
    return (literal_fields(line, delimiter) for line in lines(text)[1:])


def literal_fields(line: str, delimiter: str) -> list[str]:
    """Fields in which quotes stand for themselves, unless the line or a field is quoted as CSV does it: an id, or doubled quotes."""
    if QUOTED.match(line) and line[0] == '"':
        first = next(iter(csv.reader([line], delimiter=delimiter)), [])
        if len(first) > 1 and QUOTED.fullmatch(line[: line.find(delimiter)].strip()):
            return [field.strip() for field in first]
    return [_unquoted(field.strip()) for field in line.split(delimiter)]


def _unquoted(field: str) -> str:
    if QUOTED.fullmatch(field) and '""' in field[1:-1]:
        return field[1:-1].replace('""', '"')
    return field


# JSON and Parquet --------------------------------------------------------------------------------------------------


def _json(text: str) -> Table | None:
    """An object, a list of objects, or one object per line; None where there is no label in them."""
    try:
        found, broken = _json_values(text)
        rows = [row for value in found for row in _records(value)]
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    return Table(columns, rows, broken) if columns else None


def _json_values(text: str) -> tuple[list[Any], tuple[int, ...]]:
    """The one value of a file, or that of each line, and the numbers of lines that are none."""
    with contextlib.suppress(ValueError):
        return [json.loads(text)], ()
    found, broken = list[Any](), list[int]()
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            found += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError):
            broken.append(number)
    if not found:
        raise ValueError("it is no JSON, and has no line that is")
    return found, tuple(broken)


def _records(value: Any) -> Iterator[Row]:
    """The rows in a JSON value: its objects, those of GigaSpeech's `audios`, of lhotse's cuts, and of People's Speech's `training_data`."""
    if isinstance(value, list):
        for item in value:
            yield from _records(item)
    elif isinstance(value, dict) and isinstance(value.get("audios"), list):
        for audio in value["audios"]:
            yield from _segments(audio)
    elif isinstance(value, dict) and isinstance(value.get("supervisions"), list):
        yield from _supervisions(value)
    elif isinstance(value, dict) and isinstance(value.get("training_data"), dict):
        names, texts = (value["training_data"].get(key) for key in ("name", "label"))
        if isinstance(names, list) and isinstance(texts, list):
            yield from ({"path": name, "text": text} for name, text in zip(names, texts, strict=False))
    elif isinstance(value, dict) and value and all(isinstance(v, str) and "." in k for k, v in value.items()):
        yield from ({"path": name, "text": text} for name, text in value.items())  # {"a.wav": "what is said"}
    elif isinstance(value, dict):
        yield {_column(name): content for name, content in value.items()}


def _segments(audio: Any) -> Iterator[Row]:
    """One row per segment of a GigaSpeech audio, under the audio's path."""
    if not isinstance(audio, dict):
        return
    segments = audio.get("segments")
    for segment in segments if isinstance(segments, list) else [{}]:
        row = {"path": audio.get("path"), **(segment if isinstance(segment, dict) else {})}
        yield row | ({"text_tn": _without_tags(row["text_tn"])} if isinstance(row.get("text_tn"), str) else {})


def _without_tags(text: str) -> str:
    """GigaSpeech's text with signs for its tags; nothing where it says that nobody speaks."""
    if _NO_SPEECH.fullmatch(text):
        return ""
    return re.sub(rf"\s*<({'|'.join(_SIGNS)})>", lambda tag: _SIGNS[tag[1]], text)


def _supervisions(cut: Mapping[str, Any]) -> Iterator[Row]:
    """One row per supervision of a lhotse cut, under the path of its recording; in Shar, where that is in a tar, under the cut's id."""
    recording = cut.get("recording")
    sources = recording.get("sources") if isinstance(recording, dict) else None
    source = sources[0] if isinstance(sources, list) and sources and isinstance(sources[0], dict) else {}
    path = source.get("source") if source.get("type") == "file" else None
    for supervision in cut["supervisions"]:
        if isinstance(supervision, dict):
            begins = [each.get("start") for each in (cut, supervision)]
            start = max((value for value in begins if isinstance(value, int | float)), default=0)
            # Counted from 0, and there in recordings of one channel too.
            channel = {0: "A", 1: "B"}.get(_only(supervision.get("channel")), "")
            named = {name: supervision.get(name) for name in ("speaker", "text")} | {"channel": channel}
            yield {
                "path": path or cut.get("id"),
                "supervision": True,
                "start": start,
                **named,
                **_span(cut, supervision, path),
            }


def _only(value: Any) -> Any:
    """The number, or the one in a list."""
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    return value if isinstance(value, int) else None


def _span(cut: Mapping[str, Any], supervision: Mapping[str, Any], path: str | None) -> Row:
    """Where a supervision lies: it counts from its cut, and the cut from the recording; in Shar the cut is the recording."""
    numbers = [cut.get("start", 0) if path else 0, supervision.get("start", 0), supervision.get("duration")]
    if not all(isinstance(number, int | float) and 0 <= number < math.inf for number in numbers) or not numbers[2]:
        return {}
    start = float(numbers[0] + numbers[1])
    return {"span": (start, start + float(numbers[2]))}


def _parquet(data: bytes) -> Table:
    try:
        schema = foreign_parquet.schema(data)
        wanted = [name for name in schema.names if _column(name) in USED]
        flat = [name for name in wanted if not pa.types.is_nested(schema.field(name).type)]
        rows = [{_column(name): row[name] for name in flat} for row in foreign_parquet.rows(data, flat)]
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    return Table(tuple(map(_column, schema.names)), rows)

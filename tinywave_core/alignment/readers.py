"""Ready alignments -> words with times, for the recordings that they name.

Read are, beside the audio or in a folder of their own, one file per recording:

- `.TextGrid` of MFA and Praat, long or short; the words are in the tier "words", empty marks are silences;
- `.alignment.json` or `.json` of slamkit: {"aligned_text": [[word, start s, end s], …]};
- `.ctm`: lines of "file channel start duration word [confidence]", of one recording or of many; where channels were taken apart, the
  channel says whose a word is, and other files have no words for them;

or one table of the corpus, `.csv` or `.parquet`, with the columns path (or file, or utterance), word, start_s (or start),
end_s (or end) and, if it is known, confidence. All times are seconds from the start of the recording.
A file or row belongs to the recording whose relative path, without its ending, it bears; the last parts of that path are
enough where they are unambiguous: `1-2-3.TextGrid` is that of `LibriSpeech/1/2/1-2-3.flac`.
"""

import codecs
import csv
import io
import json
import math
import os
import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from tinywave_core.alignment.checks import TOLERANCE_SAMPLES
from tinywave_core.alignment.words import Word
from tinywave_core.audio.labels import channels
from tinywave_core.errors import SourceError
from tinywave_core.storage import foreign_parquet
from tinywave_core.storage.filesystem import open_url
from tinywave_core.storage.schemas import SAMPLE_RATE

# Where a recording has several files, the first of these is read.
ENDINGS = (".alignment.json", ".textgrid", ".ctm", ".json")
TABLES = (".csv", ".parquet")
COLUMNS = {
    "path": ("path", "file", "utterance"),
    "word": ("word",),
    "start": ("start_s", "start"),
    "end": ("end_s", "end"),
}
LONGEST_S = 1_000_000  # eleven days: more than any recording has
SILENCES = {"", "<eps>", "sil", "<sil>", "sp", "<s>", "</s>"}
PRAAT = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|<exists>)(?!\S)')
SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}$")


def open_alignments(url: str, recordings: Iterable[str]) -> "Alignments":
    """The alignments in a folder or table, a path or fsspec URL, for recordings by their path relative to the source."""
    filesystem, root = open_url(url)
    try:
        if filesystem.isfile(root):
            paths = {PurePosixPath(root).name: root}
        elif filesystem.isdir(root):
            paths = {path[len(root.rstrip("/")) + 1 :]: path for path in _files(filesystem, root)}
        else:
            raise SourceError(f"the alignments {url} do not exist; expected a folder or table of word times there")
    except OSError as error:
        raise SourceError(
            f"the alignments {url} cannot be read ({error}): check the path and its permissions"
        ) from error

    def read(name: str) -> bytes:
        try:
            return bytes(filesystem.cat_file(paths[name]))
        except OSError as error:
            raise SourceError(f"{paths[name]} cannot be read ({error}): check its permissions") from error

    return Alignments(paths, read, recordings)


def _files(filesystem: AbstractFileSystem, root: str) -> list[str]:
    """All files below a folder. As in a source, links and pipes are left alone: they lead elsewhere, or nowhere."""
    if not isinstance(filesystem, LocalFileSystem):
        return list(filesystem.find(root))

    def refuse(error: OSError) -> None:
        raise error

    paths = [os.path.join(folder, name) for folder, _, names in os.walk(root, onerror=refuse) for name in names]
    return [path for path in paths if os.path.isfile(path) and not os.path.islink(path)]


class Alignments:
    """Word times by recording. Files are read when they are asked for, tables at once."""

    def __init__(self, names: Iterable[str], read: Callable[[str], bytes], recordings: Iterable[str]) -> None:
        self._read = read
        self._stems: dict[str, list[tuple[str, ...]]] = defaultdict(list)  # last part -> recordings
        for recording in recordings:
            parts = _parts(recording)
            self._stems[parts[-1]].append(parts)
        # last part -> files and rows that bear it, by their whole name
        self._found: dict[str, dict[tuple[str, ...], list[str | _Table]]] = defaultdict(lambda: defaultdict(list))
        names = list(names)
        for name in sorted(names, key=lambda name: (_rank(name), name)):
            parts = _parts(name)
            if len(names) == 1 and name.endswith(TABLES):
                self._add(table_of_words(name, read(name)))
            elif name.lower().endswith(".ctm") and parts[-1] not in self._stems:
                self._add(ctm_words(name, read(name)))
            elif name.lower().endswith(ENDINGS):
                self._found[parts[-1]][parts].append(name)

    def words(self, recording: str, channel: int | None = None) -> list[Word] | None:
        """The words of a recording, or of one channel of a file, None where it has none; SourceError for a file that is malformed or
        fits two recordings."""
        entries = (self._of(entry, parts, channel) for entry, parts in self._entries(recording))
        return next((words for words in entries if words is not None), None)

    def phones(self, recording: str) -> list[Word] | None:
        """The phones of a recording, from the tier "phones" of its TextGrid; None where it has none."""
        grids = [e for e, _ in self._entries(recording) if isinstance(e, str) and e.lower().endswith(".textgrid")]
        return textgrid_phones(grids[0], self._read(grids[0])) if grids else None

    def _entries(self, recording: str) -> "list[tuple[str | _Table, tuple[str, ...]]]":
        """Files and rows that are of a recording, each with its whole name."""
        own_parts = _parts(recording)
        candidates = self._found.get(own_parts[-1], {})
        fitting = [parts for parts in candidates if _ends_alike(parts, own_parts)]
        if own_parts in candidates:
            fitting = [own_parts]
        longest = max((min(len(parts), len(own_parts)) for parts in fitting), default=0)
        best = [parts for parts in fitting if min(len(parts), len(own_parts)) == longest]
        if not best:
            return []
        if len(best) > 1:
            raise SourceError(
                f"the alignments {'/'.join(best[0])} and {'/'.join(best[1])} both fit {recording}: "
                "expected one, under the path of the recording"
            )
        others = [parts for parts in self._stems[own_parts[-1]] if _ends_alike(parts, best[0]) and parts != own_parts]
        if best[0] != own_parts and others:
            raise SourceError(
                f"the alignment {'/'.join(best[0])} fits {recording} and {'/'.join(others[0])}: "
                "expected it under the path of its recording"
            )
        return [(entry, best[0]) for entry in candidates[best[0]]]

    def _add(self, table: "_Table") -> None:
        for name in table.rows:
            parts = _parts(name)
            self._found[parts[-1]][parts].append(table)

    def _of(self, entry: "str | _Table", parts: tuple[str, ...], channel: int | None) -> list[Word] | None:
        if isinstance(entry, _Table):
            return next(entry.words(name, channel) for name in entry.rows if _parts(name) == parts)
        if channel is not None and not entry.lower().endswith(".ctm"):
            return None  # of both voices, and nothing says whose a word is
        data = self._read(entry)
        if entry.lower().endswith(".textgrid"):
            return textgrid_words(entry, data)
        if not entry.lower().endswith(".ctm"):
            return slamkit_words(entry, data)
        table = ctm_words(entry, data)
        if len(table.rows) != 1:
            raise SourceError(f"{entry} has words of {len(table.rows)} recordings; expected one beside its audio")
        (recording,) = table.rows
        return table.words(recording, channel)


def words_of_cut(words: Sequence[Word], start_samples: int, num_samples: int) -> list[Word]:
    """The words of a recording that lie wholly in a cut of it, with times in the cut.

    An edge that passes the cut's by a frame of an aligner (20 ms) is the cut's.
    """
    shifted = [(word, word.start_samples - start_samples, word.end_samples - start_samples) for word in words]
    return [
        replace(word, start_samples=max(0, start), end_samples=min(end, num_samples))
        for word, start, end in shifted
        if -TOLERANCE_SAMPLES <= start < num_samples and 0 < end <= num_samples + TOLERANCE_SAMPLES
    ]


def textgrid_words(name: str, data: bytes) -> list[Word]:
    """The tier "words" of a TextGrid; of all speakers, where MFA wrote "speaker - words"."""
    words, tiers = _tier(name, data, "words")
    if words is None:
        raise SourceError(f"{name} has the tiers {', '.join(tiers) or 'none'}; expected one that is called words")
    return words


def textgrid_phones(name: str, data: bytes) -> list[Word] | None:
    """The tier "phones" likewise; None where there is none."""
    return _tier(name, data, "phones")[0]


def _tier(name: str, data: bytes, wanted: str) -> tuple[list[Word] | None, list[str]]:
    """What the tiers of one name hold, without silences, None where there is no such tier; and the names of all tiers."""
    text = _text(name, data)
    items = [(match[2] or match[1], match[1] is not None, match.start()) for match in PRAAT.finditer(text)]
    tokens = _Tokens(name, text, items)
    if [tokens.string(), tokens.string()] != ["ooTextFile", "TextGrid"]:
        raise SourceError(f"{name}, line 1: expected a TextGrid of Praat, long or short")
    tokens.number()
    tokens.number()
    tokens.flag()
    words, tiers = list[Word](), list[str]()
    for _ in range(tokens.count()):
        kind, tier = tokens.string(), tokens.string()
        tiers.append(tier)
        tokens.number(), tokens.number()
        is_wanted = kind == "IntervalTier" and (tier == wanted or tier.endswith(f"- {wanted}"))
        for _ in range(tokens.count()):
            line = tokens.line()
            times = [tokens.number() for _ in range(2 if kind == "IntervalTier" else 1)]
            mark = tokens.string().replace('""', '"').strip()
            if is_wanted and mark not in SILENCES:
                words.append(_word(mark, times[0], times[1], None, f"{name}, line {line}"))
    if not any(tier == wanted or tier.endswith(f"- {wanted}") for tier in tiers):
        return None, tiers
    return (sorted(words, key=lambda word: word.start_samples) if len(tiers) > 2 else words), tiers


def slamkit_words(name: str, data: bytes) -> list[Word] | None:
    """The `aligned_text` of slamkit's JSON; None if the file has another use."""
    try:
        record = json.loads(_text(name, data))
    except json.JSONDecodeError as error:
        raise SourceError(f"{name}, line {error.lineno}: is not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{name}: is no JSON that can be read ({error}); expected aligned_text in an object"
        ) from error
    entries = record.get("aligned_text") if isinstance(record, dict) else None
    if entries is None:
        return None
    if not isinstance(entries, list):
        raise SourceError(f"{name}: aligned_text is a {type(entries).__name__}; expected a list of [word, start, end]")
    words = []
    for number, entry in enumerate(entries, start=1):
        where = f"{name}, word {number}"
        if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[0], str):
            raise SourceError(f"{where}: is {json.dumps(entry)[:60]}; expected [word, start in s, end in s]")
        if entry[0].strip() not in SILENCES:
            words.append(_word(entry[0].strip(), entry[1], entry[2], None, where))
    return words


def ctm_words(name: str, data: bytes) -> "_Table":
    """The words of a CTM by the recording in their first field."""
    rows, names = [], []
    for number, line in enumerate(_text(name, data).splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith(";;"):
            continue
        where = f"{name}, line {number}"
        if len(fields) not in (5, 6):
            raise SourceError(
                f"{where}: has {len(fields)} fields; expected file, channel, start, duration, word, confidence?"
            )
        recording, channel, start, duration, word, *confidence = fields
        if word not in SILENCES:
            begin = _seconds(start, where)
            end = begin + _seconds(duration, where)
            rows.append((recording, _word(word, begin, end, confidence[0] if confidence else None, where)))
            names.append(channel.lower())
    channel_of = channels.numbers(names)
    return replace(_Table.of(rows), channels=np.array([channel_of[name] or 0 for name in names], dtype=np.int8))


def table_of_words(name: str, data: bytes) -> "_Table":
    """A CSV or Parquet table of words by the recording in its column path, file or utterance."""
    rows, columns, first = _rows(name, data)
    chosen = {use: next((option for option in options if option in columns), "") for use, options in COLUMNS.items()}
    if missing := [options for use, options in COLUMNS.items() if not chosen[use]]:
        raise SourceError(
            f"{name} has the columns {', '.join(columns)}; expected also {', '.join(' or '.join(m) for m in missing)}"
        )
    return _Table.of(_table_row(row, chosen, f"{name}, line {number}") for number, row in enumerate(rows, start=first))


def _table_row(row: Mapping[str, Any], chosen: Mapping[str, str], where: str) -> tuple[str, Word]:
    path, word, start, end = (row.get(chosen[use]) for use in ("path", "word", "start", "end"))
    if not path or not isinstance(word, str) or not word.strip():
        raise SourceError(f"{where}: has the path {path!r} and the word {word!r}; expected both")
    return str(path), _word(word.strip(), start, end, row.get("confidence"), where)


def _rows(name: str, data: bytes) -> tuple[Iterable[Mapping[str, Any]], Sequence[str], int]:
    """Rows, names of the columns, and the number of the first row as an editor or query shows it."""
    try:
        if name.endswith(".csv"):
            reader = csv.DictReader(io.StringIO(_text(name, data), newline=""))
            return list(reader), list(reader.fieldnames or ()), 2
        columns = foreign_parquet.schema(data).names
        wanted = [option for options in (*COLUMNS.values(), ("confidence",)) for option in options if option in columns]
        return list(foreign_parquet.rows(data, wanted)), columns, 1
    except (csv.Error, pa.ArrowException) as error:
        raise SourceError(f"{name} cannot be read ({error}); expected a table of words") from error


@dataclass(frozen=True)
class _Table:
    """Words of many recordings in columns: millions of objects would take gigabytes."""

    texts: pa.Array
    times: npt.NDArray[np.int64]  # [words, 2], in samples
    confidences: npt.NDArray[np.float32]  # [words], NaN where there is none
    rows: dict[str, npt.NDArray[np.int64]]  # by recording, in the order of the table
    channels: npt.NDArray[np.int8] | None = None  # [words], 1 or 2, 0 where that is not known

    @staticmethod
    def of(rows: Iterable[tuple[str, Word]]) -> "_Table":
        texts, times, confidences, numbers = (
            list[str](),
            list[tuple[int, int]](),
            list[float](),
            defaultdict[str, Any](list),
        )
        for number, (recording, word) in enumerate(rows):
            numbers[recording].append(number)
            texts.append(word.text)
            times.append((word.start_samples, word.end_samples))
            confidences.append(math.nan if word.confidence is None else word.confidence)
        by_recording = {recording: np.array(row_numbers, dtype=np.int64) for recording, row_numbers in numbers.items()}
        pairs_N2 = np.array(times, dtype=np.int64).reshape(-1, 2)
        return _Table(pa.array(texts, pa.string()), pairs_N2, np.array(confidences, dtype=np.float32), by_recording)

    def words(self, recording: str, channel: int | None = None) -> list[Word] | None:
        """The words of a recording, or of one channel of it; None where nothing says which are that one's."""
        numbers = self.rows[recording]
        if channel is not None:
            numbers = numbers[:0] if self.channels is None else numbers[self.channels[numbers] == channel]
            if not len(numbers):
                return None
        texts = self.texts.take(pa.array(numbers)).to_pylist()
        values = zip(texts, self.times[numbers].tolist(), self.confidences[numbers].tolist(), strict=True)
        return [Word(text, start, end, None if math.isnan(c) else c) for text, (start, end), c in values]


@dataclass
class _Tokens:
    """The strings, numbers and flags of a TextGrid: they come in the same order in the long and the short form."""

    name: str
    text: str
    items: list[tuple[str, bool, int]]
    at: int = 0

    def __post_init__(self) -> None:
        self.breaks = [match.start() for match in re.finditer("\n", self.text)]

    def string(self) -> str:
        return self._next("a string", lambda _, quoted: quoted)

    def number(self) -> float:
        return float(self._next("a number", lambda value, quoted: not quoted and value != "<exists>"))

    def count(self) -> int:
        """How many tiers or marks follow: each takes more than one item."""
        line, number = self.line(), self.number()
        if not (0 <= number <= len(self.items) - self.at and number.is_integer()):
            raise SourceError(
                f"{self.name}, line {line}: counts {number:g}, expected a whole number, and so many tiers or marks behind it: damaged, or cut short"
            )
        return int(number)

    def flag(self) -> None:
        self._next("<exists>", lambda value, _: value == "<exists>")

    def line(self) -> int:
        """The line of the next item."""
        offset = self.items[self.at][2] if self.at < len(self.items) else len(self.text)
        return bisect_left(self.breaks, offset) + 1

    def _next(self, expected: str, fits: Callable[[str, bool], bool]) -> str:
        if self.at == len(self.items):
            raise SourceError(f"{self.name}, line {self.line()}: ends where {expected} is expected; it is cut short")
        value, quoted, _ = self.items[self.at]
        if not fits(value, quoted):
            raise SourceError(f"{self.name}, line {self.line()}: found {value[:40]!r}, expected {expected}")
        self.at += 1
        return value


def _word(text: str, start: Any, end: Any, confidence: Any, where: str) -> Word:
    start_samples, end_samples = (round(_seconds(value, where) * SAMPLE_RATE) for value in (start, end))
    if confidence in (None, ""):
        return Word(text, start_samples, end_samples)
    value = _seconds(confidence, where, "confidence")
    if not 0 <= value <= 1:
        raise SourceError(f"{where}: has the confidence {confidence}, expected 0 to 1")
    return Word(text, start_samples, end_samples, value)


def _seconds(value: Any, where: str, what: str = "time") -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LONGEST_S:
        raise SourceError(f"{where}: has the {what} {value!r:.40}, expected a number of at most {LONGEST_S:,}")
    return number


def _text(name: str, data: bytes) -> str:
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SourceError(f"{name}, line {line}: is not text in {encoding.upper()} ({error.reason})") from error


def _parts(path: str) -> tuple[str, ...]:
    """The path without its ending, in parts."""
    plain = unicodedata.normalize("NFC", path)
    ending = next((ending for ending in ENDINGS if plain.lower().endswith(ending)), None)
    return PurePosixPath(plain[: -len(ending)] if ending else SUFFIX.sub("", plain)).parts or ("",)


def _ends_alike(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether the shorter path is the end of the longer one."""
    shared = min(len(one), len(other))
    return one[-shared:] == other[-shared:]


def _rank(name: str) -> int:
    return next((rank for rank, ending in enumerate(ENDINGS) if name.lower().endswith(ending)), len(ENDINGS))

"""Speakers and transcripts that lie beside the audio, in the forms that speech corpora come in.

LibriSpeech (`speaker/chapter/*.trans.txt`), LJ Speech (`metadata.csv`: id|text|normalised), Libri-Light (a `.json`
beside the audio), a `.txt` beside the audio, and `manifest.csv` or `manifest.parquet` in the root (columns path,
speaker?, transcript?), which overrules the others. Text without its audio is listed, and never stops anything.
"""

import csv
import io
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa

from tinywave_core.audio.source import Listing, Source
from tinywave_core.errors import SourceError
from tinywave_core.storage import foreign_parquet

# Text files that describe a whole corpus: no transcripts that lost their audio.
CORPUS_DOCUMENT = re.compile(
    "readme|licen[sc]e|copying|notice|speakers|chapters|books|authors|changelog", re.IGNORECASE
)
MANIFESTS = ("manifest.csv", "manifest.parquet")


@dataclass(frozen=True)
class Label:
    """Speaker and transcript of one recording."""

    speaker: str | None = None
    transcript: str | None = None


@dataclass(frozen=True)
class Labels:
    """Labels by path, and transcripts whose audio is not there as "sidecar: id"."""

    by_path: dict[str, Label]
    orphans: tuple[str, ...]


def read_labels(source: Source, listing: Listing, audio_paths: Iterable[str]) -> Labels:
    """Labels for these recordings. Tables are always read, small files beside the audio only for these recordings."""
    stems = defaultdict(list)
    for file in listing.audio:
        stems[_stem(file.path)].append(file.path)
    wanted_stems = {_stem(path) for path in audio_paths}
    tables = [file for file in listing.sidecars if _is_table(file.path)]
    labels_beside = [
        f for f in listing.sidecars if f.path.endswith((".txt", ".json")) and _stem(f.path) in wanted_stems
    ]
    texts = source.texts([*tables, *labels_beside])
    speakers: dict[str, str | None] = {path: librispeech_speaker(path) for paths in stems.values() for path in paths}
    transcripts: dict[str, str | None] = {}
    orphans = [file.path for file in listing.sidecars if _is_transcript(file.path) and _stem(file.path) not in stems]
    for path, data in sorted(texts.items(), key=lambda item: (item[0] in MANIFESTS, item[0])):
        if path in MANIFESTS:
            orphans += _apply_manifest(path, data, [f.path for f in listing.audio], speakers, transcripts)
        elif path.endswith(".json"):
            for audio in stems[_stem(path)]:
                speakers[audio] = librilight_speaker(data) or speakers[audio]
        else:
            for stem, text in _transcripts(path, data):
                hits = [audio for folder in _folders(path) for audio in stems.get(f"{folder}{stem}", ())]
                transcripts.update(dict.fromkeys(hits, text))
                orphans += [] if hits else [f"{path}: {stem}"]
    by_path = {path: Label(_clean(speakers.get(path)), _clean(transcripts.get(path))) for path in sorted(speakers)}
    return Labels(by_path, tuple(orphans))


def librispeech_speaker(path: str) -> str | None:
    """Speaker of `…/speaker/chapter/speaker-chapter-utterance.ext`, else None."""
    parts = path.split("/")
    match = re.fullmatch(r"([0-9]+)-([0-9]+)-[0-9]+\.[^.]+", parts[-1], re.ASCII)
    return match[1] if match and parts[-3:-1] == [match[1], match[2]] else None


def librilight_speaker(data: bytes) -> str | None:
    """Speaker in a Libri-Light record, else None."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    speaker = record.get("speaker") if isinstance(record, dict) else None
    return str(speaker) if isinstance(speaker, str | int) and not isinstance(speaker, bool) else None


def parse_trans(text: str) -> Iterator[tuple[str, str]]:
    """LibriSpeech: "id WORDS" per line."""
    for line in text.splitlines():
        stem, _, words = line.strip().partition(" ")
        if stem and words:
            yield stem, words


def parse_ljspeech(text: str) -> Iterator[tuple[str, str]]:
    """LJ Speech: "id|text|normalised" per line; the normalised text if there is one."""
    for line in text.splitlines():
        fields = [part.strip() for part in line.split("|")]
        if len(fields) >= 2 and fields[0]:
            yield fields[0], fields[2] if len(fields) > 2 and fields[2] else fields[1]


def parse_manifest(name: str, data: bytes) -> list[Mapping[str, object]]:
    """Rows of a manifest; SourceError when it cannot be read or has no column `path`."""
    try:
        if name.endswith(".parquet"):
            columns = foreign_parquet.schema(data).names
            wanted = [name for name in ("path", "speaker", "transcript") if name in columns]
            rows: list[Mapping[str, object]] = list(foreign_parquet.rows(data, wanted))
        else:
            reader = csv.DictReader(io.StringIO(_text(data), newline=""))
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (csv.Error, pa.ArrowException) as error:
        raise SourceError(
            f"{name} in the source cannot be read ({error}); expected a table with a column path"
        ) from error
    if "path" not in columns:
        raise SourceError(
            f"{name} in the source has the columns {columns}; expected path, and optionally speaker and transcript: "
            "rename the columns, or the file if it is something else"
        )
    return rows


def _apply_manifest(
    name: str, data: bytes, audio: Iterable[str], speakers: dict[str, str | None], transcripts: dict[str, str | None]
) -> list[str]:
    """Overrule labels with a manifest's rows; returns the rows without audio."""
    by_normal_form = {unicodedata.normalize("NFC", path): path for path in audio}
    orphans = []
    for row in parse_manifest(name, data):
        row_path = PurePosixPath(str(row["path"] or ""))
        path = by_normal_form.get(unicodedata.normalize("NFC", str(row_path)))
        if path is None:
            orphans.append(f"{name}: {row_path}")
            continue
        if row.get("speaker"):
            speakers[path] = str(row["speaker"])
        if row.get("transcript"):
            transcripts[path] = str(row["transcript"])
    return orphans


def _transcripts(path: str, data: bytes) -> Iterator[tuple[str, str]]:
    text = _text(data)
    if path.endswith(".trans.txt"):
        return parse_trans(text)
    if path.endswith("metadata.csv"):
        return parse_ljspeech(text)
    return iter([(PurePosixPath(path).stem, text)])


def _folders(path: str) -> tuple[str, ...]:
    """Folders, with their slash, where the audio of a sidecar may lie."""
    folder = path[: path.rfind("/") + 1]
    return (folder, f"{folder}wavs/") if path.endswith("metadata.csv") else (folder,)


def _stem(path: str) -> str:
    return path[: -len(PurePosixPath(path).suffix) or None]


def _is_table(path: str) -> bool:
    return path in MANIFESTS or path.endswith(".trans.txt") or PurePosixPath(path).name == "metadata.csv"


def _is_transcript(path: str) -> bool:
    name = PurePosixPath(path)
    if name.parent.name.lower() in ("licenses", "licences"):
        return False
    return name.suffix == ".txt" and not path.endswith(".trans.txt") and not CORPUS_DOCUMENT.fullmatch(name.stem)


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig", errors="replace")


def _clean(text: str | None) -> str | None:
    """One line without control characters, in NFC; None if nothing is left."""
    if text is None:
        return None
    line = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in unicodedata.normalize("NFC", text))
    return " ".join(line.split()) or None

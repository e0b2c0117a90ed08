"""The layouts that labels are read in: LAYOUTS, one row each. The first that fits a file reads it; earlier rows overrule later ones.

So a manifest that a person wrote for this corpus comes first, then tables with named columns, then lists, then text beside the audio.
Adding a layout is adding a row.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

from tinywave_core.audio.labels import channels
from tinywave_core.audio.labels.claims import Claim, LabelFile, Layout
from tinywave_core.audio.labels.listed import has_columns, kaldi, piped, spaced, tabbed
from tinywave_core.audio.labels.matching import TEXT_FOLDERS, stem_of
from tinywave_core.audio.labels.tables import name_of, span_of, spans_of_speech, speaker_of, starts_later, transcript_of
from tinywave_core.errors import SourceError

MANIFESTS = ("manifest.csv", "manifest.parquet")
# Texts about a whole corpus: no transcripts that lost their audio.
CORPUS_DOCUMENT = re.compile(
    r"readme.*|licen[sc]e.*|copying|notice|speakers?([-_]?info)?|chapters|books|authors|changelog|metainfo|update|times"
    r"|citation|attribution|requirements|segments|.*handles",
    re.IGNORECASE,
)


TABLES = (".csv", ".tsv", ".json", ".jsonl", ".jsonl.gz", ".parquet")


# Words with times; what LibriTTS has in normalised form as well; what `datasets` writes beside its tables.
OTHER_USES = (
    ".alignment.json",
    ".original.txt",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
)


def may_be_labels(path: PurePosixPath) -> bool:
    """Whether a text or table may be about recordings: no licence and no document of the whole corpus."""
    name, folder = path.name.lower(), path.parent.name.lower()
    if name.endswith(OTHER_USES) or folder in ("licenses", "licences"):
        return False
    return name.endswith(TABLES) or (name.endswith(".txt") and not CORPUS_DOCUMENT.fullmatch(path.stem))


def read_rows(file: LabelFile) -> Iterator[Claim]:
    """The rows of a table with named columns."""
    if file.table is None:
        return
    has_channels = not set(channels.COLUMNS).isdisjoint(file.table.columns)
    channel_of = channels.numbers(map(channels.named, file.table.rows)) if has_channels else {}
    for row in file.table.rows:
        is_part = starts_later(row) and transcript_of(row) is not None
        channel = channel_of.get(channels.named(row)) if channel_of else None
        problem = "segment" if is_part else ""
        yield Claim(name_of(row), speaker_of(row), transcript_of(row), problem, span_of(row), channel)
    for name in sorted(name for name, number in channel_of.items() if number is None):
        yield Claim(f"channel {name}", problem=channels.UNCLEAR)
    for line in file.table.broken:
        yield Claim(f"line {line}", problem="malformed")


def read_manifest(file: LabelFile) -> Iterable[Claim]:
    """The manifest of the source; SourceError when it cannot be read or has no column `path`."""
    try:
        columns = (
            list(file.table.columns) if file.table else next(csv.reader([file.text.partition("\n")[0].strip()]), [])
        )
    except UnicodeError:
        raise
    except (csv.Error, ValueError) as error:
        raise SourceError(
            f"{file.path} in the source cannot be read ({error}); expected a table with a column path"
        ) from error
    if "path" not in columns:
        raise SourceError(
            f"{file.path} in the source has the columns {columns}; expected path, and optionally speaker and transcript: "
            "rename the columns, or the file if it is something else"
        )
    return read_rows(file)


def has_all(*columns: str) -> Callable[[LabelFile], bool]:
    """Whether a table has these columns."""
    return lambda file: file.table is not None and file.table.has_labels and set(columns) <= set(file.table.columns)


def named(pattern: str) -> Callable[[LabelFile], bool]:
    """Whether a file's name is like this, in any case of letters."""
    return lambda file: re.fullmatch(pattern, file.name, re.IGNORECASE) is not None


def is_list(delimiter: str) -> Callable[[LabelFile], bool]:
    """Whether a file is lines of ids and texts; one that is named for speakers or lengths is not."""

    def fits(file: LabelFile) -> bool:
        is_other = re.search("spk|speaker|gender|duration|length", file.name, re.IGNORECASE)
        return named(r".*\.(csv|tsv|txt)")(file) and not is_other and has_columns(file.text, delimiter)

    return fits


def is_text_apart(file: LabelFile) -> bool:
    """Whether a file is a text in a folder of texts."""
    return named(r".*\.txt")(file) and folder_of_texts(file.path) is not None


def folder_of_texts(path: str) -> int | None:
    """Where the name of a folder of texts apart from the audio (txt, transcripts, …) begins in a path; None without one."""
    parts = path.split("/")[:-1]
    deepest = next((at for at in reversed(range(len(parts))) if parts[at].lower() in TEXT_FOLDERS), None)
    return None if deepest is None else sum(len(part) + 1 for part in parts[:deepest])


def above_texts(file: LabelFile) -> str:
    """The folder that has both the texts and the audio."""
    return file.path[: folder_of_texts(file.path)]


def read_text(file: LabelFile) -> Iterator[Claim]:
    """A file that is the transcript of the recording of its name."""
    below = file.path[folder_of_texts(file.path) or 0 :].partition("/")[2]
    yield Claim(stem_of(below), transcript=file.text)


def read_record(file: LabelFile) -> Iterator[Claim]:
    """A JSON object about the recording of its name: Libri-Light's, Emilia's, Whisper's."""
    row = dict(file.table.rows[0]) if file.table and len(file.table.rows) == 1 else {}
    name = stem_of(file.name)
    yield Claim(name, speaker_of(row), transcript_of(row))
    try:
        spans = spans_of_speech(row)
    except ValueError:
        yield Claim(name, problem="voice activity")
        return
    for span in spans:
        yield Claim(name, span=span, is_speech=True)


def speaker_in_path(path: str) -> tuple[str, str] | None:
    """The speaker that a recording's place names, and the layout that says so."""
    for layout, pattern in SPEAKER_IN_PATH.items():
        if match := pattern.search(path):
            return match["speaker"], layout
    return None


# The labels in a table of sound are those of its rows, so that no file of the source fits it: `sidecars.py` reads them.
ROWS = Layout("rows with sound", lambda _: False, lambda _: ())
# Tables and lists, each of many recordings.
LAYOUTS = (
    Layout("manifest", lambda file: file.path in MANIFESTS, read_manifest),
    ROWS,
    Layout("Common Voice", has_all("client_id", "path", "sentence"), read_rows),
    Layout("VoxPopuli", has_all("id", "raw_text", "normalized_text"), read_rows),
    Layout("audiofolder", has_all("file_name"), read_rows),
    Layout("NeMo manifest", has_all("audio_filepath"), read_rows),
    Layout("Emilia", has_all("wav", "text"), read_rows),
    Layout("lhotse", has_all("supervision"), read_rows),
    Layout("table", has_all(), read_rows),
    Layout("Kaldi", named(r"wav\.scp"), kaldi),
    Layout("Kaldi text", named("text"), spaced),
    Layout("LibriSpeech", named(r".*\.trans\.txt"), spaced),
    Layout("LJSpeech", is_list("|"), piped),
    Layout("MLS", is_list("\t"), tabbed),
    Layout("list of transcripts", named(r".*transcripts?.*\.txt"), spaced),
    Layout("texts in their own folder, as VCTK", is_text_apart, read_text, above_texts),
)
# Files of one recording, in its folder under its name.
BESIDE = (
    Layout("text beside the audio", named(r".*\.txt"), read_text),
    Layout("JSON beside the audio", named(r".*\.json"), read_record),
)
# The path of a recording.
SPEAKER_IN_PATH = {
    "LibriSpeech": re.compile(r"(?:^|/)(?P<speaker>\d+)/(\d+)/(?P=speaker)-\2-\d+\.[^./]+$", re.ASCII),
    "MLS, LibriTTS": re.compile(r"(?:^|/)(?P<speaker>\d+)/(\d+)/(?P=speaker)_\2_\d+(_\d+)?\.[^./]+$", re.ASCII),
    "VCTK": re.compile(r"(?:^|/)wav(?:16|48)[^/]*/(?P<speaker>[^/_]+)/(?P=speaker)_[^/]+$", re.ASCII),
}
RANKS = {layout.name: rank for rank, layout in enumerate((*LAYOUTS, *BESIDE))}

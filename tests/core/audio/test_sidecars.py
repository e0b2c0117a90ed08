"""Labels beside the audio: what each file says, which file is followed, and what is told of the rest."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinywave_core.audio.sidecars import LARGEST_BYTES, Label, Labels, read_labels
from tinywave_core.audio.source import Source
from tinywave_core.errors import SourceError


def labels(folder: Path, files: dict[str, str | bytes]) -> Labels:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = Source(str(folder))
    listing = source.listing()
    return read_labels(source, listing, [file.path for file in listing.audio])


def told(found: Labels) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Problems by kind: their number and the first of them."""
    return {problem.kind: (problem.number, problem.first) for problem in found.report.problems}


def test_librispeech_gives_speaker_and_transcript(tmp_path: Path) -> None:
    found = labels(tmp_path, {"dev/84/121/84-121-0000.flac": "", "dev/84/121/84-121.trans.txt": "84-121-0000 GO ON\n"})
    assert found == Labels({"dev/84/121/84-121-0000.flac": Label("84", "GO ON")}, ())


def test_ljspeech_gives_the_normalised_transcript(tmp_path: Path) -> None:
    rows = 'LJ001-0001|Dr. A|Doctor A\nLJ001-0002|It is "so"\n'
    found = labels(tmp_path, {"LJ/wavs/LJ001-0001.wav": "", "LJ/wavs/LJ001-0002.flac": "", "LJ/metadata.csv": rows})
    assert [label.transcript for label in found.by_path.values()] == ["Doctor A", 'It is "so"']
    assert found.orphans == ()


def test_text_beside_the_audio_is_its_transcript(tmp_path: Path) -> None:
    found = labels(tmp_path, {"a/x.wav": "", "a/x.txt": "\ufeffHello \n there\n", "b/x.wav": ""})
    assert found.by_path == {"a/x.wav": Label(None, "Hello there"), "b/x.wav": Label()}


def test_librilight_records_name_the_speaker(tmp_path: Path) -> None:
    files = {
        "s/b/x.flac": "",
        "s/b/x.json": '{"speaker": "100", "snr": 9.5}',
        "s/b/y.flac": "",
        "s/b/y.json": "not json",
        "s/b/z.flac": "",
        "s/b/z.json": "[" * 100_000,
    }
    assert [label.speaker for label in labels(tmp_path, files).by_path.values()] == ["100", None, None]


def test_a_manifest_overrules_the_others(tmp_path: Path) -> None:
    files = {"a/x.wav": "", "a/x.txt": "wrong", "manifest.csv": 'path,speaker,transcript\na/x.wav,Ann,"Yes, sir"\n'}
    assert labels(tmp_path, files).by_path == {"a/x.wav": Label("Ann", "Yes, sir")}


def test_a_parquet_manifest_needs_only_paths_and_matches_other_unicode_forms(tmp_path: Path) -> None:
    table = pa.table({"path": ["e\u0301.wav", "gone.wav"], "speaker": [7, None]})
    pq.write_table(table, tmp_path / "manifest.parquet")
    found = labels(tmp_path, {"\u00e9.wav": ""})
    assert found == Labels({"\u00e9.wav": Label("7", None)}, ("manifest.parquet: gone.wav",))


def test_a_manifest_without_paths_says_which_columns_it_has(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"\['file', 'speaker'\]; expected path"):
        labels(tmp_path, {"x.wav": "", "manifest.csv": "file,speaker\nx.wav,Ann\n"})


def test_transcripts_without_audio_are_listed_and_stop_nothing(tmp_path: Path) -> None:
    files = {
        "1/2/1-2-0000.flac": "",
        "1/2/1-2.trans.txt": "1-2-0000 A\n1-2-0001 B\n",
        "metadata.csv": "LJ9|gone\n",
        "lost.txt": "gone",
        "README.txt": "not a transcript",
        "LICENSES/MIT.txt": "not a transcript either",
        "manifest.csv": "path,transcript\n../../etc/passwd,x\n,\n",
    }
    found = labels(tmp_path, files)
    assert sorted(found.orphans) == [
        "1/2/1-2.trans.txt: 1-2-0001",
        "lost.txt",
        "manifest.csv: (no name)",
        "manifest.csv: ../../etc/passwd",
        "metadata.csv: LJ9",
    ]


ENCODINGS = {
    "UTF-8": "Grüße, 世界".encode(),
    "UTF-8 with a mark": "Grüße, 世界".encode("utf-8-sig"),
    "UTF-16, small end first": "\ufeffGrüße, 世界".encode("utf-16-le"),
    "UTF-16, big end first": "\ufeffGrüße, 世界".encode("utf-16-be"),
    "UTF-32, small end first": "\ufeffGrüße, 世界".encode("utf-32-le"),
    "UTF-32, big end first": "\ufeffGrüße, 世界".encode("utf-32-be"),
}


@pytest.mark.parametrize("data", ENCODINGS.values(), ids=ENCODINGS)
def test_text_is_decoded_by_its_mark(tmp_path: Path, data: bytes) -> None:
    found = labels(tmp_path, {"x.wav": "", "x.txt": data})
    assert found.by_path["x.wav"].transcript == "Grüße, 世界"
    assert told(found) == {}


NO_TEXT = {
    "Windows-1252": "Grüße".encode("cp1252"),
    "UTF-16 without a mark": "Hello".encode("utf-16-le"),
    "UTF-16 cut within a letter": "\ufeffHello".encode("utf-16-le")[:-1],
    "a mark and other bytes": b"\xef\xbb\xbfcaf\xe9",
}


@pytest.mark.parametrize("data", NO_TEXT.values(), ids=NO_TEXT)
@pytest.mark.parametrize("name", ["x.txt", "metadata.csv", "manifest.csv", "x.json", "train.jsonl", "1-2.trans.txt"])
def test_what_is_no_text_is_named_and_never_guessed(tmp_path: Path, name: str, data: bytes) -> None:
    found = labels(tmp_path, {"x.wav": "", name: data})
    assert found.by_path == {"x.wav": Label()}
    assert told(found) == {"not UTF-8": (1, (name,))}


def test_a_label_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read whatever its mode is
    assert told(labels(tmp_path, {"x.wav": "", "x.txt": "hello"})) == {"unreadable": (1, ("x.txt",))}


def test_a_table_that_no_memory_holds_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.json").touch()
    os.truncate(tmp_path / "x.json", LARGEST_BYTES + 1)  # it takes no room on the disk
    assert told(labels(tmp_path, {"a.wav": ""})) == {"too large": (1, ("x.json",))}


def test_where_files_disagree_the_registry_decides_and_it_is_told(tmp_path: Path) -> None:
    files = {
        "a/x.wav": "",
        "a/x.txt": "by the text",
        "a/metadata.csv": "x|by the list|by the list\n",
        "manifest.csv": "path,speaker\na/x.wav,Ann\n",
        "a/x.json": '{"speaker": "Bob", "text": "by the record"}',
    }
    found = labels(tmp_path, files)
    assert found.by_path == {"a/x.wav": Label("Ann", "by the list")}
    assert told(found) == {"files disagree": (2, ("a/x.json: a/x.wav", "a/x.txt: a/x.wav"))}


def test_of_two_tables_the_nearer_one_is_followed(tmp_path: Path) -> None:
    far, near = "file_name,text\nb/x.wav,far\n", "file_name,text\nx.wav,near\n"
    found = labels(tmp_path, {"b/x.wav": "", "metadata.csv": far, "b/metadata.csv": near})
    assert found.by_path["b/x.wav"].transcript == "near"
    assert told(found) == {"files disagree": (1, ("metadata.csv: b/x.wav",))}


def test_files_that_agree_are_no_conflict(tmp_path: Path) -> None:
    found = labels(tmp_path, {"x.wav": "", "x.txt": "The same.\n", "metadata.csv": "x|The  same.\n"})
    assert found.by_path["x.wav"].transcript == "The same."
    assert told(found) == {}


def test_a_table_that_says_two_things_of_a_recording_counts_for_neither(tmp_path: Path) -> None:
    found = labels(tmp_path, {"x.wav": "", "t.csv": "path,speaker,text\nx.wav,Ann,one\nx.wav,Ann,two\n"})
    assert found.by_path == {"x.wav": Label("Ann", None)}
    assert told(found) == {"rows disagree": (1, ("t.csv: x.wav",))}


def test_the_report_says_how_many_labels_there_are_and_from_where(tmp_path: Path) -> None:
    files = {
        "84/121/84-121-0000.flac": "",
        "84/121/84-121-0001.flac": "",
        "84/121/84-121.trans.txt": "84-121-0000 GO ON\n84-121-0009 GONE\n",
        "x.wav": "",
        "x.txt": "hello",
        "counts.csv": "word,count\nhello,1\n",
        "train.parquet": "never opened",
    }
    report = labels(tmp_path, files).report
    assert (report.recordings, report.transcripts, report.speakers) == (3, 2, 2)
    assert [(o.layout, o.files, o.first, o.transcripts, o.speakers) for o in report.origins] == [
        ("LibriSpeech", 1, "84/121/84-121.trans.txt", 1, 2),
        ("text beside the audio", 1, "x.txt", 1, 0),
    ]
    assert report.unmatched.first == ("84/121/84-121.trans.txt: 84-121-0009",)
    assert report.unread.first == ("train.parquet", "counts.csv")


def test_nothing_is_told_of_recordings_that_are_not_asked_for(tmp_path: Path) -> None:
    table = "path,text\na.wav,one\na.wav,two\nb.wav,three\n"
    labels(tmp_path, {"a.wav": "", "b.wav": "", "t.csv": table, "a.txt": b"\xff", "b.txt": "three"})
    source = Source(str(tmp_path))
    found = read_labels(source, source.listing(), ["b.wav"])
    assert found == Labels({"b.wav": Label(None, "three")}, ())
    assert (told(found), found.report.details, found.report.recordings) == ({}, (), 1)


def test_a_source_without_labels_has_an_empty_report(tmp_path: Path) -> None:
    assert labels(tmp_path, {"x.wav": "", "README.md": "", "LICENSE": "", "SPEAKERS.TXT": "1 | F"}).report.is_empty

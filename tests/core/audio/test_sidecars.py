"""Sidecars: speakers and transcripts in the forms that corpora come in, and text without its audio."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinywave_core.audio.sidecars import Label, Labels, read_labels
from tinywave_core.audio.source import Source
from tinywave_core.errors import SourceError


def labels(folder: Path, files: dict[str, str]) -> Labels:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    source = Source(str(folder))
    listing = source.listing()
    return read_labels(source, listing, [file.path for file in listing.audio])


def test_librispeech_gives_speaker_and_transcript(tmp_path: Path) -> None:
    found = labels(tmp_path, {"dev/84/121/84-121-0000.flac": "", "dev/84/121/84-121.trans.txt": "84-121-0000 GO ON\n"})
    assert found == Labels({"dev/84/121/84-121-0000.flac": Label("84", "GO ON")}, ())


def test_only_librispeechs_own_layout_names_a_speaker() -> None:
    assert librispeech_speaker("84/121/84-121-0000.opus") == "84"
    assert librispeech_speaker("84-121-0000.flac") is None
    assert librispeech_speaker("2024/05/2023-05-0001.wav") is None


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
        "manifest.csv: .",
        "manifest.csv: ../../etc/passwd",
        "metadata.csv: LJ9",
    ]


def test_broken_text_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00caf\xe9\x00")
    assert labels(tmp_path, {"x.wav": ""}).by_path["x.wav"].transcript == "\ufffd\ufffd caf\ufffd"

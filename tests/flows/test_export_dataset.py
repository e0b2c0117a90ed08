"""`tinywave export-dataset`: what is written out and taken in again is the same corpus; other tools find what they look for."""

import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile

from flows.cli import main
from tests.fixtures.tiny import CLIPS, copy_clips, run_tiny, tiny_config
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Six recordings, two of them with a transcript."""
    folder = tmp_path_factory.mktemp("export")
    source = copy_clips(folder / "source", CLIPS[:6])
    (source / "manifest.csv").write_text(
        f'path,transcript\n{CLIPS[1]},"one, with ""quotes"""\n{CLIPS[2]},zwei ü\n', encoding="utf-8"
    )
    return run_tiny(tiny_config(source, folder / "store"), "ingestion")[0]["corpus"]


def said(corpus: Artifact) -> set[tuple[str, str, str, str]]:
    shards = corpus.store.find_all(corpus.summary["shards"])
    rows = [row for shard in shards for row in read_table(shard.path("utterances.parquet")).to_pylist()]
    return {(row["utterance_id"], row["speaker"], row["transcript"], row["split"]) for row in rows}


def exported(corpus: Artifact, folder: Path, form: str) -> Path:
    assert (
        main(["export-dataset", str(folder), "--as", form, "--corpus", corpus.id, "--root", str(corpus.store.root)])
        == 0
    )
    return folder


@pytest.mark.parametrize("form", ["audiofolder", "parquet", "webdataset", "lhotse"])
def test_what_is_written_out_and_taken_in_again_is_the_same_corpus(corpus: Artifact, tmp_path: Path, form: str):
    again = exported(corpus, tmp_path / form, form)
    taken = run_tiny(tiny_config(again, tmp_path / "store"), "ingestion")[0]
    assert said(taken["corpus"]) == said(corpus)
    assert taken["labels"].summary["unmatched"]["number"] == 0


def test_parquet_has_the_sound_and_tells_datasets_that_it_is_sound(corpus: Artifact, tmp_path: Path):
    folder = exported(corpus, tmp_path / "out", "parquet")
    tables = {path.name: pq.read_table(path) for path in (folder / "data").iterdir()}
    assert sorted(tables) == ["test-00000.parquet", "train-00000.parquet"]
    rows = [row for table in tables.values() for row in table.to_pylist()]
    assert {(row["id"], row["speaker_id"], row["transcription"]) for row in rows} == {each[:3] for each in said(corpus)}
    (tmp_path / "a.flac").write_bytes(rows[0]["audio"]["bytes"])
    assert soundfile.info(tmp_path / "a.flac").duration == pytest.approx(rows[0]["duration"])
    features = json.loads(tables["train-00000.parquet"].schema.metadata[b"huggingface"])["info"]["features"]
    assert features["audio"] == {"sampling_rate": 16_000, "_type": "Audio"}
    assert set(features) == set(tables["train-00000.parquet"].column_names)


def test_the_same_corpus_gives_the_same_bytes(corpus: Artifact, tmp_path: Path):
    for form in ("webdataset", "lhotse"):
        one, other = (exported(corpus, tmp_path / f"{form}-{n}", form) for n in range(2))
        files = [path.relative_to(one) for path in sorted(one.rglob("*")) if path.is_file()]
        assert files and all((one / name).read_bytes() == (other / name).read_bytes() for name in files)


def test_a_tar_has_the_names_that_webdataset_pairs(corpus: Artifact, tmp_path: Path):
    folder = exported(corpus, tmp_path / "out", "webdataset")
    with tarfile.open(folder / "train-000000.tar") as tar:
        names = tar.getnames()
    assert names[0::2] == [f"{name.removesuffix('.json')}.flac" for name in names[1::2]]


def test_a_folder_that_is_there_is_left_alone(corpus: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "out").mkdir()
    assert main(["export-dataset", str(tmp_path / "out"), "--corpus", corpus.id, "--root", str(corpus.store.root)]) == 2
    assert "is there already: pass the name of a new folder" in capsys.readouterr().err
    assert [*(tmp_path / "out").iterdir()] == []

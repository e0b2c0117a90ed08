"""Accounting: every entry of a source is accepted, rejected or skipped with its reason, or counted by the kind that it is."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from tinywave_core.audio.scan import Scan
from tinywave_core.config.ingestion import IngestionConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.ingestion import corpus as ingestion
from tinywave_core.stages.ingestion.look import look, said
from tinywave_core.stages.ingestion.stage import describe, facts, odd_files
from tinywave_core.steps.base import compute_all
from tinywave_core.storage.store import Artifact, Store

EXAMPLES = Path(__file__).parents[2] / "examples" / "speech"
SENTENCES = sorted((EXAMPLES / "LJSpeech" / "wavs").glob("*.mp3"))

pytestmark = pytest.mark.filterwarnings("error")


def configured(source: Path | None, store: Path, **settings: Any) -> PipelineConfig:
    return PipelineConfig(source=source and str(source), root=str(store), ingestion=IngestionConfig(**settings))


def ingest(source: Path | None, store: Path, **settings: Any) -> Artifact:
    config = configured(source, store, **settings)
    return ingestion.build(config, Store(config.root), compute_all)


def scan(source: Path, store: Path) -> Scan:
    config = configured(source, store)
    return ingestion.scan(config, Store(config.root))


def rows(corpus: Artifact) -> list[dict[str, Any]]:
    return pq.read_table(corpus.path("files.parquet")).to_pylist()


def fates(corpus: Artifact) -> dict[str, tuple[str, str | None]]:
    return {row["path"]: (row["status"], row["reason"]) for row in rows(corpus)}


def paths_heard(corpus: Artifact) -> list[str]:
    """Paths of the utterances that later stages take."""
    dropped = {i for ids in corpus.summary["duplicates"].values() for i in ids}
    found = []
    for shard in corpus.summary["shards"]:
        table = pq.read_table(corpus.store.find(shard).path("utterances.parquet"))
        found += [row["path"] for row in table.to_pylist() if row["utterance_id"] not in dropped]
    return sorted(found)


def sentence(number: int) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(SENTENCES[number], dtype="float32")
    return samples, rate


def say(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(SENTENCES[number], path))


# A folder of everything --------------------------------------------------------------------------------------------


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Entries of some twenty kinds, a store with a wav of its own among them."""
    source = tmp_path / "source"
    say(source / "good.mp3", 0)
    say(source / "deep/er/good too.mp3", 1)
    say(source / "copy of good.mp3", 0)
    (source / "empty.wav").touch()
    (source / "a second empty.wav").touch()
    (source / "noise.wav").write_text("no audio at all " * 9)
    (source / "noise again.wav").write_text("no audio at all " * 9)
    soundfile.write(source / "short.wav", np.random.default_rng(0).normal(0, 0.1, 3_000), 16_000)
    (source / "notes.txt").write_text("a note")
    (source / "LICENSE").write_text("free")
    say(source / ".hidden.mp3", 2)
    say(source / ".cache/inside.mp3", 2)
    say(tmp_path / "elsewhere.mp3", 2)
    (source / "out.mp3").symlink_to(tmp_path / "elsewhere.mp3")
    (source / "in.mp3").symlink_to(source / "good.mp3")
    (source / "round").symlink_to(source)
    (source / "lost.mp3").symlink_to(source / "nothing here")
    os.mkfifo(source / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "socket"))
    (source / "an empty folder").mkdir()
    say(Path(Store(str(source / "deep/out")).root) / "generation/aa/sample.wav", 2)
    return source


def entries(source: Path) -> int:
    """What a person counts: all but folders, and a store as one."""
    found = [path for path in source.rglob("*") if path.is_symlink() or not path.is_dir()]
    return len([path for path in found if not path.is_relative_to(source / "deep/out")]) + 1


def test_every_entry_of_a_source_is_told(zoo: Path, tmp_path: Path) -> None:
    today = scan(zoo, tmp_path / "store")
    assert today.left_out.numbers == {
        "hidden": 2,
        "link out": 1,
        "link in": 2,
        "link lost": 1,
        "pipe": 1,
        "socket": 1,
        "store": 1,
    }
    corpus = ingest(zoo, tmp_path / "store")
    assert today.found == len(rows(corpus)) == corpus.summary["files"]["found"]
    assert today.found + today.texts + today.left_out.total == entries(zoo)
    assert sum(corpus.summary["files"][status] for status in ("accepted", "rejected", "skipped")) == today.found
    assert all(row["reason"] and row["detail"] for row in rows(corpus) if row["status"] != "accepted")
    (line,) = look(configured(zoo, tmp_path / "store"), Store(str(tmp_path / "store")))
    assert line == (
        "left out below the source: the store deep/out; 2 hidden files (.hidden.mp3, .cache/inside.mp3); 1 symbolic link to nothing "
        "(lost.mp3); 1 symbolic link out of the source (out.mp3); 2 symbolic links inside the source (in.mp3, round); 1 named pipe "
        "(pipe.wav); 1 socket (socket)"
    )


def test_a_copy_of_a_rejected_file_is_rejected_for_the_same_reason(zoo: Path, tmp_path: Path) -> None:
    corpus = ingest(zoo, tmp_path / "store")
    found = fates(corpus)
    assert Counter(found[name] for name in ("noise.wav", "noise again.wav")) == {("rejected", "not_audio"): 2}
    assert Counter(found[name] for name in ("empty.wav", "a second empty.wav")) == {("rejected", "empty_file"): 2}
    assert Counter(found[name] for name in ("good.mp3", "copy of good.mp3")) == {
        ("accepted", None): 1,
        ("skipped", "duplicate"): 1,
    }
    assert corpus.summary["reasons"] == {"duplicate": 1, "empty_file": 2, "not_audio": 2, "too_short": 1}
    (copy,) = [row for row in rows(corpus) if row["reason"] == "not_audio" and "the same bytes as" in row["detail"]]
    assert copy["detail"].startswith("libsndfile: ")


def test_the_look_is_in_numbers_that_add_up(zoo: Path, tmp_path: Path) -> None:
    first, line = said(scan(zoo, tmp_path / "store"))
    assert first == f"source {zoo}: 8 files, 5 new, 0 known, 3 copies of new ones; 2 text files beside them"
    assert line.startswith("left out below the source: the store deep/out")


@pytest.fixture
def readable() -> Iterator[Path]:
    """A folder that every user may list; pytest's own are for one alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_what_may_not_be_read_is_counted(readable: Path) -> None:
    """In a process of another user, for whom the rights of files count."""
    say(readable / "good.mp3", 0).chmod(0o644)
    say(readable / "private.mp3", 1).chmod(0)
    say(readable / "closed/inside.mp3", 2)
    (readable / "closed").chmod(0)
    program = f"""
import os
from tinywave_core.audio.source import Source
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
listing = Source({str(readable)!r}).listing()
print([file.path for file in listing.audio], listing.left_out.line())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    (readable / "closed").chmod(0o755)  # so that it can be deleted
    assert done.stdout.strip() == (
        "['good.mp3'] left out below the source: 1 folder that may not be read (closed); 1 file that may not be read (private.mp3)"
    ), done.stderr


# Long recordings ---------------------------------------------------------------------------------------------------


def test_one_sentence_in_long_silence_is_kept(tmp_path: Path) -> None:
    speech, rate = sentence(0)
    silence = np.random.default_rng(0).normal(0, 1e-4, 300 * rate).astype(np.float32)
    (tmp_path / "source").mkdir()
    soundfile.write(tmp_path / "source/night.flac", np.concatenate([silence, speech, silence]), rate)
    corpus = ingest(tmp_path / "source", tmp_path / "store")
    (row,) = rows(corpus)
    assert (row["status"], row["utterances"]) == ("accepted", 1) and row["speech_share"] < 0.02
    assert row["speech_samples"] / 16_000 == pytest.approx(len(speech) / rate, abs=1)


def test_a_short_recording_with_little_speech_is_still_rejected_by_its_share(tmp_path: Path) -> None:
    speech, rate = sentence(0)
    silence = np.zeros(20 * rate, np.float32)
    (tmp_path / "source").mkdir()
    say(tmp_path / "source/good.mp3", 1)
    soundfile.write(tmp_path / "source/short.flac", np.concatenate([silence, speech[: rate // 2]]), rate)
    assert fates(ingest(tmp_path / "source", tmp_path / "store"))["short.flac"] == ("rejected", "no_speech")


# Warnings ----------------------------------------------------------------------------------------------------------


def test_warnings_are_counted_in_the_line_the_facts_and_the_page(tmp_path: Path) -> None:
    speech, rate = sentence(0)
    (tmp_path / "source").mkdir()
    soundfile.write(tmp_path / "source/clipped.wav", 0.99 * np.clip(6 * speech, -1, 1), rate)
    soundfile.write(tmp_path / "source/anti.wav", np.stack([0.9 * speech, -0.9 * speech], axis=1), rate)
    say(tmp_path / "source/good.mp3", 1)
    outputs = {"corpus": ingest(tmp_path / "source", tmp_path / "store")}
    assert outputs["corpus"].summary["warnings"] == {"antiphase": 1, "clipped": 1}
    assert describe(outputs)[1].endswith("warnings: 1 antiphase, 1 clipped")
    assert dict(facts(outputs))["taken, but odd"] == "1 antiphase, 1 clipped"
    (section,) = odd_files(outputs)
    assert [row["path"] for row in section.rows] == ["anti.wav", "clipped.wav"]
    assert "cut flat" in section.text


# Replaced recordings -----------------------------------------------------------------------------------------------


def test_a_better_take_under_the_old_name_takes_its_place(tmp_path: Path) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    say(source / "a.mp3", 0)
    say(source / "b.mp3", 1)
    before = ingest(source, store)
    say(source / "a.mp3", 2)
    today = scan(source, store)
    assert (today.new, today.known, today.replaced) == (1, 1, ("a.mp3",))
    assert said(today)[1] == "replaced, 1 with other content under the old name: a.mp3"
    after = ingest(source, store)
    assert after.summary["reasons"] == {"replaced": 1}
    assert paths_heard(after) == ["a.mp3", "b.mp3"] and after.summary["recordings"] == 2
    assert after.summary["hours"] != before.summary["hours"]
    assert ingest(None, store).id == after.id == ingest(source, store).id


def test_the_old_take_comes_back_when_its_file_does(tmp_path: Path) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    say(source / "a.mp3", 0)
    before = ingest(source, store)
    say(source / "a.mp3", 2)
    ingest(source, store)
    say(source / "another name.mp3", 0)
    both = ingest(source, store)
    assert both.summary["recordings"] == 2 and both.summary["reasons"] == {}
    (source / "another name.mp3").unlink()
    say(source / "a.mp3", 0)
    back = ingest(source, store)
    assert back.summary["hours"] == before.summary["hours"] and back.summary["reasons"] == {"replaced": 1}


def test_a_recording_is_not_given_up_for_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    say(source / "a.mp3", 0)
    before = ingest(source, store)
    (source / "a.mp3").write_bytes(SENTENCES[2].read_bytes()[:2000])
    after = ingest(source, store)
    assert after.summary["hours"] == before.summary["hours"]
    assert [row["status"] for row in rows(after)] == ["accepted", "rejected"]


def test_a_renamed_and_a_moved_recording_are_not_replaced(tmp_path: Path) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    say(source / "a.mp3", 0)
    ingest(source, store)
    (source / "a.mp3").rename(source / "b.mp3")
    say(source / "a.mp3", 1)
    renamed = ingest(source, store)
    assert renamed.summary["recordings"] == 2
    shutil.copytree(source, tmp_path / "moved")
    assert ingest(tmp_path / "moved", store).id == renamed.id
    say(tmp_path / "moved/a.mp3", 2)
    replaced = ingest(tmp_path / "moved", store)
    assert replaced.summary["recordings"] == 2 and replaced.summary["reasons"] == {"replaced": 1}


def test_new_tags_on_the_same_samples_replace_nothing(tmp_path: Path) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    say(source / "a.mp3", 0)
    before = ingest(source, store)
    (source / "a.mp3").write_bytes(SENTENCES[0].read_bytes() + b"TAG" + bytes(125))
    after = ingest(source, store)
    assert after.summary["shards"] == before.summary["shards"] and after.summary["hours"] == before.summary["hours"]
    assert after.summary["reasons"] == {"duplicate": 1}


def test_a_lost_shard_does_not_ask_for_what_was_replaced(tmp_path: Path) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    say(source / "a.mp3", 0)
    say(source / "b.mp3", 1)
    before = ingest(source, store)
    say(source / "a.mp3", 2)
    ingest(source, store)
    (store / before.summary["shards"][0] / "manifest.json").unlink()
    after = ingest(source, store)
    assert paths_heard(after) == ["a.mp3", "b.mp3"]

"""Ingestion: the same audio gives the same corpus, however, whenever and wherever it comes from."""

import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from moto.server import ThreadedMotoServer

from tests.fixtures.tiny import CLIPS, Computed, copy_clips, run_tiny, tiny_config
from tinywave_core.audio.cutting import split_of
from tinywave_core.audio.scan import Scan
from tinywave_core.audio.source import Source, SourceFile
from tinywave_core.audio.utterances import read_utterances
from tinywave_core.config.ingestion import IngestionConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import SourceError
from tinywave_core.stages.ingestion import corpus as ingestion
from tinywave_core.stages.ingestion.stage import STAGE
from tinywave_core.stages.ingestion.summary import CorpusSummary, LabelsSummary
from tinywave_core.steps.base import Outputs, Step, compute, compute_all
from tinywave_core.storage.s3 import S3
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact, NotYetComputedError, Store

EXAMPLES = Path(__file__).parents[2] / "examples" / "speech"
READERS = sorted((EXAMPLES / "LibriSpeech" / "test-other").rglob("*.opus"), key=lambda path: path.stat().st_size)[:6]
LJ = EXAMPLES / "LJSpeech" / "wavs"

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six short utterances of LibriSpeech readers with their transcripts."""
    for path in READERS:
        copy(path, tmp_path / "source", str(path.relative_to(EXAMPLES)))
        (transcripts,) = path.parent.glob("*.trans.txt")
        copy(transcripts, tmp_path / "source", str(transcripts.relative_to(EXAMPLES)))
    return tmp_path / "source"


def copy(path: Path, folder: Path, name: str | None = None) -> Path:
    target = folder / (name or path.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(path, target))


def configured(source: Path | str | None, store: Path, **ingestion: Any) -> PipelineConfig:
    settings = {"held_out_fraction": 0.4, **ingestion}
    return PipelineConfig(source=source and str(source), root=str(store), ingestion=IngestionConfig(**settings))


def ingest(source: Path | str | None, store: Path, execute: Any = compute_all, **settings: Any) -> Artifact:
    config = configured(source, store, **settings)
    return ingestion.build(config, Store(config.root), execute)


def look(source: Path, store: Path, **settings: Any) -> Scan:
    config = configured(source, store, **settings)
    return ingestion.scan(config, Store(config.root))


def utterance_ids(corpus: Artifact) -> set[str]:
    ids = [u.utterance_id for shard in corpus.summary["shards"] for u in read_utterances(corpus.store.find(shard))]
    dropped = [i for ids_of_shard in corpus.summary["duplicates"].values() for i in ids_of_shard]
    assert len(ids) - len(dropped) == len(set(ids)) == corpus.summary["utterances"]
    return set(ids)


def files(corpus: Artifact) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in pq.read_table(corpus.path("files.parquet")).to_pylist()}


def digests(artifacts: Sequence[Artifact]) -> list[str]:
    return [entry.sha256 for artifact in artifacts for entry in (artifact.manifest.files if artifact.manifest else [])]


def shards(corpus: Artifact) -> list[Artifact]:
    return [corpus.store.find(shard) for shard in corpus.summary["shards"]]


def test_the_corpus_says_what_is_in_it(source: Path, tmp_path: Path) -> None:
    summary = ingest(source, tmp_path / "store").summary
    assert summary["files"] == {"found": 6, "accepted": 6, "rejected": 0, "skipped": 0}
    assert summary["utterances"] == summary["transcribed_utterances"] == summary["recordings"] == 6
    assert summary["speakers"] == len({path.parts[-3] for path in READERS})
    seconds = sum(soundfile.info(path).duration for path in READERS)
    assert summary["hours"] * 3600 == pytest.approx(seconds, rel=1e-4)
    assert sum(summary["duration_histogram"]["utterances"]) == 6


def test_utterances_carry_sound_speaker_transcript_and_split(source: Path, tmp_path: Path) -> None:
    corpus = ingest(source, tmp_path / "store")
    (shard,) = shards(corpus)
    utterances = list(read_utterances(shard))
    assert all(
        u.speaker == u.path.split("/")[2] and u.transcript and u.split in ("train", "held_out") for u in utterances
    )
    assert len({(u.speaker, u.split) for u in utterances}) == len({u.speaker for u in utterances})
    ids = [hashlib.sha256((u.samples * 32_768).astype("<i2").tobytes()).hexdigest()[:32] for u in utterances]
    assert ids == [u.utterance_id for u in utterances]


def test_a_long_recording_is_cut_at_its_pauses_and_loses_its_transcript(tmp_path: Path) -> None:
    copy(EXAMPLES / "sonnets" / "sonnet-003.mp3", tmp_path / "source")
    copy(EXAMPLES / "sonnets" / "sonnet-003.txt", tmp_path / "source")
    corpus = ingest(tmp_path / "source", tmp_path / "store", max_utterance_s=12)
    utterances = [u for shard in shards(corpus) for u in read_utterances(shard)]
    assert len(utterances) >= 5
    assert all(0.5 <= len(u.samples) / 16_000 <= 12 and u.transcript is None for u in utterances)
    assert corpus.summary["hours"] * 3600 > 40


def test_every_file_has_a_row_with_its_reason_and_the_counts_add_up(source: Path, tmp_path: Path) -> None:
    (source / "empty.wav").touch()
    (source / "text.wav").write_text("hello " * 100)
    copy(next((EXAMPLES / "not_speech").iterdir()), source, "bird.ogg")
    soundfile.write(source / "short.wav", np.random.default_rng(0).normal(0, 0.1, 3_000), 16_000)
    copy(READERS[0], source, "copy.opus")
    copy(LJ / "LJ001-0002.wav", source)
    copy(LJ / "LJ001-0002.flac", source)
    corpus = ingest(source, tmp_path / "store")
    assert corpus.summary["files"] == {"found": 13, "accepted": 7, "rejected": 4, "skipped": 2}
    assert corpus.summary["reasons"] == {
        "duplicate": 2,
        "empty_file": 1,
        "no_speech": 1,
        "not_audio": 1,
        "too_short": 1,
    }
    rows = files(corpus)
    assert len(rows) == 13
    assert all(row["detail"] for row in rows.values() if row["status"] != "accepted")
    assert rows["bird.ogg"]["reason"] == "no_speech"


def test_files_in_five_runs_give_the_same_utterances_as_in_one(source: Path, tmp_path: Path) -> None:
    copy(LJ / "LJ001-0002.wav", source / "z")
    copy(LJ / "LJ001-0002.flac", source)
    whole = ingest(source, tmp_path / "one")
    everything = sorted(path for path in source.rglob("*") if path.is_file())
    for start in range(5):
        for path in everything[start::5]:
            copy(path, tmp_path / "growing", str(path.relative_to(source)))
        grown = ingest(tmp_path / "growing", tmp_path / "five")
    assert utterance_ids(grown) == utterance_ids(whole)
    assert grown.summary["hours"] == whole.summary["hours"]
    assert grown.summary["files"]["accepted"] == whole.summary["files"]["accepted"] == 7


def test_new_audio_makes_one_new_shard_and_leaves_the_old_ones(source: Path, tmp_path: Path) -> None:
    before = ingest(source, tmp_path / "store")
    old = digests(shards(before))
    copy(LJ / "LJ001-0007.mp3", source)
    after = ingest(source, tmp_path / "store")
    assert after.summary["shards"][:-1] == before.summary["shards"]
    assert digests(shards(after))[: len(old)] == old
    assert after.summary["utterances"] == 7


def test_shards_are_cut_by_size_from_content_and_not_from_names(source: Path, tmp_path: Path) -> None:
    first = ingest(source, tmp_path / "one", shard_megabytes=0.03)
    for number, path in enumerate(sorted(source.rglob("*.opus"), reverse=True)):
        copy(path, tmp_path / "renamed", f"{number}/{path.parts[-3]}/{path.parts[-2]}/{path.name}")
        (text,) = path.parent.glob("*.trans.txt")
        copy(text, tmp_path / "renamed", f"{number}/{path.parts[-3]}/{path.parts[-2]}/{text.name}")
    second = ingest(tmp_path / "renamed", tmp_path / "two", shard_megabytes=0.03)
    assert len(first.summary["shards"]) > 1
    assert first.id == second.id


def test_renaming_copying_and_touching_change_nothing(source: Path, tmp_path: Path) -> None:
    before = ingest(source, tmp_path / "store")
    paths = sorted(source.rglob("*.opus"))
    paths[0].rename(source / "new name.opus")
    copy(paths[1], source, "copy.opus")
    os.utime(paths[2], ns=(1, 1))
    scan = look(source, tmp_path / "store")
    assert (scan.found, scan.known, scan.new, scan.hashed) == (7, 7, 0, 3)
    assert ingest(source, tmp_path / "store").id == before.id


def test_unchanged_files_are_not_read_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ingest(source, tmp_path / "store")
    read: list[str] = []

    def hashes(self: Source, wanted: Sequence[SourceFile]) -> list[str | None]:
        read.extend(file.path for file in wanted)
        return []

    monkeypatch.setattr(Source, "hashes", hashes)
    assert ingest(source, tmp_path / "store").id == before.id
    assert read == []


def test_files_that_left_the_source_stay_in_the_corpus(source: Path, tmp_path: Path) -> None:
    before = ingest(source, tmp_path / "store")
    next(source.rglob("*.opus")).unlink()
    assert ingest(source, tmp_path / "store").id == before.id
    assert look(source, tmp_path / "store").absent == 1
    assert ingest(None, tmp_path / "store").id == before.id


def test_a_lost_shard_is_made_again_from_its_files(source: Path, tmp_path: Path) -> None:
    before = ingest(source, tmp_path / "store", shard_megabytes=0.03)
    (tmp_path / "store" / before.summary["shards"][0] / "manifest.json").unlink()
    assert ingest(source, tmp_path / "store", shard_megabytes=0.03).id == before.id
    assert digests(shards(before)) == digests(shards(ingest(source, tmp_path / "store", shard_megabytes=0.03)))


def test_a_lost_shard_whose_files_are_gone_says_so(source: Path, tmp_path: Path) -> None:
    before = ingest(source, tmp_path / "store")
    (tmp_path / "store" / before.summary["shards"][0] / "manifest.json").unlink()
    with pytest.raises(SourceError, match=r"lost a shard of the corpus, and 6 of its 6 source files"):
        ingest(None, tmp_path / "store")


@pytest.mark.parametrize("file", [0, 4])
def test_a_run_that_dies_is_run_again_to_the_same_bytes(file: int, source: Path, tmp_path: Path) -> None:
    whole = ingest(source, tmp_path / "one")

    def dies(steps: Sequence[Step]) -> list[Artifact]:
        def progress(done: int, total: int, note: str = "") -> None:
            if done == file:
                raise KeyboardInterrupt

        return [compute(step, progress) for step in steps]

    with pytest.raises(KeyboardInterrupt):
        ingest(source, tmp_path / "two", dies)
    again = ingest(source, tmp_path / "two")
    assert digests([again, *shards(again)]) == digests([whole, *shards(whole)])


def test_a_plan_writes_nothing_and_knows_the_corpus_only_when_it_is_there(source: Path, tmp_path: Path) -> None:
    def plan(steps: Sequence[Step]) -> list[Artifact]:
        return [step.find() for step in steps]

    planned = ingest(source, tmp_path / "store", plan)
    with pytest.raises(NotYetComputedError):
        _ = planned.summary
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["store.json"]
    assert ingest(source, tmp_path / "store").id == planned.id


def test_where_things_are_and_how_fast_they_run_does_not_identify_the_corpus(source: Path, tmp_path: Path) -> None:
    config = configured(source, tmp_path / "store")
    runtime = config.runtime.model_copy(update={"decode_timeout_s": 60.0, "workers": 1})
    other = config.model_copy(update={"source": "elsewhere", "runtime": runtime})
    assert ingestion.corpus_key(config) == ingestion.corpus_key(other)


def test_a_source_of_rejects_only_says_how_many_and_why(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(3):
        (tmp_path / "source" / f"{number}.wav").write_text(f"not audio {number}")
    with pytest.raises(SourceError, match=r"of 3 files none gave speech \(3 not_audio\)"):
        ingest(tmp_path / "source", tmp_path / "store")


def test_no_source_and_no_corpus_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no --source was given"):
        ingest(None, tmp_path / "store")


def test_a_file_that_changes_while_it_is_ingested_stops_the_run(source: Path, tmp_path: Path) -> None:
    def changes(steps: Sequence[Step]) -> list[Artifact]:
        next(source.rglob("*.opus")).write_bytes(b"changed")
        return compute_all(steps)

    with pytest.raises(SourceError, match="changed while it was being ingested"):
        ingest(source, tmp_path / "store", changes)


@pytest.mark.parametrize("split_by", ["speaker", "recording"])
@pytest.mark.parametrize("fraction", [1e-9, 0.8999])
def test_a_corpus_on_one_side_of_the_split_is_told_what_puts_one_on_the_other(
    source: Path, tmp_path: Path, split_by: str, fraction: float
) -> None:
    corpus = ingest(source, tmp_path / "store", split_by=split_by, held_out_fraction=fraction)
    summary = CorpusSummary.of(corpus)
    if summary.utterances_train and summary.utterances_held_out:
        return  # some speaker happens to lie above 0.8999
    with pytest.raises(SourceError, match="what trains a model cannot judge it. Pass .* which holds one out") as error:
        ingestion.require_split(IngestionConfig(split_by=split_by), corpus)
    told = dict(re.findall(r"--ingestion\.(\w+) (\S+)", str(error.value).replace(",", " ")))
    settings = {"split_by": split_by, **told, "held_out_fraction": float(told["held_out_fraction"])}
    config = IngestionConfig(**settings)
    ingestion.require_split(config, ingest(source, tmp_path / "store", **settings))


def test_one_recording_alone_is_told_to_add_some(source: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    shutil.copyfile(next(source.rglob("*.opus")), tmp_path / "one" / "a.opus")
    with pytest.raises(SourceError, match="Add recordings: one can be on one side only"):
        ingestion.require_split(IngestionConfig(), ingest(tmp_path / "one", tmp_path / "store"))


def test_the_split_is_a_hash_of_the_speaker_and_has_the_asked_share() -> None:
    config = IngestionConfig(held_out_fraction=0.1)
    held_out = [split_of(config, str(speaker), "r") == "held_out" for speaker in range(5_000)]
    assert sum(held_out) / 5_000 == pytest.approx(0.1, abs=0.015)
    assert split_of(config, "any", "r1") == split_of(config, "any", "r2")


def test_transcripts_without_audio_are_in_the_scan(source: Path, tmp_path: Path) -> None:
    (source / "lost.txt").write_text("nobody said this")
    scan = look(source, tmp_path / "store")
    assert "lost.txt" in scan.orphan_transcripts
    assert (scan.found, scan.new, scan.known, scan.copies) == (6, 6, 0, 0)


def run(source: Path, store: Path) -> tuple[Outputs, list[str]]:
    """The stage's outputs, and which parts were computed."""
    execute = Computed()
    return STAGE.build(configured(source, store), Store(str(store)), {}, execute), [step.part for step in execute.ran]


def test_every_run_says_which_labels_it_saw_and_computes_nothing_else_for_them(source: Path, tmp_path: Path) -> None:
    outputs, _ = run(source, tmp_path / "store")
    assert LabelsSummary.of(outputs["labels"]).transcripts == 6
    told = "; 6 of 6 files with transcript, 6 with speaker, 14 label rows without audio"  # transcripts are of whole chapters
    assert STAGE.describe(outputs)[1].endswith(told)
    (source / "lost.txt").write_text("nobody said this")
    again, ran = run(source, tmp_path / "store")
    assert ran == ["labels"] and again["corpus"] == outputs["corpus"]
    assert dict(STAGE.facts(again))["label rows without audio"].startswith("15: ")
    assert pq.read_table(again["labels"].path("labels.parquet"))["place"].to_pylist()[-1] == "lost.txt"
    assert run(source, tmp_path / "store") == (again, [])


def test_a_source_without_labels_has_no_part_for_them(tmp_path: Path) -> None:
    copy(LJ / "LJ001-0002.wav", tmp_path / "source")
    outputs, ran = run(tmp_path / "source", tmp_path / "store")
    assert (list(outputs), ran) == (["corpus"], ["shard", "corpus"])
    assert "transcript" not in STAGE.describe(outputs)[1] and STAGE.sections(outputs) == []


def test_speakers_of_common_voice_lie_on_one_side_of_the_split(tmp_path: Path) -> None:
    clips = [copy(path, tmp_path / "source" / "clips") for path in READERS]
    rows = "".join(f"{'ab'[number % 2]}\t{clip.name}\tSentence {number}.\n" for number, clip in enumerate(clips))
    (tmp_path / "source" / "validated.tsv").write_text(f"client_id\tpath\tsentence\n{rows}")
    corpus = ingest(tmp_path / "source", tmp_path / "store")
    utterances = [u for shard in shards(corpus) for u in read_utterances(shard)]
    assert {u.speaker for u in utterances} == {"a", "b"}
    assert len({(u.speaker, u.split) for u in utterances}) == 2
    assert {u.transcript for u in utterances} == {f"Sentence {number}." for number in range(6)}


def test_progress_is_told_file_by_file(source: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []

    def listening(steps: Sequence[Step]) -> list[Artifact]:
        hear: Callable[..., None] = lambda done, total, note="": heard.append((done, total))
        return [compute(step, hear) for step in steps]

    ingest(source, tmp_path / "store", listening)
    assert heard[:7] == [(number, 6) for number in range(7)]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    S3.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="corpus")
    yield client
    client.close()
    server.stop()
    S3.clear_instance_cache()


def test_a_bucket_gives_the_same_corpus_as_a_folder(source: Path, tmp_path: Path, bucket: Any) -> None:
    for path in source.rglob("*.*"):
        bucket.upload_file(str(path), "corpus", f"in/{path.relative_to(source)}")
    local, remote = ingest(source, tmp_path / "one"), ingest("s3://corpus/in", tmp_path / "two")
    assert digests([remote, *shards(remote)]) == digests([local, *shards(local)])
    scan = ingestion.scan(configured("s3://corpus/in", tmp_path / "two"), Store(str(tmp_path / "two")))
    assert (scan.known, scan.hashed) == (6, 0)


def test_recordings_in_a_tar_are_the_recordings_of_a_folder(tmp_path: Path) -> None:
    folder = copy_clips(tmp_path / "folder", CLIPS[:4])
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "shard-000.tar", "w") as tar:
        for clip in CLIPS[:4]:
            tar.add(folder / clip, arcname=clip)
    corpora = [
        run_tiny(tiny_config(source, tmp_path / f"{source.name}-store"), "ingestion")[0]["corpus"]
        for source in (folder, packed)
    ]
    ids = [
        {
            (row["utterance_id"], row["speaker"], row["split"])
            for shard in corpus.store.find_all(corpus.summary["shards"])
            for row in read_table(shard.path("utterances.parquet")).to_pylist()
        }
        for corpus in corpora
    ]
    assert ids[0] == ids[1] and len(ids[0]) == 4

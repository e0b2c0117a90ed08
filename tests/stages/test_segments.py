"""Parts of recordings that labels name are cut out as they are given, each with its transcript."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.fixtures.tiny import CLIPS, EXAMPLES, run_tiny, tiny_config
from tinywave_core.audio.sidecars import Label, read_labels
from tinywave_core.audio.source import Source
from tinywave_core.stages.ingestion import corpus as ingestion
from tinywave_core.stages.ingestion.look import said
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Store

RATE = 16_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four readers one after the other in a file, and a fifth in one of their own."""
    (tmp_path / "source" / "audio").mkdir(parents=True)
    clips = [soundfile.read(EXAMPLES / CLIPS[number], dtype="float32")[0] for number in range(4, 9)]
    soundfile.write(tmp_path / "source" / "audio" / "long.flac", np.concatenate(clips[:4]), RATE)
    soundfile.write(tmp_path / "source" / "audio" / "short.flac", clips[4], RATE)
    return tmp_path / "source"


def ingested(source: Path, store: Path, *segments: tuple[float, float, str], **settings: Any) -> Outputs:
    rows = [{"begin_time": start, "end_time": stop, "text_tn": text} for start, stop, text in segments]
    giga = {"audios": [{"path": "audio/long.opus", "segments": rows}]}
    (source / "GigaSpeech.json").write_text(json.dumps(giga))
    return run_tiny(tiny_config(source, store, ingestion=settings), "ingestion")[0]


def utterances(outputs: Outputs) -> list[tuple[float, float, str | None]]:
    shards = outputs["corpus"].store.find_all(outputs["corpus"].summary["shards"])
    rows = [row for shard in shards for row in read_table(shard.path("utterances.parquet")).to_pylist()]
    long = [row for row in rows if row["path"].endswith("long.flac")]
    times = [(row["start_samples"], row["start_samples"] + row["num_samples"], row["transcript"]) for row in long]
    return sorted((start / RATE, stop / RATE, text) for start, stop, text in times)


def file(outputs: Outputs, name: str) -> dict[str, Any]:
    rows = read_table(outputs["corpus"].path("files.parquet")).to_pylist()
    return next(row for row in rows if row["path"].endswith(name))


def test_parts_are_cut_as_given_and_what_is_too_short_or_between_them_is_left_out(source: Path, tmp_path: Path) -> None:
    given = ((1.0, 3.25, "ONE"), (3.5, 3.75, "BLIP"), (5.0, 9.0, "TWO <COMMA> THREE"))
    taken = ingested(source, tmp_path / "store", *given)
    assert utterances(taken) == [(1.0, 3.25, "ONE"), (5.0, 9.0, "TWO, THREE")]
    assert file(taken, "long.flac")["speech_samples"] == 6.25 * RATE
    assert file(taken, "short.flac")["utterances"] == 1
    assert taken["labels"].summary["transcripts"] == 1


def test_a_part_that_is_too_long_is_cut_at_pauses_without_its_transcript(source: Path, tmp_path: Path) -> None:
    taken = ingested(source, tmp_path / "store", (0.0, 1.0, "ONE"), (1.0, 9.0, "TWO"), max_utterance_s=4.0)
    (first, *others) = utterances(taken)
    assert first == (0.0, 1.0, "ONE")
    assert len(others) >= 2
    assert all(1.0 <= start < stop <= 9.0 and stop - start <= 4.0 and text is None for start, stop, text in others)


def test_times_of_another_recording_are_not_followed(source: Path, tmp_path: Path) -> None:
    taken = ingested(source, tmp_path / "store", (1.0, 3.0, "ONE"), (4000.0, 9000.0, "IN MILLISECONDS"))
    assert file(taken, "long.flac")["warnings"] == ["times_of_another"]
    (whole,) = utterances(taken)
    assert whole[2] is None
    assert file(taken, "long.flac")["detail"].startswith("1 of 2 given parts end behind the recording")


@pytest.mark.parametrize(("behind", "is_followed"), [(0.3, True), (0.7, False)])
def test_a_part_may_end_a_little_behind_its_recording(
    behind: float, is_followed: bool, source: Path, tmp_path: Path
) -> None:
    seconds = soundfile.info(source / "audio" / "long.flac").duration
    taken = ingested(source, tmp_path / "store", (1.0, 3.0, "ONE"), (seconds - 2, seconds + behind, "END"))
    assert utterances(taken)[-1] == ((seconds - 2, seconds, "END") if is_followed else (0.0, seconds, None))
    assert (file(taken, "long.flac")["warnings"] == ["times_of_another"]) != is_followed


def test_parts_that_are_all_too_short_leave_nothing_and_say_so(source: Path, tmp_path: Path) -> None:
    row = file(ingested(source, tmp_path / "store", (1.0, 1.2, "ONE"), (2.0, 2.2, "TWO")), "long.flac")
    assert (row["status"], row["reason"]) == ("rejected", "too_short")
    assert row["detail"] == "each of its 2 given parts is shorter than ingestion.min_utterance_s (0.5 s)"


def test_parts_that_come_later_than_the_recording_are_told_and_change_nothing(source: Path, tmp_path: Path) -> None:
    config = tiny_config(source, tmp_path / "store")
    first = run_tiny(config, "ingestion")[0]["corpus"]
    (source / "t.jsonl").write_text('{"audio_filepath": "audio/long.flac", "offset": 1, "duration": 2, "text": "ONE"}')
    again = run_tiny(config, "ingestion")[0]["corpus"]
    assert again.id == first.id
    scan = ingestion.scan(config, Store(config.root))
    assert scan.late_parts == 1
    assert any(line.startswith("labels name parts of 1 recordings that were cut before") for line in said(scan))
    other = tiny_config(source, tmp_path / "store", ingestion={"corpus": "parts"})
    assert utterances(run_tiny(other, "ingestion")[0]) == [(1.0, 3.0, "ONE")]
    assert ingestion.scan(other, Store(config.root)).late_parts == 0


def libri_light(source: Path, spans: Any) -> None:
    about = {"speaker": "7178", "book_meta": {"title": "X"}, "snr": 5.4, "voice_activity": spans}
    (source / "audio" / "long.json").write_text(json.dumps(about))


def test_spans_of_speech_take_the_place_of_our_own_and_short_pauses_stay_inside(source: Path, tmp_path: Path) -> None:
    # A pause of 0.4 s is part of speech, one of 2 s is not; 0.1 s of silence is kept around each stretch.
    libri_light(source, [[1.0, 1.3], [1.7, 3.0], [2.0, 2.5], [2.5, 3.0], [5.0, 7.5], [9.0, 9.0]])
    taken = run_tiny(tiny_config(source, tmp_path / "store", ingestion={"max_utterance_s": 4.0}), "ingestion")[0]
    assert utterances(taken) == [(0.9, 3.1, None), (4.9, 7.6, None)]
    assert file(taken, "long.flac")["speaker"] == "7178"
    assert (taken["labels"].summary["transcripts"], taken["labels"].summary["speakers"]) == (0, 1)


@pytest.mark.parametrize("spans", ["1-2", [[1.0]], [[3.0, 2.0]], [[0, True]], [[-1, 2]], [1.0, 2.0]])
def test_spans_that_are_none_are_told_and_our_own_are_used(source: Path, spans: Any) -> None:
    libri_light(source, spans)
    listing = Source(str(source)).listing()
    labels = read_labels(Source(str(source)), listing, ["audio/long.flac"])
    assert labels.by_path == {"audio/long.flac": Label("7178")}
    assert [(some.kind, some.first) for some in labels.report.problems] == [("voice activity", ("audio/long.json",))]

"""A dialogue with one voice per channel: two recordings where `ingestion.channels` says so, one where it does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.fixtures.tiny import CLIPS, EXAMPLES, run_tiny, tiny_config
from tinywave_core.audio.channels import labelled_speaker, speaker_of_channel, unit_of
from tinywave_core.audio.cutting import split_of
from tinywave_core.config.ingestion import IngestionConfig
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.fingerprint import canonical_json
from tinywave_core.storage.shards import read_table

RATE = 16_000


def voices() -> tuple[Any, Any]:
    """Two readers one after the other, each on a channel of their own, with the line's noise on both."""
    first, second = (soundfile.read(EXAMPLES / CLIPS[number], dtype="float32")[0] for number in (4, 6))
    noise = np.random.default_rng(0).normal(0, 1e-4, (2, len(first) + len(second))).astype(np.float32)
    return np.pad(first, (0, len(second))) + noise[0], np.pad(second, (len(first), 0)) + noise[1]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A call, the same as two files, and a stereo recording of one voice."""
    left, right = voices()
    (tmp_path / "source" / "calls").mkdir(parents=True)
    soundfile.write(tmp_path / "source" / "calls" / "call.flac", np.stack([left, right], 1), RATE)
    soundfile.write(tmp_path / "source" / "stereo.flac", np.stack([left, 0.8 * left], 1), RATE)
    return tmp_path / "source"


def ingested(source: Path, store: Path, **settings: Any) -> Outputs:
    return run_tiny(tiny_config(source, store, ingestion=settings), "ingestion")[0]


def rows(outputs: Outputs, name: str) -> list[dict[str, Any]]:
    table = read_table(outputs["corpus"].path("files.parquet")).to_pylist()
    return sorted((row for row in table if row["path"].endswith(name)), key=lambda row: row["channel_mix"])


def utterances(outputs: Outputs) -> list[dict[str, Any]]:
    shards = outputs["corpus"].store.find_all(outputs["corpus"].summary["shards"])
    return [row for shard in shards for row in read_table(shard.path("utterances.parquet")).to_pylist()]


def test_each_channel_is_the_recording_that_it_would_be_as_a_file_of_its_own(source: Path, tmp_path: Path) -> None:
    split = ingested(source, tmp_path / "store", channels="split")
    (tmp_path / "apart").mkdir()
    for number, channel in enumerate(voices(), start=1):
        soundfile.write(tmp_path / "apart" / f"{number}.flac", channel, RATE)
    apart = ingested(tmp_path / "apart", tmp_path / "other")
    ones, twos = rows(apart, "1.flac"), rows(apart, "2.flac")
    call = rows(split, "call.flac")
    assert [row["recording_id"] for row in call] == [row["recording_id"] for row in (*ones, *twos)]
    assert [row["channel_mix"] for row in call] == ["channel 1", "channel 2"]
    assert [row["speaker"] for row in call] == ["calls/call.flac-1", "calls/call.flac-2"]
    assert call[0]["split"] == call[1]["split"]
    assert [row["warnings"] for row in call] == [None, None]
    (stereo,) = rows(split, "stereo.flac")
    assert (stereo["channel_mix"], stereo["speaker"]) == ("mean", None)
    assert {row["speaker"] for row in utterances(split)} == {*(row["speaker"] for row in call), None}


def test_by_default_both_voices_are_one_recording_with_a_warning(source: Path, tmp_path: Path) -> None:
    (call,) = rows(ingested(source, tmp_path / "store"), "call.flac")
    assert (call["channel_mix"], call["warnings"], call["speaker"]) == ("mean", ["two_speakers"], None)


def test_a_speaker_that_comes_later_is_that_of_both_channels_on_the_side_of_the_speaker(
    source: Path, tmp_path: Path
) -> None:
    first = ingested(source, tmp_path / "store", channels="split")
    was = rows(first, "call.flac")[0]["split"]
    config = tiny_config(source, tmp_path / "store").ingestion
    name = next(n for i in range(99) if split_of(config, n := f"voice-{i}", "") != was)
    (source / "manifest.csv").write_text(f"path,speaker,transcript\ncalls/call.flac,{name},both of them\n")
    later = ingested(source, tmp_path / "store", channels="split")
    assert {row["speaker"]: row["split"] for row in rows(later, "call.flac")} == {
        f"{name}-1": rows(later, "call.flac")[0]["split"],
        f"{name}-2": rows(later, "call.flac")[0]["split"],
    }
    assert rows(later, "call.flac")[0]["split"] != was
    said = [row for row in utterances(later) if row["path"] == "calls/call.flac"]
    assert len(said) == 2
    assert {row["transcript"] for row in said} == {None}
    assert {row["split"] for row in said} == {rows(later, "call.flac")[0]["split"]}


def test_the_setting_leaves_no_trace_where_it_is_not_used() -> None:
    assert "channels" not in canonical_json(IngestionConfig())
    assert canonical_json(IngestionConfig(channels="split")) != canonical_json(IngestionConfig())
    assert IngestionConfig.model_validate(IngestionConfig(channels="split").model_dump()).channels == "split"


def test_names_of_channels_can_be_taken_back() -> None:
    for label in ("Ann-1", None):
        for mix in ("channel 1", "channel 2", "mean"):
            row = {"path": "a-2/b.wav", "channel_mix": mix, "sha256": "f" * 64, "recording_id": "r"}
            row["speaker"] = speaker_of_channel(label, "a-2/b.wav", mix)
            assert labelled_speaker(row) == label
            assert unit_of(row) == ("r" if mix == "mean" else "f" * 32)
    assert speaker_of_channel("Ann", "a.wav", "channel 2") == "Ann-2"

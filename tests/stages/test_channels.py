"""A dialogue with one voice per channel: two recordings where `ingestion.channels` says so, one where it does not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.fixtures.tiny import CLIPS, EXAMPLES, run_tiny, tiny_config
from tinywave_core.alignment.readers import Alignments
from tinywave_core.audio.channels import (
    NO_CHANNEL,
    OF_CHANNELS,
    labelled_speaker,
    labels_of_recording,
    speaker_of_channel,
    unit_of,
)
from tinywave_core.audio.cutting import Cutter, split_of
from tinywave_core.audio.decode import Recording
from tinywave_core.audio.decoder_process import Verdict
from tinywave_core.audio.ffmpeg import TRACKS
from tinywave_core.audio.labels.channels import numbers
from tinywave_core.audio.sidecars import Label, Labels, read_labels
from tinywave_core.audio.source import Source
from tinywave_core.config.ingestion import IngestionConfig
from tinywave_core.stages.ingestion import corpus as ingestion
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.fingerprint import canonical_json
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Store

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


NAMED = [
    {"audio_filepath": "calls/call.flac", "text": "ONE", "channel": 0},
    {"audio_filepath": "calls/call.flac", "text": "TWO", "channel": 1},
]


def write_manifest(source: Path, rows: list[dict[str, Any]]) -> None:
    (source / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_labels_that_name_channels_give_each_voice_its_own_words(source: Path, tmp_path: Path) -> None:
    write_manifest(source, NAMED)
    split = ingested(source, tmp_path / "store", channels="split")
    said = {row["speaker"]: row["transcript"] for row in utterances(split) if row["path"] == "calls/call.flac"}
    assert said == {"calls/call.flac-1": "ONE", "calls/call.flac-2": "TWO"}
    assert [row["warnings"] for row in rows(split, "call.flac")] == [None, None]
    mixed = ingested(source, tmp_path / "store")
    (call,) = rows(mixed, "call.flac")
    assert call["warnings"] == ["transcripts_of_channels", "two_speakers"]
    assert {row["transcript"] for row in utterances(mixed)} == {None}


def test_words_of_no_channel_are_told_and_given_to_neither_voice(source: Path, tmp_path: Path) -> None:
    write_manifest(source, [{"audio_filepath": "calls/call.flac", "text": "ONE AND TWO"}])
    split = ingested(source, tmp_path / "store", channels="split")
    assert {row["transcript"] for row in utterances(split)} == {None}
    assert [row["warnings"] for row in rows(split, "call.flac")] == [["transcript_of_both"]] * 2


def test_channels_that_are_named_later_are_told(source: Path, tmp_path: Path) -> None:
    ingested(source, tmp_path / "store", channels="split")
    write_manifest(source, NAMED)
    config = tiny_config(source, tmp_path / "store", ingestion={"channels": "split"})
    assert ingestion.scan(config, Store(config.root)).late_parts == 1


def test_channels_that_were_named_when_they_were_cut_are_not_late(source: Path, tmp_path: Path) -> None:
    write_manifest(source, NAMED)
    ingested(source, tmp_path / "store", channels="split")
    config = tiny_config(source, tmp_path / "store", ingestion={"channels": "split"})
    assert ingestion.scan(config, Store(config.root)).late_parts == 0


def test_a_voice_has_the_words_and_parts_of_its_channel_alone() -> None:
    parts = [[0.0, 1.0, "TWO"]]
    file = {"speaker": "Ann", "transcript": "BOTH", "segments": [], "channels": []}
    second = {"channel": 2, "transcript": None, "segments": parts}
    own, lost = labels_of_recording({**file, "channels": [second]}, "a.wav", "channel 2")
    assert (own["transcript"], own["segments"], lost) == (None, parts, "")
    own, lost = labels_of_recording({**file, "channels": [second]}, "a.wav", "channel 1")
    assert (own["transcript"], own["segments"], lost) == (None, None, "")
    assert labels_of_recording(file, "a.wav", "channel 1")[1] == NO_CHANNEL
    assert labels_of_recording({**file, "transcript": None, "segments": parts}, "a.wav", "channel 1")[1] == NO_CHANNEL
    assert labels_of_recording({**file, "transcript": None, "channels": [second]}, "a.wav", "mean")[1] == OF_CHANNELS


def test_a_lost_transcript_and_what_decoding_found_are_both_told() -> None:
    samples = np.round(soundfile.read(EXAMPLES / CLIPS[4])[0] * 32_767).astype(np.int16)
    cutter = Cutter(IngestionConfig())
    file = {"sha256": "f" * 64, "speaker": None, "transcript": None}
    file |= {"channels": [{"channel": 1, "transcript": "ONE", "segments": []}]}
    verdict = Verdict(detail=f"2 {TRACKS}", channel_mix="mean", sample_rate=RATE, decoded_frames=len(samples))
    assert len(list(cutter.cut(file, "a.mp4", [], 1, Recording(verdict, samples)))) == 1
    assert cutter.rows[0]["warnings"] == ["several_tracks", "transcripts_of_channels"]


WAYS = {
    "NeMo": {"manifest.jsonl": "".join(json.dumps(row) + "\n" for row in NAMED)},
    "a table with letters": {"all.csv": "path,channel,text\ncalls/call.flac,A,ONE\ncalls/call.flac,B,TWO\n"},
    "a table from 1": {"all.csv": "path,channel,text\ncalls/call.flac,2,TWO\ncalls/call.flac,1,ONE\n"},
    "Kaldi": {
        "wav.scp": "x calls/call.flac\ny calls/call.flac\n",
        "text": "x ONE\ny TWO\n",
        "reco2file_and_channel": "x call A\ny call B\n",
    },
    "lhotse": {
        "cuts.jsonl": json.dumps(
            {
                "recording": {"sources": [{"type": "file", "source": "calls/call.flac"}]},
                "supervisions": [{"text": "TWO", "channel": [1]}, {"text": "ONE", "channel": 0}],
            }
        )
    },
    "texts from 0": {"calls/call-0.txt": "ONE", "calls/call-1.txt": "TWO"},
    "texts from 1": {"calls/call_ch1.txt": "ONE", "calls/call_ch2.txt": "TWO"},
    "texts with letters": {"calls/call.left.txt": "ONE", "calls/call.right.txt": "TWO"},
}


def labels_of(folder: Path, files: dict[str, str]) -> Labels:
    for name, text in {"calls/call.flac": "", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    source = Source(str(folder))
    return read_labels(source, source.listing(), ["calls/call.flac"])


@pytest.mark.parametrize("way", WAYS)
def test_channels_are_read_as_corpora_name_them(way: str, tmp_path: Path) -> None:
    found = labels_of(tmp_path, WAYS[way])
    label = found.by_path["calls/call.flac"]
    assert (label.transcript, label.segments) == (None, ())
    assert {number: of.transcript for number, of in label.channels} == {1: "ONE", 2: "TWO"}
    assert (found.report.transcripts, found.report.problems, found.orphans) == (1, (), ())


def test_a_channel_of_which_nobody_can_tell_the_number_is_told(tmp_path: Path) -> None:
    table = "path,channel,text\ncalls/call.flac,1,ONE\n"
    found = labels_of(tmp_path / "one", {"all.csv": table})
    assert [(some.kind, some.first) for some in found.report.problems] == [("channel", ("all.csv: channel 1",))]
    assert found.by_path["calls/call.flac"] == Label(transcript="ONE")  # of a recording of one channel, say
    alone = labels_of(tmp_path / "two", {"calls/call-1.txt": "ONE"})
    assert (alone.by_path["calls/call.flac"], alone.orphans) == (Label(), ("calls/call-1.txt",))
    assert numbers(["0", "1", "2", "b", ""]) == {"0": 1, "1": 2, "2": None, "b": 2}
    named = labels_of(tmp_path / "three", {"all.csv": "path,channel,text\ncalls/call.flac,NASA,ONE\n"})
    assert (named.report.problems, named.by_path["calls/call.flac"].transcript) == ((), "ONE")


def test_the_only_channel_of_a_recording_is_the_whole(tmp_path: Path) -> None:
    cut = {"recording": {"sources": [{"type": "file", "source": "calls/call.flac"}]}}
    found = labels_of(tmp_path, {"cuts.jsonl": json.dumps(cut | {"supervisions": [{"text": "ONE", "channel": 0}]})})
    label = found.by_path["calls/call.flac"]
    assert (label.transcript, label.is_of_channels) == ("ONE", False)


def test_a_ctm_says_whose_a_word_is_and_other_files_do_not() -> None:
    files = {
        "call.ctm": b"call A 0 1 yes\ncall B 1 1 no\n",
        "mono.ctm": b"mono 1 0 1 yes\n",
        "grid.json": b'{"aligned_text": [["yes", 0, 1]]}',
    }
    found = Alignments(files, files.__getitem__, ["call.wav", "mono.wav", "grid.wav"])
    assert [word.text for word in found.words("call.wav") or ()] == ["yes", "no"]
    every = Alignments(["all.ctm"], lambda _: b"call A 0 1 yes\ncall B 1 1 no\n", ["call.wav"])
    assert [word.text for word in every.words("call.wav", 2) or ()] == ["no"]
    table = Alignments(["t.csv"], lambda _: b"path,word,start_s,end_s\ncall,yes,0,1\n", ["call.wav"])
    assert (len(table.words("call.wav") or ()), table.words("call.wav", 1)) == (1, None)
    for number, word in ((1, "yes"), (2, "no")):
        assert [each.text for each in found.words("call.wav", number) or ()] == [word]
    assert [found.words(f"{name}.wav", 1) for name in ("mono", "grid")] == [None, None]
    assert [len(found.words(f"{name}.wav") or ()) for name in ("mono", "grid")] == [1, 1]

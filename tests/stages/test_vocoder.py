"""The voice in the tiny pipeline: made of training recordings that it names, carried by the export, pinned, rebuilt without what is forgotten."""

from pathlib import Path

import pytest

from tests.conftest import Finished
from tests.fixtures.tiny import NEW_CLIP, Computed, copy_clips, copy_store, tiny_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError
from tinywave_core.run.pipeline import run_pipeline
from tinywave_core.stages.export import vocoder
from tinywave_core.stages.export.summary import VocoderSummary
from tinywave_core.stages.export.voices import voices_of
from tinywave_core.stages.export.words import vocoder_rows, voice_text
from tinywave_core.storage.care.census import take_census
from tinywave_core.storage.care.forget import find_traces, forget
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact, Store
from tinywave_core.synthesis.generator import Generator
from tinywave_core.synthesis.voice import Voice


def files_of(finished: Finished) -> dict[str, dict]:
    """Rows of the corpus's files by recording."""
    corpus = finished.outputs["corpus"]
    shards = corpus.store.find_all(corpus.summary["shards"], "shard")
    rows = [row for shard in shards for row in read_table(shard.path("files.parquet")).to_pylist()]
    return {row["recording_id"]: row for row in rows if row["recording_id"]}


def made_voice(config: PipelineConfig) -> Artifact:
    """The voice of the tokens that a store has with these settings, computed where it is missing."""
    execute = Computed()
    tokens = run_pipeline(config, Store(config.root), execute, "tokenization")["tokens"]
    return vocoder.build(config, tokens, execute)["vocoder"]


def test_it_is_made_of_training_recordings_alone_and_names_them(finished: Finished):
    summary, files = VocoderSummary.of(finished.outputs["vocoder"]), files_of(finished)
    (voice,) = summary.voices
    assert {files[i]["split"] for i in voice.recordings} == {"train"}
    assert set(voice.recordings) == {i for i, row in files.items() if row["split"] == "train"}
    assert voice.name == "mixture" and len(voice.speakers) > 2  # nobody has said enough
    assert voice_text(summary).startswith("mixture (0.4 min of 7 recordings of")


def test_summary_tells_quality_beside_floor_and_ceiling(finished: Finished):
    rows = vocoder_rows(VocoderSummary.of(finished.outputs["vocoder"]))
    assert [row["speech"].split(":")[0] for row in rows] == ["voice", "floor", "ceiling"]
    assert all(0 <= float(row["mel-cepstral distance, dB"]) < 20 for row in rows)


def test_export_carries_it_names_whose_it_is_and_generation_speaks_with_it(finished: Finished):
    outputs = finished.outputs
    model = outputs["model"].path("model")
    for name in ("voice.flac", "voice.safetensors", "voice.json"):
        assert (model / "speech_tokenizer" / name).read_bytes() == outputs["vocoder"].path(name).read_bytes()
    speaker = Generator.load(model, device="cpu").speaker
    assert (speaker.name, speaker.voices) == ("voice", ("mixture",))
    assert outputs["samples"].summary["vocoder"] == "voice"
    card = (model / "README.md").read_text()
    assert "recordings of 2033, 2414" in card and all(
        i in card for i in VocoderSummary.of(outputs["vocoder"]).voices[0].recordings
    )


def test_a_speaker_who_said_too_little_is_known_from_the_corpus_alone(finished: Finished):
    config = tiny_config(finished.config.source, finished.config.root, generation={"vocoder": {"speakers": ["2414"]}})
    with pytest.raises(ConfigError, match="'2414' with .* s of training speech; a voice needs 20 s"):
        voices_of(config, finished.outputs["corpus"])
    (mixture,) = voices_of(finished.config, finished.outputs["corpus"])
    assert mixture.seconds == pytest.approx(VocoderSummary.of(finished.outputs["vocoder"]).voices[0].seconds, rel=0.01)


def test_new_audio_leaves_it_as_it_is_until_a_refit_is_asked_for(finished: Finished, tmp_path: Path):
    source = copy_clips(copy_clips(tmp_path / "speech"), [NEW_CLIP])
    root = copy_store(finished.config, tmp_path / "store").root
    assert made_voice(tiny_config(source, root)).id == finished.outputs["vocoder"].id
    again = made_voice(tiny_config(source, root, refresh={"vocoder": "always"}))
    assert len(VocoderSummary.of(again).voices[0].recordings) == 8


def test_a_recording_that_is_forgotten_leaves_the_voice_too(finished: Finished, tmp_path: Path):
    files = files_of(finished)
    gone = VocoderSummary.of(finished.outputs["vocoder"]).voices[0].recordings[0]
    config = copy_store(finished.config, tmp_path / "store")
    store = Store(config.root)
    before = finished.outputs["vocoder"].id
    forget(take_census(store), find_traces(take_census(store), files[gone]["sha256"]))
    assert not store.find(before).complete
    again = made_voice(config)
    (voice,) = VocoderSummary.of(again).voices
    assert gone not in voice.recordings and len(voice.recordings) == 6
    assert Voice.load(again.path()).parts[0].selection.recordings.seconds == pytest.approx(voice.seconds)

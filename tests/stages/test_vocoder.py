"""The voice in the tiny pipeline: made of training recordings that it names, carried by the export, pinned, rebuilt without what is forgotten."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Finished
from tests.fixtures.tiny import NEW_CLIP, Computed, copy_clips, copy_store, tiny_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError
from tinywave_core.run.pipeline import run_pipeline
from tinywave_core.stages.export import vocoder
from tinywave_core.stages.export.hifigan import codes_by_frame, hop_of
from tinywave_core.stages.export.summary import VocoderSummary
from tinywave_core.stages.export.voices import voices_of
from tinywave_core.stages.export.words import vocoder_rows, voice_text
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.storage.care.census import take_census
from tinywave_core.storage.care.forget import find_traces, forget
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact, Store
from tinywave_core.synthesis.generator import Generator
from tinywave_core.synthesis.speaking import load_speaker
from tinywave_core.synthesis.voice import Voice
from tinywave_core.tokenizers.speech import Streams
from tinywave_core.tokenizers.streams import Rates
from tinywave_core.tokenizers.vocabulary import BYTE_TEXT, Vocabulary


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


# A network in place of recordings ------------------------------------------------------------------------------------

TINY_HIFIGAN = {
    "kind": "hifigan",
    "quality_clips": 2,
    "hifigan": {"steps": 4, "batch_clips": 2, "clip_s": 0.3, "channels": 32, "judge_width": 1},
}


@pytest.fixture(scope="module")
def trained(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> PipelineConfig:
    """The finished store with settings that train a unit HiFi-GAN."""
    root = copy_store(finished.config, tmp_path_factory.mktemp("hifigan") / "store").root
    return tiny_config(finished.config.source, root, generation={"vocoder": TINY_HIFIGAN})


def test_a_unit_hifigan_is_trained_carried_by_the_export_and_speaks(finished: Finished, trained: PipelineConfig):
    execute = Computed()
    outputs = run_pipeline(trained, Store(trained.root), execute, "generation")
    assert {step.part for step in execute.ran} == {"vocoder", "model", "samples"}
    summary = VocoderSummary.of(outputs["vocoder"])
    assert summary.trained is not None and summary.trained.steps == 4
    assert summary.voices[0].name == "everybody" and summary.quality.clips == 2
    assert {files_of(finished)[i]["split"] for i in summary.voices[0].recordings} == {"train"}
    assert [row["step"] for row in read_table(outputs["vocoder"].path("curves.parquet")).to_pylist()] == [1, 2, 3, 4]
    speaker = Generator.load(outputs["model"].path("model"), device="cpu").speaker
    assert (speaker.name, speaker.voices) == ("unit-hifigan", ())  # one voice needs no name
    assert outputs["samples"].summary["vocoder"] == "HiFi-GAN trained on these units"
    assert "voice.flac" not in (outputs["model"].path("model") / "README.md").read_text()
    assert voice_text(summary).startswith("HiFi-GAN of 0.")


def test_it_speaks_whole_and_in_pieces_nearly_the_same_with_and_without_pitch(trained: PipelineConfig):
    made = made_voice(trained)
    tokens = run_pipeline(trained, Store(trained.root), Computed(), "tokenization")["tokens"]
    vocabulary = Vocabulary.from_json(tokens.summary["vocabulary"])
    speaker = load_speaker(
        TokensSummary.of(tokens).tokenizer_artifact(tokens).path(), vocabulary, None, voice=made.path()
    )
    first = vocabulary.first
    ids = np.array([first["style"], first["pitch"] + 1, *(first["hubert"] + unit for unit in (3, 1, 2, 3, 0, 4) * 4)])
    for sequence in (ids, ids[2:]):
        whole = speaker(sequence)
        pieces = np.concatenate([*speaker.stream(sequence.tolist(), chunk_frames=3)])
        assert len(whole) == len(pieces) and len(whole) % 640 == 0 and len(whole) >= 24 * 640
        assert np.abs(whole - pieces).max() < 0.02


def test_codes_of_a_frame_are_those_in_force_at_any_rate():
    vocabulary = Vocabulary(text=BYTE_TEXT, hubert=9, pitch=9, style=9, rates=Rates(units=50.0, pitch=12.5, style=1.0))
    streams = Streams(np.arange(8), np.array([5, 6]), np.array([7]))
    assert codes_by_frame(streams, vocabulary).tolist() == [[*range(8)], [5] * 4 + [6] * 4, [7] * 8]
    assert hop_of(vocabulary) == 320

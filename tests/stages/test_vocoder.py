"""The light vocoder in the tiny pipeline: trained, measured, carried by the export, spoken with, pinned, and made only where asked for."""

from pathlib import Path

import pytest

from tests.conftest import Finished
from tests.fixtures.tiny import NEW_CLIP, Computed, copy_clips, copy_store, run_tiny, tiny_config
from tinywave_core.stages.export.summary import VocoderSummary
from tinywave_core.stages.export.words import vocoder_rows
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.shards import read_table

LIGHT = {
    "kind": "light",
    "steps": 4,
    "batch_clips": 2,
    "clip_frames": 16,
    "channels": 8,
    "blocks": 1,
    "voice_minutes": 0.04,
}
GENERATION = {"generation": {"vocoder": LIGHT}}


@pytest.fixture(scope="module")
def spoken(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outputs, Computed, str]:
    root = copy_store(finished.config, tmp_path_factory.mktemp("vocoder") / "store").root
    return *run_tiny(tiny_config(finished.config.source, root, **GENERATION)), root


def test_the_tiny_run_without_one_has_no_vocoder(finished: Finished):
    assert "vocoder" not in finished.outputs


def test_only_vocoder_export_and_generation_are_computed(spoken: tuple[Outputs, Computed, str]):
    assert spoken[1].parts() == ["export/vocoder", "export/model", "generation/samples"]


def test_summary_tells_quality_beside_floor_and_ceiling(spoken: tuple[Outputs, Computed, str]):
    summary = spoken[0]["vocoder"].summary
    figures = summary["quality"]["vocoders"]
    assert list(figures) == ["draft", "light", "floor", "ceiling"]
    assert figures["ceiling"]["likeness"] > figures["draft"]["likeness"] > figures["floor"]["likeness"]
    assert summary["voices"] and summary["utterances"] and summary["look_ahead_frames"] <= 6


def test_report_shows_the_figures(spoken: tuple[Outputs, Computed, str]):
    rows = vocoder_rows(VocoderSummary.of(spoken[0]["vocoder"]))
    assert [row["speech"].split(":")[0] for row in rows] == ["draft vocoder", "light vocoder", "floor", "ceiling"]
    assert all(0 <= float(row["mel-cepstral distance, dB"]) < 20 for row in rows)


def test_curve_has_a_record_per_step(spoken: tuple[Outputs, Computed, str]):
    curve = read_table(spoken[0]["vocoder"].path("curves.parquet"))
    assert curve["step"].to_pylist() == [1, 2, 3, 4]


def test_export_carries_it_and_generation_speaks_with_it(spoken: tuple[Outputs, Computed, str]):
    from tinywave_core.synthesis.generator import Generator

    outputs = spoken[0]
    model = outputs["model"].path("model")
    for name in ("light_vocoder.safetensors", "light_vocoder.json"):
        assert (model / "speech_tokenizer" / name).read_bytes() == outputs["vocoder"].path(name).read_bytes()
    speaker = Generator.load(model, device="cpu").speaker
    assert (speaker.name, speaker.voices) == ("light", tuple(outputs["vocoder"].summary["voices"]))
    assert outputs["samples"].summary["vocoder"] == "light"


def test_two_runs_train_the_same_bytes(
    finished: Finished, spoken: tuple[Outputs, Computed, str], tmp_path: Path
) -> None:
    root = copy_store(finished.config, tmp_path / "store").root
    config = tiny_config(finished.config.source, root, **GENERATION, runtime={"checkpoint_every": 3})
    outputs, _ = run_tiny(config, until="export")
    first, second = (each.manifest for each in (spoken[0]["vocoder"], outputs["vocoder"]))
    assert first is not None and second is not None
    assert (first.files, first.summary) == (second.files, second.summary)


def test_new_audio_leaves_it_as_it_is_until_a_refit_is_asked_for(
    finished: Finished, spoken: tuple[Outputs, Computed, str], tmp_path: Path
) -> None:
    source = copy_clips(tmp_path / "speech", [NEW_CLIP])
    root = copy_store(tiny_config(None, spoken[2]), tmp_path / "store").root
    more = tiny_config(source, root, **GENERATION)
    outputs, computed = run_tiny(more, until="export")
    assert "export/vocoder" not in computed.parts() and "export/model" in computed.parts()
    assert outputs["vocoder"].id == spoken[0]["vocoder"].id
    always = tiny_config(source, root, **GENERATION, refresh={"vocoder": "always"})
    assert run_tiny(always, until="export")[0]["vocoder"].id != spoken[0]["vocoder"].id

"""The style encoder: recorded labels, transformers' own numbers, and batches that change nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

from tests.fixtures import release
from tinywave_core.encoders.style import StyleEncoder, load_style_encoder, style_count
from tinywave_core.errors import CheckpointError

pytestmark = pytest.mark.arithmetic

FOLDER = Path("speech_tokenizer/style_encoder_w2v2")
WEIGHTS = "pytorch_model.bin"


def golden(clip: str) -> list[int]:
    recorded = release.UNITS["units"][clip]
    assert recorded["ignore_style"] == []
    return [int(label) for label in recorded["style"].split()]


def test_full_size_gives_the_recorded_labels_of_each_clip_alone(
    full_style: StyleEncoder, clips: dict[str, torch.Tensor]
) -> None:
    for name, clip in clips.items():
        assert full_style([clip])[0].tolist() == golden(name)
    assert full_style.labels == 100


@pytest.mark.one_machine  # elsewhere: each clip alone, and a toy model in batches
def test_full_size_gives_the_recorded_labels_in_one_padded_batch(
    full_style: StyleEncoder, clips: dict[str, torch.Tensor]
) -> None:
    together = full_style([*clips.values()])
    assert [labels.tolist() for labels in together] == [golden(name) for name in clips]


def scores_by_transformers(folder: Path, wave: torch.Tensor) -> torch.Tensor:
    """Scores of every second with the library's own body, unmodified."""
    model: Any = Wav2Vec2ForSequenceClassification.from_pretrained(folder).eval()
    inputs = Wav2Vec2FeatureExtractor()(wave.numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        projected = model.projector(model.wav2vec2(inputs.input_values).last_hidden_state[0])
        return model.classifier(torch.stack([part.mean(dim=0) for part in projected.split(50)]))


@pytest.mark.parametrize("level", [1.0, 1e-3])
@pytest.mark.parametrize("samples", [1280, 16_000, 16_400, 50_000, 146_160])
def test_labels_are_those_of_the_unmodified_model_over_seconds(
    small_release: Path, small_style: StyleEncoder, speech: torch.Tensor, samples: int, level: float
) -> None:
    wave = level * speech[:samples]
    scores = scores_by_transformers(small_release / FOLDER, wave)
    (labels,) = small_style([wave])
    np.testing.assert_array_equal(labels, scores.argmax(dim=-1).numpy())


def test_small_models_labels_vary(small_style: StyleEncoder, speech: torch.Tensor) -> None:
    assert len(set(small_style([speech])[0].tolist())) >= 4


@pytest.mark.one_machine  # counts frames
@pytest.mark.parametrize(
    ("samples", "labels"), [(400, 1), (1280, 1), (16_000, 1), (16_079, 1), (16_400, 2), (146_160, 10), (1_600_000, 100)]
)
def test_every_started_second_of_frames_has_a_label(small_style: StyleEncoder, samples: int, labels: int) -> None:
    wave = torch.randn(samples, generator=torch.Generator().manual_seed(0))
    assert len(small_style([wave])[0]) == labels


def test_level_and_offset_of_a_recording_do_not_matter(small_style: StyleEncoder, speech: torch.Tensor) -> None:
    np.testing.assert_array_equal(small_style([0.25 * speech + 0.1])[0], small_style([speech])[0])


def test_silence_has_labels(small_style: StyleEncoder) -> None:
    assert len(small_style([torch.zeros(32_000)])[0]) == 2


def test_wave_without_a_frame_is_refused(small_style: StyleEncoder) -> None:
    with pytest.raises(ValueError, match=r"a wave of 399 samples has no frame: expected at least 400"):
        small_style([torch.zeros(400), torch.zeros(399)])


@settings(max_examples=15)
@given(data=st.data())
def test_labels_do_not_depend_on_the_batch(
    small_style: StyleEncoder, speech: torch.Tensor, data: st.DataObject
) -> None:
    waves = []
    for length in data.draw(st.lists(st.integers(1280, 50_000), min_size=2, max_size=5)):
        start = data.draw(st.integers(0, len(speech) - length))
        waves.append(data.draw(st.sampled_from([0.0, 0.01, 1.0])) * speech[start : start + length])
    for wave, together in zip(waves, small_style(waves), strict=True):
        np.testing.assert_array_equal(together, small_style([wave])[0])


# Files -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(small_release: Path, tmp_path: Path) -> Path:
    """The encoder's folder, to change."""
    return shutil.copytree(small_release / FOLDER, tmp_path / "style")


@pytest.mark.one_machine  # about files
def test_weight_norm_loads_under_both_names(folder: Path, small_style: StyleEncoder, speech: torch.Tensor) -> None:
    weights = torch.load(folder / WEIGHTS, weights_only=True)
    prefix = "wav2vec2.encoder.pos_conv_embed.conv."
    for old, new in [("weight_g", "original0"), ("weight_v", "original1")]:
        weights[f"{prefix}parametrizations.weight.{new}"] = weights.pop(prefix + old)
    torch.save(weights, folder / WEIGHTS)
    np.testing.assert_array_equal(load_style_encoder(folder)([speech])[0], small_style([speech])[0])


@pytest.mark.one_machine  # about files
def test_safetensors_load_too(folder: Path, small_style: StyleEncoder, speech: torch.Tensor) -> None:
    save_file(torch.load(folder / WEIGHTS, weights_only=True), folder / "model.safetensors")
    (folder / WEIGHTS).unlink()
    np.testing.assert_array_equal(load_style_encoder(folder)([speech])[0], small_style([speech])[0])


@pytest.mark.one_machine  # about files
def test_count_of_styles_is_that_of_the_config(folder: Path) -> None:
    assert style_count(folder) == 100


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "hubert"}, r"model_type 'hubert', expected 'wav2vec2'"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 1]}, r"samples per frame 160, expected 320"),
        ({"feat_extract_norm": "layer"}, r"feat_extract_norm 'layer', expected 'group'"),
        ({"feat_extract_activation": "relu"}, r"feat_extract_activation 'relu', expected 'gelu'"),
        ({"conv_bias": True}, r"conv_bias True, expected False"),
        ({"do_stable_layer_norm": True}, r"do_stable_layer_norm True, expected False"),
        ({"use_weighted_layer_sum": True}, r"use_weighted_layer_sum True, expected False"),
        ({"add_adapter": True}, r"add_adapter True, expected False"),
        ({"conv_dim": [16]}, r"cannot be read as the config of a wav2vec2 model"),
    ],
)
def test_config_of_another_model_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    for load in (load_style_encoder, style_count):
        with pytest.raises(CheckpointError, match=rf"config\.json.*{message}"):
            load(folder)


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize("content", ["", "{", "[]", "3", '"wav2vec2"'])
def test_config_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    for load in (load_style_encoder, style_count):
        with pytest.raises(CheckpointError, match=r"config\.json cannot be read as the config of a wav2vec2 model"):
            load(folder)


@pytest.mark.one_machine  # about files
def test_weights_of_other_sizes_than_the_configs_are_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin .*: tensors 16 missing, such as wav2vec2\.encoder"):
        load_style_encoder(folder)

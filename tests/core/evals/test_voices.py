"""Voices as vectors: every architecture that is named, cosine by hand, and directories that are none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WavLMForXVector

from tests.fixtures.judges import write_voices
from tinywave_core.errors import CheckpointError
from tinywave_core.evals.voices import ARCHITECTURES, cosine, load_voices

NOISE = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values())
def test_a_voice_is_a_unit_vector_and_the_same_sound_is_the_same_voice(architecture: str, tmp_path: Path):
    embed = load_voices(write_voices(tmp_path, architecture))
    one, same, other = embed(NOISE), embed(NOISE), embed(NOISE[::2].repeat(2))
    assert one is not None and np.linalg.norm(one) == pytest.approx(1)
    assert cosine(one, same) == pytest.approx(1) and cosine(one, other) != pytest.approx(1)


def test_the_vector_is_that_of_transformers_and_loudness_goes_unless_the_directory_keeps_it(tmp_path: Path):
    folder = write_voices(tmp_path)
    plain = WavLMForXVector.from_pretrained(folder).eval()
    assert cosine(load_voices(folder)(NOISE), load_voices(folder)(0.1 * NOISE)) == pytest.approx(1, abs=1e-4)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    with torch.inference_mode():
        expected = plain(torch.from_numpy(NOISE)[None]).embeddings[0].numpy()
    assert load_voices(folder)(NOISE) == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_half_a_second_shows_no_voice():
    assert cosine(None, np.ones(1, np.float32)) is None
    assert cosine(np.array([0.6, 0.8], np.float32), np.array([1.0, 0.0], np.float32)) == pytest.approx(0.6)


def test_less_than_half_a_second_has_no_vector(tmp_path: Path):
    assert load_voices(write_voices(tmp_path))(NOISE[:7_000]) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "hubert"}, "a model of type 'hubert'; expected one of WavLMForXVector"),
        ({"tdnn_dim": [10**9] * 5}, "promises .* parameters above its encoder"),
        ({"xvector_output_dim": 10**9}, "promises .* parameters above its encoder"),
        ({"tdnn_dim": []}, "cannot be followed"),
        ({"num_hidden_layers": 2}, "is not a whole WavLMForXVector"),
    ],
)
def test_what_is_no_model_of_voices_is_refused(changes: dict, said: str, tmp_path: Path):
    folder = write_voices(tmp_path)
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | changes))
    with pytest.raises(CheckpointError, match=said):
        load_voices(folder)


def test_pickles_are_not_opened(tmp_path: Path):
    folder = write_voices(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        load_voices(folder)

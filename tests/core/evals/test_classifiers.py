"""Labels by given models: the numbers of transformers' own pipeline, and directories that are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.fixtures.judges import write_classifier, write_voices
from tinywave_core.errors import CheckpointError
from tinywave_core.evals.classifiers import ARCHITECTURES, load_classifier, read_labels

NOISE = np.random.default_rng(0).normal(0.01, 0.1, 16_000).astype(np.float32)
LABELS = ("Speech", "Music, loud", "a.b=c")


def by_pipeline(folder: Path, samples: np.ndarray, function: str = "softmax") -> list[float]:
    """Probabilities in the order of the labels."""
    asked = transformers.pipeline("audio-classification", str(folder), device="cpu")
    found = asked({"raw": samples, "sampling_rate": 16_000}, top_k=None, function_to_apply=function)
    score = {each["label"]: each["score"] for each in found}
    return [score[label] for label in read_labels(folder)]


def changed(folder: Path, name: str = "config.json", **changes: Any) -> Path:
    about = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(about | changes))
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES.values())
def test_probabilities_are_those_of_the_pipeline_to_a_millionth(architecture: str, tmp_path: Path):
    folder = write_classifier(tmp_path, architecture, LABELS)
    classify = load_classifier(folder)
    for samples in (NOISE[:15_000], NOISE[:1_600], NOISE[::2].repeat(2)[:9_000]):
        assert classify(samples).tolist() == pytest.approx(by_pipeline(folder, samples), abs=1e-6)
    assert not np.allclose(classify(NOISE[:8_000]), 1 / 3, atol=0.05)


def test_labels_that_are_no_alternatives_have_a_probability_each(tmp_path: Path):
    folder = changed(write_classifier(tmp_path / "many"), problem_type="multi_label_classification")
    assert load_classifier(folder)(NOISE).tolist() == by_pipeline(folder, NOISE, "sigmoid")
    alone = write_classifier(tmp_path / "one", labels=("Music",))
    assert load_classifier(alone)(NOISE).tolist() == by_pipeline(alone, NOISE, "sigmoid") != [1.0]


def test_what_is_longer_than_the_window_has_the_mean_of_its_parts(tmp_path: Path):
    folder = write_classifier(tmp_path, "ASTForAudioClassification")
    whole = NOISE[:15_600]  # 96 frames, 160 apart, of 400 samples each
    assert load_classifier(folder)(whole).tolist() == by_pipeline(folder, whole)
    parts = [by_pipeline(folder, half) for half in (NOISE[:8_000], NOISE[8_000:])]
    assert load_classifier(folder)(NOISE).tolist() == np.mean(parts, axis=0).tolist()


def test_what_is_kept_of_loudness_is_said_by_the_directory(tmp_path: Path):
    folder = write_classifier(tmp_path)
    loud, quiet = load_classifier(folder)(NOISE), load_classifier(folder)(0.1 * NOISE)
    assert loud == pytest.approx(quiet, abs=1e-3)
    changed(folder, "preprocessor_config.json", do_normalize=False)
    plain = load_classifier(folder)
    assert plain(NOISE).tolist() == by_pipeline(folder, NOISE) != loud.tolist()


def test_a_release_without_the_vector_that_masks_in_training_is_whole(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = write_classifier(tmp_path)
    expected, weights = load_classifier(folder)(NOISE).tolist(), load_file(folder / "model.safetensors")
    del weights["wav2vec2.masked_spec_embed"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert load_classifier(folder)(NOISE).tolist() == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama"}, "a model of type 'llama'; expected the directory of one of Wav2Vec2ForSeq"),
        ({"model_type": []}, "a model of type"),
        ({"architectures": ["Wav2Vec2ForCTC"]}, "has the architectures .*ForCTC"),
        ({"problem_type": "regression"}, "tells numbers"),
        ({"id2label": {"0": "a", "2": "b"}}, "expected a name for each of its outputs"),
        ({"id2label": {"0": "a", "1": "a"}}, "no two the same"),
        ({"id2label": {"0": "a", "1": "utterance_id"}}, "none utterance_id"),
        ({"id2label": {"0": "a", "1": "b" * 201}}, "expected a name for each"),
        ({"id2label": None}, "expected a name for each"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "cannot be loaded as a Wav2Vec2ForSequenceClassification"),
        ({"classifier_proj_size": 10**9}, "promises .* parameters"),
        ({"num_hidden_layers": 2}, "is not a whole"),
        ({"conv_stride": [500] * 7}, "cannot be followed"),
    ],
)
def test_what_is_no_model_of_labels_is_refused(changes: dict, said: str, tmp_path: Path):
    with pytest.raises(CheckpointError, match=said):
        load_classifier(changed(write_classifier(tmp_path), **changes))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("preprocessor_config.json", {"sampling_rate": 8000}, "has sampling_rate 8000, expected 16000"),
        ("preprocessor_config.json", {"max_length": 10**9}, "has max_length 1000000000, expected 96"),
        ("preprocessor_config.json", {"mean": "loud"}, "cannot be followed"),
        ("config.json", {"max_length": 10**9}, "promises .* parameters beside its layers"),
        ("config.json", {"time_stride": 0}, "cannot be followed"),
    ],
)
def test_what_sizes_a_spectrogram_is_held_against_the_weights(name: str, changes: dict, said: str, tmp_path: Path):
    with pytest.raises(CheckpointError, match=said):
        load_classifier(changed(write_classifier(tmp_path, "ASTForAudioClassification"), name, **changes))


def test_pickles_and_other_folders_are_not_opened(tmp_path: Path):
    folder = write_classifier(tmp_path / "pickle")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="as a pickle"):
        read_labels(folder)
    with pytest.raises(CheckpointError, match="has no config.json"):
        read_labels(tmp_path)
    with pytest.raises(CheckpointError, match="has the architectures"):
        read_labels(write_voices(tmp_path / "voices"))

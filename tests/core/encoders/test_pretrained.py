"""Frames of a layer are those of transformers, for each family; they depend on the recording alone; what cannot be used is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.fixtures.encoders import FAMILIES, LAYERS, WIDTH, save_encoder
from tinywave_core.encoders.pretrained import (
    EncoderShape,
    Samples,
    load_encoder,
    log_mel,
    model_digest,
    read_shape,
    shared_encoder,
)
from tinywave_core.errors import CheckpointError

Saved = Callable[[str], tuple[Path, Any]]
SECOND = 16_000


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Folder and model of a family, made once."""
    made: dict[str, tuple[Path, Any]] = {}

    def saved(family: str) -> tuple[Path, Any]:
        if family not in made:
            folder = tmp_path_factory.mktemp("encoder")
            made[family] = folder, save_encoder(folder, family)
        return made[family]

    return saved


def noise(samples: int, seed: int = 0) -> Samples:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


@torch.inference_mode()
def hidden_states(model: Any, samples: Samples) -> list[np.ndarray]:
    """As transformers gives them for one recording with its own feature extractors."""
    if model.config.model_type == "whisper":
        heard = transformers.WhisperFeatureExtractor(chunk_length=1)(samples, sampling_rate=SECOND, return_tensors="pt")
        states = model.encoder(heard.input_features, output_hidden_states=True).hidden_states
    elif model.config.model_type == "wav2vec2-bert":
        heard = transformers.SeamlessM4TFeatureExtractor()(samples, sampling_rate=SECOND, return_tensors="pt")
        states = model(**heard, output_hidden_states=True).hidden_states
    else:
        states = model(torch.from_numpy(samples)[None], output_hidden_states=True).hidden_states
    return [state[0].numpy() for state in states]


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_of_every_layer_are_the_hidden_states_of_transformers(saved: Saved, family: str):
    folder, model = saved(family)
    # A second is a window of the tiny Whisper; wav2vec-BERT 2.0 has an even number of windows here, so that nothing is padded.
    samples = noise({"whisper": SECOND, "wav2vec2-bert": 560 + 30 * 320}.get(family, 12_345))
    expected = hidden_states(model, samples)
    assert len(expected) == LAYERS + 1
    for layer, states in enumerate(expected):
        found = load_encoder(folder, layer)(samples)
        # Features of transformers' Whisper are computed in float32.
        np.testing.assert_allclose(found, states, atol=1e-4 if family == "whisper" else 1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_depend_on_the_recording_alone_and_are_as_many_as_counted(saved: Saved, family: str):
    encoder = load_encoder(saved(family)[0], 2)
    recordings = [noise(n, n) for n in (1280, 9_999, 30_000)]
    together = [encoder(each) for each in recordings]
    for each, frames in reversed([*zip(recordings, together, strict=True)]):
        assert encoder(each).tobytes() == frames.tobytes()
        assert frames.shape == (encoder.shape.frame_count(len(each)), WIDTH)
    assert encoder(noise(encoder.shape.field - 1)).shape == (0, WIDTH)


@pytest.mark.parametrize(
    ("family", "hz", "field"),
    [("hubert", 50, 400), ("hubert of 25 Hz", 25, 720), ("wav2vec2-bert", 50, 560), ("whisper", 50, 320)],
)
def test_rate_and_field_follow_from_the_strides(saved: Saved, family: str, hz: float, field: int):
    shape = read_shape(saved(family)[0], 1)
    assert (shape.rate_hz, shape.field) == (hz, field)


@settings(max_examples=60)
@given(st.integers(1, 400), st.integers(0, 500), st.integers(1, 7), st.integers(0, 6000))
def test_windows_give_every_frame_once(hop: int, more: int, window: int, samples: int):
    shape = EncoderShape("hubert", 1, 1, hop, hop + more, window, normalise=False)
    sound = np.arange(samples, dtype=np.float32)
    windows = shape.windows(sound)
    counts = [shape.frame_count(len(part)) for part in windows]
    assert sum(counts) == shape.frame_count(samples) and all(count == window for count in counts[:-1])
    firsts = [part[0] for part in windows]
    assert firsts == [i * window * hop for i in range(len(windows))]


def test_long_recordings_are_heard_in_windows_of_their_own(saved: Saved):
    encoder = load_encoder(saved("whisper")[0], 2)
    samples = noise(2 * SECOND + 3200)
    alone = [encoder(samples[start : start + SECOND]) for start in (0, SECOND, 2 * SECOND)]
    assert encoder(samples).tobytes() == np.concatenate(alone).tobytes()


def test_a_short_recording_is_not_padded_with_silence(saved: Saved):
    folder, model = saved("whisper")
    found = load_encoder(folder, LAYERS)(noise(8000))
    padded = hidden_states(model, np.concatenate([noise(8000), np.zeros(8000, np.float32)]))[-1][:25]
    assert found.shape == padded.shape and np.abs(found - padded).max() > 1e-3


def test_mel_bands_are_whispers(saved: Saved):
    samples = noise(SECOND)
    heard = transformers.WhisperFeatureExtractor()(samples, sampling_rate=SECOND, return_tensors="np", padding=False)
    np.testing.assert_allclose(log_mel(torch.from_numpy(samples), 80).numpy(), heard.input_features[0], atol=1e-5)


def test_do_normalize_of_the_directory_is_followed(saved: Saved, tmp_path: Path):
    # Not one with a GroupNorm, to which level and offset are nothing.
    save_encoder(tmp_path, "hubert, pre-norm")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "sampling_rate": SECOND}))
    samples = 5 * noise(8000) + 1
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    normalised = extractor(samples, sampling_rate=SECOND, return_tensors="np").input_values[0]
    plain, followed = load_encoder(saved("hubert, pre-norm")[0], 1), load_encoder(tmp_path, 1)
    np.testing.assert_allclose(followed(samples), plain(normalised), atol=1e-5)
    assert np.abs(followed(samples) - plain(samples)).max() > 1e-3


def test_the_encoder_of_a_whole_whisper_is_found(saved: Saved, tmp_path: Path):
    folder, model = saved("whisper")
    config = model.config
    whole = transformers.WhisperForConditionalGeneration(config)
    whole.model.load_state_dict(model.state_dict())
    whole.save_pretrained(tmp_path)
    samples = noise(8000)
    assert load_encoder(tmp_path, 2)(samples).tobytes() == load_encoder(folder, 2)(samples).tobytes()


def test_other_weights_under_the_same_path_are_loaded_again(tmp_path: Path):
    save_encoder(tmp_path, "hubert")
    digest, first = model_digest(tmp_path), shared_encoder(tmp_path, 1, "cpu")
    assert shared_encoder(tmp_path, 1, "cpu") is first
    save_encoder(tmp_path, "hubert", seed=1)
    assert model_digest(tmp_path) != digest
    assert np.abs(shared_encoder(tmp_path, 1, "cpu")(noise(8000)) - first(noise(8000))).max() > 1e-3


# Refused -------------------------------------------------------------------------------------------------------------


def _edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(values | changes))


def _remove_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(dict([*weights.items()][1:]), folder / "model.safetensors", {"format": "pt"})


def _only_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda f: _edit(f / "config.json", model_type="bert"),
            "model_type 'bert'; expected a speech encoder: hubert, ",
        ),
        (
            lambda f: _edit(f / "config.json", num_hidden_layers=1),
            "hidden states 0 to 1, tokenization.units.layer is 2",
        ),
        (lambda f: _edit(f / "config.json", num_hidden_layers=10**9), "promises at least"),
        (lambda f: _edit(f / "config.json", conv_stride=["x"] * 7), "cannot be followed"),
        (lambda f: _edit(f / "preprocessor_config.json", sampling_rate=8000), "sampling_rate 8000, expected 16000"),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
        (_only_a_pickle, "as a pickle .* is not opened"),
    ],
)
def test_what_cannot_be_used_is_refused_from_names_and_headers(tmp_path: Path, break_it: Callable, said: str):
    save_encoder(tmp_path, "hubert")
    break_it(tmp_path)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_shape(tmp_path, 2)
    assert "\n" not in str(caught.value)


def test_an_encoder_that_is_not_whole_is_refused(tmp_path: Path):
    save_encoder(tmp_path, "hubert")
    _remove_a_tensor(tmp_path)
    with pytest.raises(CheckpointError, match="is not a whole HubertModel: 1 tensors"):
        load_encoder(tmp_path, 2)

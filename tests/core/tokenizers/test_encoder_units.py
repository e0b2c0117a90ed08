"""Units of an encoder: any rate, kept by digest, standardised, or of a codebook that is given."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.fixtures.encoders import WIDTH, save_encoder
from tinywave_core.config.load import load_config
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.encoders.pretrained import SpeechEncoder, load_encoder
from tinywave_core.errors import CheckpointError, ConfigError, TinyWaveError
from tinywave_core.tokenizers.base import Places
from tinywave_core.tokenizers.codebooks import Codebooks, GivenCodebook, read_codebook
from tinywave_core.tokenizers.embedded import open_codebook
from tinywave_core.tokenizers.opening import choose_tokenizer, open_tokenizer
from tinywave_core.tokenizers.speech import encode_utterance, merged_times_s
from tinywave_core.tokenizers.streams import SPIRITLM_RATES, Rates
from tinywave_core.tokenizers.vocabulary import BYTE_TEXT, Vocabulary

Utterances = list[SimpleNamespace]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder, "whisper")
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> SpeechEncoder:
    return load_encoder(folder, 2)


@pytest.fixture(scope="module")
def asked(config: Callable[..., TokenizationConfig], folder: Path) -> TokenizationConfig:
    return config(units={"kind": "encoder", "clusters": 12, "encoder": str(folder), "layer": 2})


@pytest.fixture(scope="module")
def fitted(asked: TokenizationConfig, utterances: Utterances, encoder: SpeechEncoder) -> Codebooks:
    return Codebooks.fit(asked, utterances, encoder)


def saved(codebooks: Codebooks, folder: Path) -> dict[str, bytes]:
    codebooks.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_fits_in_any_order_are_the_same_bytes(
    asked: TokenizationConfig, utterances: Utterances, encoder: SpeechEncoder, fitted: Codebooks, tmp_path: Path
):
    again = Codebooks.fit(asked, reversed(utterances), encoder)
    assert saved(fitted, tmp_path / "a") == saved(again, tmp_path / "b")


def test_its_units_come_at_its_rate_beside_pitch_and_style(fitted: Codebooks, utterances: Utterances):
    streams = fitted.tokenize(utterances[0].samples)
    assert (len(streams.units), len(streams.pitch), len(streams.style)) == (200, 50, 4)
    assert fitted.vocabulary == Vocabulary(BYTE_TEXT, 12, 6, 3, rates=Rates(50.0, 12.5, 1.0))
    assert not len(fitted.tokenize(utterances[0].samples[:1279]).units)


def test_tokens_are_in_the_order_of_their_times(fitted: Codebooks, utterances: Utterances):
    streams, rates = fitted.tokenize(utterances[0].samples), fitted.vocabulary.rates
    ids = encode_utterance(streams, fitted.vocabulary)[2:-1]
    times = merged_times_s(streams, rates)
    styles = np.flatnonzero(fitted.vocabulary.kinds(ids) == 4)
    np.testing.assert_allclose(times[styles], [0, 1, 2, 3])


def test_pitch_and_style_are_those_of_mfcc_units(fitted: Codebooks, codebooks: Codebooks, utterances: Utterances):
    ours, theirs = (c.tokenize(utterances[1].samples) for c in (fitted, codebooks))
    np.testing.assert_array_equal(ours.pitch, theirs.pitch)
    np.testing.assert_array_equal(ours.style, theirs.style)


def test_at_25_hz_rates_are_spiritlms(
    config: Callable[..., TokenizationConfig], utterances: Utterances, tmp_path: Path
):
    save_encoder(tmp_path, "hubert of 25 Hz")
    asked = config(units={"kind": "encoder", "clusters": 5, "encoder": str(tmp_path), "layer": 1}, tokens="base")
    made = Codebooks.fit(asked, utterances, load_encoder(tmp_path, 1))
    assert made.vocabulary.rates == SPIRITLM_RATES
    assert len(made.tokenize(utterances[0].samples).units) == 99


def test_a_dimension_of_any_size_has_the_same_say(fitted: Codebooks, encoder: SpeechEncoder, utterances: Utterances):
    """A few huge dimensions rule k-means over raw layers."""
    frames = encoder(utterances[0].samples)
    large = frames * np.where(np.arange(WIDTH) == 3, 1000, 1).astype(np.float32)
    fit = [type(fitted.units).fit(each.copy(), 8, 0, "frames") for each in (frames, large)]
    np.testing.assert_array_equal(fit[0].encode(frames), fit[1].encode(large))


# Kept and opened -----------------------------------------------------------------------------------------------------


def test_a_store_has_the_digest_and_no_weights(fitted: Codebooks, encoder: SpeechEncoder, tmp_path: Path):
    files = saved(fitted, tmp_path)
    about = json.loads(files["codebooks.json"])
    assert about["version"] == 2 and about["units"]["sha256"] == encoder.digest
    assert {k: about["units"][k] for k in ("layer", "model_type", "hop_samples", "window_frames")} == {
        "layer": 2,
        "model_type": "whisper",
        "hop_samples": 320,
        "window_frames": 50,
    }
    assert sum(map(len, files.values())) < 10_000


def test_it_is_opened_at_the_place_that_is_given_or_in_the_environment(
    fitted: Codebooks, folder: Path, utterances: Utterances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fitted.save(tmp_path)
    recordings = [each.samples for each in utterances[:3]]
    expected = [fitted.tokenize(samples) for samples in recordings]
    given = open_tokenizer(tmp_path, None, Places(encoder=str(folder)), "cpu")
    monkeypatch.setenv("TINYWAVE_ENCODER", str(folder))
    found = open_tokenizer(tmp_path, None, Places(), "cpu")
    assert given.identity == found.identity and given.vocabulary == fitted.vocabulary
    for tokenizer in (given, found):
        for ours, theirs in zip(tokenizer.tokenize(recordings), expected, strict=True):
            np.testing.assert_array_equal(ours.units, theirs.units)


def test_without_its_encoder_or_with_another_it_is_refused(
    fitted: Codebooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fitted.save(tmp_path / "codebooks")
    monkeypatch.delenv("TINYWAVE_ENCODER", raising=False)
    with pytest.raises(CheckpointError, match="set the environment variable TINYWAVE_ENCODER"):
        open_tokenizer(tmp_path / "codebooks", None, Places(), "cpu")
    save_encoder(tmp_path / "other", "whisper", seed=1)
    with pytest.raises(CheckpointError, match=r"has SHA-256 .*…, the tokens were made with"):
        open_tokenizer(tmp_path / "codebooks", None, Places(encoder=str(tmp_path / "other")), "cpu")
    with pytest.raises(CheckpointError, match="pass the encoder"):
        Codebooks.load(tmp_path / "codebooks")


# A codebook that is given --------------------------------------------------------------------------------------------


CENTRES = np.random.default_rng(0).standard_normal((12, WIDTH)).astype(np.float32)


def write(path: Path) -> Path:
    if path.suffix == ".npy":
        np.save(path, CENTRES)
    else:
        torch.save({"cluster_centers": torch.from_numpy(CENTRES), "n_clusters": 12}, path)
    return path


@pytest.mark.parametrize("name", ["centres.npy", "centres.pt"])
def test_given_centres_take_features_as_they_are(
    name: str, asked: TokenizationConfig, encoder: SpeechEncoder, utterances: Utterances, tmp_path: Path
):
    made = Codebooks.fit(asked, utterances, encoder, read_codebook(write(tmp_path / name)))
    frames = encoder(utterances[0].samples)
    nearest = ((frames[:, None].astype(np.float64) - CENTRES) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(made.tokenize(utterances[0].samples).units, nearest)
    made.save(tmp_path / "kept")
    loaded = Codebooks.load(tmp_path / "kept", encoder)
    assert isinstance(loaded.units, GivenCodebook)
    np.testing.assert_array_equal(loaded.tokenize(utterances[0].samples).units, nearest)


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"\x80\x04cjoblib.numpy_pickle\n.", "km.bin", r"cannot be read.*joblib\.load\('km\.bin'\)\.cluster_centers_"),
        (b"\x93NUMPY\x01", "a.npy", "cannot be read as a .npy file"),
        (None, "b.npy", "there is no codebook"),
        (np.zeros(3), "c.npy", r"float64 \[3\] as its centres"),
        (np.zeros((3, 2), int), "d.npy", r"int64 \[3, 2\] as its centres"),
        (np.array([[1.0, np.nan]]), "e.npy", "NaN or infinite"),
        (np.array([[{}]]), "f.npy", "cannot be read as a .npy file"),
    ],
)
def test_a_file_that_is_no_codebook_is_refused_in_one_line(content: Any, name: str, said: str, tmp_path: Path):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        np.save(tmp_path / name, content, allow_pickle=True)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_codebook(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_codebook_of_another_size_is_refused(tmp_path: Path):
    path = write(tmp_path / "centres.npy")
    with pytest.raises(CheckpointError, match=f"width {WIDTH}, the encoder's layers are 768 wide"):
        open_codebook(path, 12, 768)
    with pytest.raises(CheckpointError, match="set --tokenization.units.clusters 12"):
        open_codebook(path, 100, WIDTH)


# Settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ({"encoder": "x"}, "tokenization.units.encoder is set, but units of kind `mfcc` take none"),
        ({"layer": "0"}, "tokenization.units.layer is set"),
        ({"codebook": "x"}, "tokenization.units.codebook is set"),
        ({"kind": "encoder", "layer": "1"}, "need tokenization.units.encoder"),
        ({"kind": "encoder", "encoder": "x"}, "need tokenization.units.layer"),
        ({"clusters": "5001"}, "less than or equal to 5000"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(units: dict[str, str], said: str):
    with pytest.raises(ConfigError, match=said):
        load_config("demo", {f"tokenization.units.{name}": text for name, text in units.items()})


def test_an_encoder_goes_before_spiritlms_release(folder: Path):
    units = {"kind": "encoder", "encoder": str(folder), "layer": "2"}
    config = load_config(
        "demo", {"spiritlm_dir": "x", **{f"tokenization.units.{name}": text for name, text in units.items()}}
    )
    chosen = choose_tokenizer(config)
    assert (chosen.kind, chosen.is_fitted, chosen.uses_gpu) == ("codebooks", True, True)
    assert chosen.seconds_per_hour("cuda") < chosen.seconds_per_hour("cpu")


def test_too_little_speech_is_an_error_with_numbers(
    asked: TokenizationConfig, utterances: Utterances, encoder: SpeechEncoder
):
    many = asked.model_copy(update={"units": asked.units.model_copy(update={"clusters": 500})})
    with pytest.raises(TinyWaveError, match=r"gives 200 frames of 20 ms.*500 clusters"):
        Codebooks.fit(many, utterances[:1], encoder)


def test_ids_of_5000_units_fit_the_column():
    vocabulary = Vocabulary(text=BYTE_TEXT, hubert=5000, pitch=1024, style=1024)
    assert vocabulary.tokens <= np.iinfo(np.uint16).max
    assert vocabulary.encode("[Hu4999]") == [vocabulary.first["hubert"] + 4999]

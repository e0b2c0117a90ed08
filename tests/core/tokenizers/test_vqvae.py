"""Pitch codes of the release: the recorded codes of the reference, normalisation, no voice, foreign configs."""

import copy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures import release
from tinywave_core.errors import CheckpointError
from tinywave_core.tokenizers.fcpe import Fcpe
from tinywave_core.tokenizers.vqvae import PitchCodes, code_count, read_config

pytestmark = pytest.mark.arithmetic

RECIPE = release.CHECKPOINTS["vqvae"]
CONFIG = RECIPE["config_yaml"]
FLAC = "7143-88743-0029.flac"
CLIPS = {
    FLAC: slice(None),
    f"{FLAC}[20000:60001]": slice(20_000, 60_001),
    f"{FLAC}[20000:21280]": slice(20_000, 21_280),
}


def config_with(**changes: object) -> dict:
    """Dotted names with __ for the dot; ... takes the field away."""
    config = copy.deepcopy(CONFIG)
    for name, value in changes.items():
        *sections, field = name.split("__")
        fields = config[sections[0]] if sections else config
        fields[field] = value
        if value is ...:
            del fields[field]
    return config


def written(folder: Path, config: dict = CONFIG, weights: dict | None = None) -> Path:
    torch.save({"model": weights or release.weights(RECIPE)}, folder / "model.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def encoder_shapes(downs: int, stride: int, depth: int) -> dict:
    """Tensors of an encoder of width 32 and of its codebook."""
    root, shapes = "encoder.level_blocks.0.model", {"vq.level_blocks.0.k": [64, 128]}
    for down in range(downs):
        shapes[f"{root}.{down}.0.weight"] = [32, 32 if down else 2, 2 * stride]
        for unit in range(depth):
            shapes[f"{root}.{down}.1.model.{unit}.model.1.weight"] = [32, 32, 3]
            shapes[f"{root}.{down}.1.model.{unit}.model.3.weight"] = [32, 32, 1]
    shapes[f"{root}.{downs}.weight"] = [128, 32, 3]
    biases = {key.replace("weight", "bias"): shape[:1] for key, shape in shapes.items() if key.endswith("weight")}
    return shapes | biases


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return soundfile.read(release.AUDIO, dtype="float32")[0]


@pytest.fixture(scope="module")
def fcpe() -> Fcpe:
    return Fcpe.load()


@pytest.fixture(scope="module")
def normalised(tmp_path_factory: pytest.TempPathFactory) -> PitchCodes:
    root = tmp_path_factory.mktemp("release")
    release.write_vqvae(root)
    return PitchCodes.load(root / "vqvae_f0_quantizer")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PitchCodes:
    return PitchCodes.load(written(tmp_path_factory.mktemp("plain"), config_with(features="f0_interp,vuv")))


def stored(name: str) -> tuple[np.ndarray, np.ndarray]:
    arrays = release.arrays()
    return arrays[f"{name}|f0"], arrays[f"{name}|vuv"] > 0


def assert_codes_are_recorded(codes: np.ndarray, name: str) -> None:
    units = release.UNITS["units"][name]
    recorded, thin = [int(unit) for unit in units["pitch"].split()], units["ignore_pitch"]
    assert codes.dtype == np.int64 and len(codes) == len(recorded)
    np.testing.assert_array_equal(np.delete(codes, thin), np.delete(recorded, thin))


def whole_track() -> tuple[np.ndarray, np.ndarray]:
    """256 voiced frames of whole Hz around 200, whose mean is exact, and 64 unvoiced ones at 0."""
    f0 = np.random.default_rng(0).integers(100, 301, 256).astype(np.float32)
    f0 = np.concatenate([f0[:128], np.zeros(64, np.float32), f0[128:]])
    return f0, f0 > 0


@pytest.mark.parametrize("name", CLIPS)
def test_stored_f0_gives_the_codes_of_the_reference(normalised: PitchCodes, name: str) -> None:
    assert_codes_are_recorded(normalised.encode(*stored(name)), name)


@pytest.mark.parametrize("name", CLIPS)
def test_samples_give_the_codes_of_the_reference(
    fcpe: Fcpe, normalised: PitchCodes, samples: np.ndarray, name: str
) -> None:
    track = fcpe.f0_hz(samples[CLIPS[name]])
    assert_codes_are_recorded(normalised.encode(track.f0_hz, track.voiced), name)


def test_each_kind_of_config_gives_the_codes_of_the_reference(
    normalised: PitchCodes, plain: PitchCodes, tmp_path: Path
) -> None:
    encoder = {"downs_t": [2], "strides_t": [4], "depth": 2, "dilation_growth_rate": 2}
    config = config_with(**{f"encoder_params__{field}": value for field, value in encoder.items()})
    fewer = PitchCodes.load(written(tmp_path, config, release.weights(RECIPE, encoder_shapes(2, 4, 2))))
    recorded = release.PARTS["vqvae"]
    assert [key.split(" (")[0] for key in recorded] == ["norm_f0_interp,vuv", "f0_interp,vuv", "norm_f0_interp,vuv"]
    for codes, expected in zip([normalised, plain, fewer], recorded.values(), strict=True):
        assert codes.encode(*stored(FLAC)).tolist() == expected


def test_another_extractor_gives_the_codes_of_the_reference(normalised: PitchCodes) -> None:
    assert normalised.encode(*stored("yaapt")).tolist() == release.PARTS["yaapt_pitch_units"]


def test_codes_and_stride_are_those_of_the_config(normalised: PitchCodes, tmp_path: Path) -> None:
    assert (normalised.codes, normalised.stride) == (64, 16)
    assert code_count(written(tmp_path, config_with(vq_params__l_bins=32))) == 32


def test_normalised_codes_do_not_hear_a_voice_50_hz_higher(normalised: PitchCodes, plain: PitchCodes) -> None:
    f0, voiced = whole_track()
    higher = np.where(voiced, f0 + 50, 0)
    np.testing.assert_array_equal(normalised.encode(higher, voiced), normalised.encode(f0, voiced))
    assert (plain.encode(higher, voiced) != plain.encode(f0, voiced)).any()


def test_mean_is_of_voiced_frames_and_leaves_zeros_alone(normalised: PitchCodes, plain: PitchCodes) -> None:
    f0, voiced = whole_track()
    f0[130] = 900  # interpolated: not in the mean, but lowered by it
    lowered = np.where(f0 != 0, f0 - f0[voiced].mean(), 0)
    np.testing.assert_array_equal(normalised.encode(f0, voiced), plain.encode(lowered, voiced))


def test_speaker_norm_alone_removes_the_mean(normalised: PitchCodes, tmp_path: Path) -> None:
    by_speaker = PitchCodes.load(written(tmp_path, config_with(features="f0_interp,vuv", speaker_norm=True)))
    np.testing.assert_array_equal(by_speaker.encode(*whole_track()), normalised.encode(*whole_track()))


def test_track_without_a_voiced_frame_is_coded_as_it_is(normalised: PitchCodes, plain: PitchCodes) -> None:
    silent = np.zeros(320, np.float32), np.zeros(320, bool)
    np.testing.assert_array_equal(normalised.encode(*silent), plain.encode(*silent))
    assert len(normalised.encode(*silent)) == 20


@pytest.mark.parametrize("kind", ["silence", "noise", "constant"])
def test_chunks_without_speech_have_codes(fcpe: Fcpe, normalised: PitchCodes, kind: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 16_000)
    sounds = {"silence": np.zeros(1280), "noise": noise, "constant": np.full(16_000, 0.5)}
    track = fcpe.f0_hz(sounds[kind].astype(np.float32))
    codes = normalised.encode(track.f0_hz, track.voiced)
    assert len(codes) == len(track.f0_hz) // 16 and codes.min() >= 0 and codes.max() < 64


@pytest.mark.one_machine  # counts codes
@settings(max_examples=20)
@given(st.integers(1280, 16_000))
def test_samples_give_the_count_of_codes_of_the_reference(
    fcpe: Fcpe, normalised: PitchCodes, samples: np.ndarray, num_samples: int
) -> None:
    track = fcpe.f0_hz(samples[20_000 : 20_000 + num_samples])
    assert normalised.encode(track.f0_hz, track.voiced).shape == ((num_samples // 80 + 1) // 16,)


@pytest.mark.parametrize("frames", [0, 1, 15, 16, 17, 31, 32, 333])
def test_codes_are_frames_by_stride_rounded_down(normalised: PitchCodes, frames: int) -> None:
    assert normalised.encode(np.full(frames, 200, np.float32), np.ones(frames, bool)).shape == (frames // 16,)


def test_first_of_two_equal_rows_is_the_code(tmp_path: Path) -> None:
    weights = release.weights(RECIPE)
    weights["vq.level_blocks.0.k"][32:] = weights["vq.level_blocks.0.k"][:32]
    assert PitchCodes.load(written(tmp_path, weights=weights)).encode(*stored(FLAC)).max() < 32


def test_neither_the_decoder_nor_the_codebook_of_training_is_needed(normalised: PitchCodes, tmp_path: Path) -> None:
    weights = {key: value for key, value in release.weights(RECIPE).items() if not key.startswith("decoder.")}
    weights["vq.level_blocks.0.k_sum"] = torch.zeros(64, 128)
    codes = PitchCodes.load(written(tmp_path, weights=weights)).encode(*stored(FLAC))
    np.testing.assert_array_equal(codes, normalised.encode(*stored(FLAC)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": "f0"}, "features is 'f0', expected 'f0_interp,vuv' or .* or 'norm_f0,vuv'"),
        ({"features": ...}, "features is missing, expected 'f0_interp,vuv' or"),
        ({"encoder_params": ...}, r"encoder_params\.output_emb_width is missing, expected a whole number above 0"),
        ({"encoder_params__levels": 2}, r"encoder_params\.levels is 2, expected 1"),
        ({"encoder_params__downs_t": [2, 2]}, r"downs_t is \[2, 2\], expected a list of one whole number above 0"),
        ({"encoder_params__strides_t": [[2, 2]]}, r"strides_t is \[\[2, 2\]\], expected a list of one even number"),
        ({"encoder_params__strides_t": [3]}, r"strides_t is \[3\], expected a list of one even number"),
        ({"encoder_params__strides_t": 2}, r"strides_t is 2, expected a list of one even number"),
        ({"encoder_params__depth": "${depth}"}, r"depth is '\$\{depth\}', expected a whole number above 0"),
        ({"encoder_params__m_conv": -1}, r"m_conv is -1, expected a number above 0"),
        ({"encoder_params__res_scale": True}, r"res_scale is True, expected nothing or False"),
        ({"encoder_params__input_emb_width": 1}, r"input_emb_width is 1, expected 2"),
        ({"vq_params__emb_width": 64}, r"vq_params\.emb_width is 64, expected 128"),
        ({"vq_params__l_bins": ...}, r"vq_params\.l_bins is missing, expected a whole number above 0"),
    ],
)
def test_config_of_another_pitch_encoder_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config_with(**changes)))
    with pytest.raises(CheckpointError, match=rf"config\.yaml: .*{message}"):
        read_config(path)


@pytest.mark.parametrize("text", ["features: [", "- features", ""])
def test_file_that_is_no_config_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.yaml.*expected"):
        read_config(tmp_path / "config.yaml")


def test_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"config\.yaml cannot be read .*expected the config\.yaml of the release"
    ):
        PitchCodes.load(tmp_path)


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.pt is a checkpoint of another architecture.*codebook_KE"):
        PitchCodes.load(written(tmp_path, config_with(vq_params__l_bins=32)))

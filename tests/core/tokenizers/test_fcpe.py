"""FCPE: the recorded values of the reference, decoding by hand, silence, foreign files."""

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures import release
from tinywave_core.errors import CheckpointError
from tinywave_core.tokenizers import fcpe
from tinywave_core.tokenizers.fcpe import Fcpe

pytestmark = pytest.mark.arithmetic

RECIPE = release.PARTS["fcpe_rand"]
CLIPS = {
    "7143-88743-0029.flac": slice(None),
    "7143-88743-0029.flac[20000:60001]": slice(20_000, 60_001),
    "7143-88743-0029.flac[20000:21280]": slice(20_000, 21_280),
}
SECOND = 16_000


def cent_table() -> torch.Tensor:
    lowest, highest = (1200 * torch.log2(torch.tensor(hz / 10)) for hz in (32.7, 1975.5))
    return torch.linspace(lowest.item(), highest.item(), 360)


def written(path: Path, weights: dict, config: dict = RECIPE["config"]) -> Path:
    buffers = {"cent_table": cent_table(), "gaussian_blurred_cent_mask": torch.tensor(9151.0)}
    torch.save({"model": buffers | weights, "config_dict": config}, path)
    return path


def small_weights() -> dict:
    width = {512: 8, 1024: 16, 2048: 32}
    kept = {key: shape for key, shape in RECIPE["shapes"].items() if "layers" not in key or "layers.0." in key}
    return release.weights(RECIPE, {key: [width.get(size, size) for size in shape] for key, shape in kept.items()})


SMALL = {**RECIPE["config"], "model": {**RECIPE["config"]["model"], "hidden_dims": 8, "n_layers": 1}}


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return soundfile.read(release.AUDIO, dtype="float32")[0]


@pytest.fixture(scope="module")
def released() -> Fcpe:
    return Fcpe.load()


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Fcpe:
    return Fcpe.load(written(tmp_path_factory.mktemp("fcpe") / "random.pt", release.weights(RECIPE)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Fcpe:
    return Fcpe.load(written(tmp_path_factory.mktemp("fcpe") / "small.pt", small_weights(), SMALL))


class Heard(torch.nn.Module):
    """Stands for the network: the given bin in each frame, for certain; None is silence."""

    def __init__(self, bins: list[int | None]) -> None:
        super().__init__()
        self.cent_table = cent_table()
        self.probability = torch.zeros(len(bins), 360)
        for frame, best in enumerate(bins):
            if best is not None:
                self.probability[frame, best] = 0.5

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.probability


def track_of(bins: list[int | None]) -> fcpe.F0Track:
    return Fcpe(Heard(bins), torch.device("cpu")).f0_hz(np.zeros(160 * len(bins) - 1, np.float32))


def hz(bin_: int) -> float:
    return 10 * 2 ** (cent_table()[bin_].item() / 1200)


def test_log_mel_is_that_of_the_reference(samples: np.ndarray) -> None:
    mel = fcpe.log_mel(torch.from_numpy(samples))
    assert mel.shape == (914, 128)
    recorded = release.arrays()["fcpe|logmel_rows_0_1_400_912_913"]
    np.testing.assert_allclose(mel[[0, 1, 400, 912, 913]].numpy(), recorded, atol=5e-5)


def test_random_weights_give_the_f0_of_the_reference(random_weights: Fcpe, samples: np.ndarray) -> None:
    recorded, track = release.arrays(), random_weights.f0_hz(samples)
    np.testing.assert_allclose(random_weights.raw_f0_hz(samples), recorded["fcpe_rand|raw_f0_100hz"], rtol=1e-5)
    np.testing.assert_allclose(track.f0_hz, recorded["fcpe_rand|f0"], rtol=1e-5)
    np.testing.assert_array_equal(track.voiced, recorded["fcpe_rand|vuv"])


@pytest.mark.parametrize("clip", CLIPS)
def test_released_weights_give_the_f0_of_the_reference(released: Fcpe, samples: np.ndarray, clip: str) -> None:
    recorded, track = release.arrays(), released.f0_hz(samples[CLIPS[clip]])
    assert track.f0_hz.dtype == np.float32 and track.voiced.dtype == bool and track.any_voiced
    np.testing.assert_allclose(track.f0_hz, recorded[f"{clip}|f0"], rtol=1e-5)
    np.testing.assert_array_equal(track.voiced, recorded[f"{clip}|vuv"])


@pytest.mark.parametrize("num_samples", [1280, SECOND])
def test_silence_has_no_f0(released: Fcpe, num_samples: int) -> None:
    track = released.f0_hz(np.zeros(num_samples, np.float32))
    assert not track.any_voiced and not track.voiced.any()
    np.testing.assert_array_equal(track.f0_hz, np.zeros(num_samples // 80 + 1))


def test_noise_has_no_f0(released: Fcpe) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, SECOND).astype(np.float32)
    assert not released.f0_hz(noise).any_voiced


def test_constant_has_finite_f0(released: Fcpe) -> None:
    assert np.isfinite(released.f0_hz(np.full(SECOND, 0.5, np.float32)).f0_hz).all()


@pytest.mark.parametrize("true_hz", [110.0, 220.0, 440.0])
def test_harmonic_tone_has_its_f0(released: Fcpe, true_hz: float) -> None:
    time_s = np.arange(SECOND) / SECOND
    tone = sum(np.sin(2 * np.pi * true_hz * harmonic * time_s) / harmonic for harmonic in range(1, 9))
    track = released.f0_hz((0.2 * tone).astype(np.float32))
    assert track.voiced.mean() > 0.9 and abs(np.median(track.f0_hz) / true_hz - 1) < 0.01


def test_unvoiced_frames_lie_on_lines_and_the_ends_are_held() -> None:
    low, high = hz(100), hz(103)
    track = track_of([None, 100, None, None, 103, None])
    at_100_hz = [low, low, low + (high - low) / 3, low + 2 * (high - low) / 3, high, high]
    np.testing.assert_allclose(track.f0_hz, np.repeat(at_100_hz, 2), rtol=1e-5)
    assert track.voiced.tolist() == np.repeat([False, True, False, False, True, False], 2).tolist()


def test_interpolation_comes_before_the_clip_at_1100_hz() -> None:
    assert hz(300) < 1100 < hz(320) < 1300
    between = (hz(300) + hz(320)) / 2
    np.testing.assert_allclose(
        track_of([300, None, 320]).f0_hz, np.repeat([hz(300), min(between, 1100), 1100], 2), rtol=1e-5
    )


def test_f0_below_50_hz_is_unvoiced() -> None:
    assert hz(20) < 50 < hz(40)
    track = track_of([40, 20, 40])
    assert track.voiced.tolist() == [True, True, False, False, True, True]
    np.testing.assert_allclose(track.f0_hz, hz(40), rtol=1e-5)


def test_bins_at_the_threshold_are_silent_and_more_than_four_away_do_not_count() -> None:
    heard = Heard([100, 200])
    heard.probability[:, 100] = torch.tensor([0.05, 0.0])
    heard.probability[1, [195, 196, 204]] = torch.tensor([0.4, 0.25, 0.25])
    raw = Fcpe(heard, torch.device("cpu")).raw_f0_hz(np.zeros(319, np.float32))
    np.testing.assert_allclose(raw, [0, hz(200)], rtol=1e-5)


def test_bins_beyond_the_table_count_as_the_last_one() -> None:
    heard = Heard([359])
    heard.probability[0, 358] = 0.25
    cents = cent_table()
    expected = 10 * 2 ** ((5 * 0.5 * cents[359] + 0.25 * cents[358]).item() / 2.75 / 1200)
    np.testing.assert_allclose(Fcpe(heard, torch.device("cpu")).raw_f0_hz(np.zeros(1, np.float32)), expected, rtol=1e-5)


def test_work_in_parts_gives_what_the_whole_gives(
    released: Fcpe, samples: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = released.f0_hz(samples[:SECOND])
    monkeypatch.setattr(fcpe, "FRAMES_AT_ONCE", 7)
    parts = released.f0_hz(samples[:SECOND])
    np.testing.assert_allclose(parts.f0_hz, whole.f0_hz, rtol=1e-5)
    np.testing.assert_array_equal(parts.voiced, whole.voiced)


def test_threads_may_share_one(released: Fcpe, samples: np.ndarray) -> None:
    parts = [samples[start : start + 8000] for start in range(20_000, 60_000, 8000)]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(released.f0_hz, parts))
    for track, part in zip(together, parts, strict=True):
        np.testing.assert_array_equal(track.f0_hz, released.f0_hz(part).f0_hz)


def test_read_only_samples_are_taken(small: Fcpe) -> None:
    samples = np.zeros(2000, np.float32)
    samples.flags.writeable = False
    assert len(small.f0_hz(samples).f0_hz) == 26


@settings(max_examples=30)
@given(st.integers(1, 9000))
def test_frame_count_is_that_of_the_reference(small: Fcpe, num_samples: int) -> None:
    noise = np.random.default_rng(num_samples).normal(0, 0.1, num_samples).astype(np.float32)
    track = small.f0_hz(noise)
    assert track.f0_hz.shape == track.voiced.shape == (num_samples // 80 + 1,)
    assert len(small.raw_f0_hz(noise)) == num_samples // 160 + 1


def test_the_package_is_read_and_not_run() -> None:
    Fcpe.load()
    assert "torchfcpe" not in sys.modules


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"torchfcpe is not installed.*pip install 'tinywave.spiritlm.'"):
        Fcpe.load()


@pytest.mark.parametrize(
    ("section", "field", "found", "message"),
    [
        ("mel", "hop_size", 320, r"mel\.hop_size in its config_dict is 320, expected 160"),
        ("model", "conv_only", False, r"model\.conv_only in its config_dict is False, expected True"),
        ("model", "type", "CFNaiveMelPEONNX", r"model\.type .* expected 'CFNaiveMelPE'"),
        ("model", "n_layers", None, r"model\.n_layers in its config_dict is missing, expected a whole number above 0"),
        ("model", "n_layers", 2, r"missing, such as blocks\.1\."),
    ],
)
def test_another_kind_of_fcpe_is_refused(tmp_path: Path, section: str, field: str, found: object, message: str) -> None:
    config = {**SMALL, section: {**SMALL[section], field: found}}
    with pytest.raises(CheckpointError, match=message):
        Fcpe.load(written(tmp_path / "foreign.pt", small_weights(), config))


def test_file_without_config_is_refused(tmp_path: Path) -> None:
    torch.save({"model": small_weights()}, tmp_path / "bare.pt")
    with pytest.raises(CheckpointError, match=r"bare\.pt: mel\.sr in its config_dict is missing, expected 16000"):
        Fcpe.load(tmp_path / "bare.pt")

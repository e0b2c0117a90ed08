"""Training of the light vocoder: the loss falls, a killed run goes on exactly, batches depend on seed and step alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tinywave_core.synthesis.light_model import LightNetwork
from tinywave_core.training.vocoder import Recording, batch_of, loss_of, mean_envelopes, train_vocoder

SIZES = {"units": 12, "pitch": 0, "style": 3, "voice": 2}
SETTINGS = {"steps": 6, "rows": 2, "frames": 16, "peak_rate": 3e-3, "seed": 0, "checkpoint_every": 2}


def _recording(seed: int) -> Recording:
    """Noise that is as loud as its unit says, with a pitch in its first half."""
    random = np.random.default_rng(seed)
    codes = {kind: random.integers(0, max(size, 1), 64) for kind, size in SIZES.items()}
    level = np.repeat(0.1 * 0.8 ** codes["units"], 640)
    semitones = np.where(np.arange(257) < 128, 2.0, np.nan).astype(np.float32)
    return Recording((random.standard_normal(64 * 640) * level * 32767).astype(np.int16), codes, semitones, 150.0)


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    return [_recording(seed) for seed in range(3)]


def _network() -> LightNetwork:
    torch.manual_seed(0)
    return LightNetwork(SIZES, channels=16, blocks=1)


def _train(network: LightNetwork, recordings: list[Recording], resume: Path, **changes) -> list[dict[str, float]]:
    settings = SETTINGS | {"progress": lambda *_: None} | changes
    return train_vocoder(network, recordings, resume=resume, **settings)


def test_loss_falls(recordings: list[Recording], tmp_path: Path):
    curve = _train(_network(), recordings, tmp_path, steps=30)
    first, last = (np.mean([record["loss"] for record in part]) for part in (curve[:5], curve[-5:]))
    assert last < 0.9 * first
    assert [record["step"] for record in curve] == [*range(1, 31)]


@pytest.mark.parametrize("killed_after", [1, 4, 5])
def test_a_killed_run_goes_on_to_the_same_weights_and_curve(
    recordings: list[Recording], tmp_path: Path, killed_after: int
):
    def kill(step: int) -> None:
        if step == killed_after:
            raise InterruptedError

    undisturbed, network = _network(), _network()
    curve = _train(undisturbed, recordings, tmp_path / "undisturbed")
    with pytest.raises(InterruptedError):
        _train(network, recordings, tmp_path / "killed", on_step=kill)
    again = _network()
    assert _train(again, recordings, tmp_path / "killed") == curve
    for name, weight in again.state_dict().items():
        torch.testing.assert_close(weight, undisturbed.state_dict()[name], rtol=0, atol=0)


def test_batch_is_a_function_of_seed_and_step(recordings: list[Recording]):
    first, again, other = (batch_of(recordings, step, rows=4, frames=16, seed=0) for step in (3, 3, 4))
    assert torch.equal(first.samples, again.samples) and torch.equal(first.source, again.source)
    assert not torch.equal(first.samples, other.samples)
    assert first.samples.shape == (4, 16 * 640) and first.source.shape == (4, 2, 16 * 640)


def test_mean_envelopes_are_the_levels_of_the_units(recordings: list[Recording]):
    network, batch = _network(), batch_of(recordings, 0, rows=2, frames=16, seed=0)
    before, _ = loss_of(network, batch)
    network.envelopes.data.copy_(mean_envelopes(recordings, SIZES["units"]))
    own = network.envelopes[1].mean(dim=1)
    assert own.argmax() <= 1 and own.argmin() >= 10
    assert loss_of(network, batch)[0] < 0.7 * before


def test_a_silent_clip_gives_a_finite_gradient(recordings: list[Recording]):
    network = _network()
    silent = Recording(np.zeros(64 * 640, np.int16), recordings[0].codes, np.full(257, np.nan, np.float32), 150.0)
    loss_of(network, batch_of([silent], 0, rows=1, frames=16, seed=0))[0].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())

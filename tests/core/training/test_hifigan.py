"""A unit HiFi-GAN learns the user's own units, goes on exactly after a stop, and becomes a vocoder of the released shape."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tinywave_core.errors import ConfigError
from tinywave_core.progress import GOES_ON, no_progress
from tinywave_core.synthesis.hifigan import HifiganVocoder
from tinywave_core.synthesis.hifigan_model import HifiganNetwork
from tinywave_core.training.discriminators import Discriminators, loss_of_generator, loss_of_judges
from tinywave_core.training.hifigan import (
    Clip,
    Settings,
    batch_of,
    hifigan_config,
    mel_distance,
    runs_of,
    train_hifigan,
    upsample_rates,
)

HOP, UNITS = 320, 4
TINY = Settings(steps=5, clips=2, frames=8, peak_rate=1e-3, seed=3, judge_width=1)


def clips(count: int = 4, frames: int = 24) -> list[Clip]:
    """Tones whose pitch is their unit."""
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        units = np.repeat(random.integers(UNITS, size=frames // 3), 3)
        phase = np.cumsum(np.repeat(0.05 * (1 + units), HOP))
        samples = np.rint(8000 * np.sin(phase)).astype(np.int16)
        made.append(Clip(samples, np.stack([units, np.repeat(units[::8], 8)]), voice=number % 2))
    return made


def network(seed: int = 0) -> HifiganNetwork:
    config = hifigan_config(HOP, UNITS, 2, pitch=UNITS, hops={"pitch": 8 * HOP}, channels=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HifiganNetwork(config)


def trained(settings: Settings, resume: Path, **others: object) -> tuple[HifiganNetwork, list[dict[str, float]]]:
    made = network()
    arguments = {"checkpoint_every": 2, "resume": resume, "progress": no_progress, **others}
    return made, train_hifigan(made, clips(), settings, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hop", "rates"), [(640, (5, 4, 4, 4, 2)), (320, (5, 4, 4, 4)), (1280, (5, 4, 4, 4, 4)), (480, (5, 4, 4, 3, 2))]
)
def test_rates_of_upsampling_multiply_to_the_hop(hop: int, rates: tuple[int, ...]):
    assert upsample_rates(hop) == rates
    assert math.prod(rates) == hop


def test_a_hop_that_no_upsampling_reaches_is_refused_with_its_number():
    with pytest.raises(ConfigError, match="units of 322 samples"):
        upsample_rates(322)


def test_the_default_shape_is_that_of_the_released_base_vocoder():
    config = hifigan_config(640, 500, 5, hops={})
    assert config.upsample_rates == (5, 4, 4, 4, 2)
    assert config.upsample_kernel_sizes == (11, 8, 8, 8, 4)
    assert config.upsample_initial_channel == 512
    assert config.embedding_dim == 128


def test_judges_tell_what_was_made_and_their_loss_is_least_squares():
    torch.manual_seed(0)
    judges = Discriminators(width=1).requires_grad_(False)
    true, made = torch.randn(2, 3000), torch.zeros(2, 3000)
    of_true, of_made = judges(true), judges(made)
    assert len(of_true) == 5 + 3
    by_hand = sum(float(((1 - t) ** 2).mean() + (m**2).mean()) for (t, _), (m, _) in zip(of_true, of_made, strict=True))
    assert float(loss_of_judges(of_true, of_made)) == pytest.approx(by_hand, rel=1e-5)
    adversarial, features = loss_of_generator(of_true, of_true)
    assert float(features) == 0
    assert float(adversarial) == pytest.approx(sum(float(((1 - t) ** 2).mean()) for t, _ in of_true), rel=1e-5)


def test_log_mels_of_the_same_sound_are_no_distance_apart_and_ten_times_as_loud_is_log_ten():
    sound = torch.randn(1, 4000) * 0.1
    assert float(mel_distance(sound, sound)) == 0
    assert float(mel_distance(10 * sound, sound)) == pytest.approx(math.log(10), rel=0.02)


def test_a_batch_is_the_sound_of_its_codes_and_comes_from_seed_and_step_alone():
    given = clips()
    samples, codes, voices = batch_of(given, 5, TINY, HOP)
    again = batch_of(given, 5, TINY, HOP)
    assert torch.equal(samples, again[0]) and torch.equal(codes, again[1]) and torch.equal(voices, again[2])
    assert not torch.equal(samples, batch_of(given, 6, TINY, HOP)[0])
    assert samples.shape == (2, TINY.frames * HOP) and codes.shape == (2, 2, TINY.frames)
    whole = [(c.samples / 32768).astype(np.float32) for c in given]
    for row, own in zip(samples.numpy(), codes.numpy(), strict=True):
        places = [
            (i, t)
            for i, c in enumerate(given)
            for t in range(c.frames - TINY.frames + 1)
            if np.array_equal(c.codes[:, t : t + TINY.frames], own)
        ]
        assert any(np.array_equal(whole[i][t * HOP : (t + TINY.frames) * HOP], row) for i, t in places)


def test_runs_are_whole_ones_only():
    codes = np.array([[0, 0, 1, 1, 1, 2, 3, 3]])
    ((units, lengths),) = runs_of([Clip(np.zeros(8, np.int16), codes, 0)], 0, Settings(1, 1, 4, 1e-3, 0))
    assert units.tolist() == [1, 2]
    assert lengths.tolist() == [3, 1]


def test_training_brings_the_sound_nearer_and_the_durations(tmp_path: Path):
    _, curve = trained(Settings(12, 2, 8, 1e-2, 3, judge_width=1), tmp_path, checkpoint_every=1000)
    first, last = ({name: np.mean([r[name] for r in part]) for name in curve[0]} for part in (curve[:4], curve[-4:]))
    assert last["log_mel"] < 0.8 * first["log_mel"]
    assert last["durations"] < first["durations"]


def test_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path):
    whole, curve = trained(TINY, tmp_path / "whole")

    def stop(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(TINY, tmp_path / "parts", on_step=stop)
    told: list[tuple[int, int, str]] = []
    again, rest = trained(TINY, tmp_path / "parts", progress=lambda *how_far: told.append(how_far))
    assert rest == curve and told == [(5, 5, GOES_ON)]
    for (name, one), (_, other) in zip(whole.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_both_sides_learn(tmp_path: Path):
    before = network().state_dict()
    after, curve = trained(Settings(1, 2, 8, 1e-3, 3, judge_width=1), tmp_path)
    moved = [name for name, weight in after.state_dict().items() if not torch.allclose(weight, before[name], atol=1e-7)]
    assert {"dict.weight", "spkr.weight", "conv_pre.weight", "conv_post.weight", "dur_predictor.proj.weight"} <= set(
        moved
    )
    assert after.state_dict().keys() == before.keys()  # weight norm is folded
    first, second = trained(Settings(2, 2, 8, 1e-3, 3, judge_width=1), tmp_path / "two")[1]
    assert first["judges"] == curve[0]["judges"] != second["judges"]


def test_a_clip_of_a_batch_is_what_the_same_codes_give_alone():
    made = network().eval()
    _, codes, voices = batch_of(clips(), 0, TINY, HOP)
    with torch.no_grad():
        together = made.speak(codes, voices)
        for row, own, voice in zip(together, codes, voices, strict=True):
            assert torch.allclose(made(own, int(voice), 0), row, atol=1e-5)


def test_what_was_trained_is_saved_as_a_vocoder_that_speaks_the_same(tmp_path: Path):
    made = network().eval().requires_grad_(False)
    config = hifigan_config(HOP, UNITS, 2, pitch=UNITS, hops={"pitch": 8 * HOP}, channels=16)
    HifiganVocoder(config, made, ("everybody", "Ada"), ()).save(tmp_path)
    loaded = HifiganVocoder.load(tmp_path)
    assert loaded.speakers == ("everybody", "Ada")
    assert loaded.config == config
    codes = clips(1)[0].codes
    spoken = loaded.synthesize(codes[0], codes[1][::8], speaker=1, predict_durations=False)
    assert np.array_equal(spoken, made(torch.from_numpy(codes), 1, 0).numpy())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "generator.safetensors", "speakers.txt"]

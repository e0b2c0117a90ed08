"""Levels and channels: flat tops at any level, and a mix in which no voice is lost."""

import numpy as np
import numpy.typing as npt
import pytest

from tinywave_core.audio.levels import Levels, Mix

RATE = 22_050
Samples = npt.NDArray[np.float32]


def levels(*channels: Samples, rate: int = RATE) -> Levels:
    samples_NC = np.ascontiguousarray(np.stack(channels, axis=1), dtype=np.float32)
    found = Levels(len(channels), rate)
    for start in range(0, len(samples_NC), 65_536):
        found.add(samples_NC[start : start + 65_536])
    return found


def mixed(mix: Mix, *channels: Samples) -> Samples:
    return np.asarray(np.stack(channels, axis=1) @ mix.weights_C, np.float32)


def loud(samples_N: Samples) -> Samples:
    return samples_N / np.abs(samples_N).max()


def sixteen_bits(samples_N: Samples) -> Samples:
    return np.rint(samples_N * 32_767).astype(np.int16) / np.float32(32_768)


@pytest.mark.parametrize("top", [1.0, 0.99, 0.5, 0.1])
def test_clipping_is_seen_at_whatever_level_it_happened(top: float, sentence: Samples) -> None:
    clipped_N = np.clip(2 * loud(sentence), -1, 1)
    share = float(np.mean(np.abs(clipped_N) == 1))
    assert share > 0.002
    assert levels(sixteen_bits(top * clipped_N)).flat_share == pytest.approx(share, rel=0.3)
    assert levels(sixteen_bits(top * loud(sentence))).flat_share < 1e-4


def test_one_clipped_side_or_one_clipped_channel_is_seen(sentence: Samples) -> None:
    one_side = np.minimum(2 * loud(sentence), 1) / 2
    assert levels(sixteen_bits(one_side)).flat_share > 5e-4
    channels = [sixteen_bits(0.9 * loud(sentence)), sixteen_bits(0.3 * one_side)]
    assert levels(*channels).flat_share == levels(*channels[::-1]).flat_share > 5e-4


def test_channels_that_have_little_or_all_in_common_are_averaged(sentence: Samples) -> None:
    right = np.roll(sentence, 9_000)
    assert levels(sentence, right).mix().rule == "mean"
    assert levels(sentence, sentence).mix().rule == "mean"
    assert levels(sentence, sentence).correlation == pytest.approx(1)


@pytest.mark.parametrize(
    ("right", "rule"),
    [(1.0, "mean"), (-1.0, "flipped"), (-0.4, "flipped"), (0.0, "one channel")],
)
def test_the_rule_of_the_mix_is_told(right: float, rule: str, sentence: Samples) -> None:
    assert levels(sentence, right * sentence).mix().rule == rule


def test_one_channel_has_no_rule(sentence: Samples) -> None:
    assert levels(sentence).mix().rule is None


def test_channels_that_turn_into_antiphase_on_the_way_are_not_averaged_away(sentence: Samples) -> None:
    left, half = np.tile(sentence, 2), len(sentence)
    right = np.concatenate([0.8 * sentence, -0.8 * sentence])
    mix = levels(left, right).mix()
    assert mix.rule == "strongest"
    heard = mixed(mix, left, right)
    assert np.abs(heard[half:]).max() == pytest.approx(np.abs(sentence).max())


def test_two_voices_on_two_channels_alternate_and_are_both_in_the_mix(sentence: Samples) -> None:
    silence = np.zeros_like(sentence)
    left, right = np.concatenate([sentence, silence]), np.concatenate([silence, sentence[::-1]])
    found = levels(left, right)
    assert found.alternation is not None and found.alternation > 0.3
    heard = np.abs(mixed(found.mix(), left, right))
    assert min(heard[: len(sentence)].max(), heard[len(sentence) :].max()) > 0.4 * np.abs(sentence).max()


@pytest.mark.parametrize("right", [1.0, 0.3, -1.0, 0.001])
def test_one_voice_on_two_channels_does_not_alternate(right: float, sentence: Samples) -> None:
    hiss = np.random.default_rng(0).normal(0, 0.001, (2, len(sentence))).astype(np.float32)
    assert levels(sentence + hiss[0], right * sentence + hiss[1]).alternation < 0.02  # type: ignore[operator]


def test_a_voice_beside_a_channel_of_noise_is_no_dialogue(sentence: Samples) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, len(sentence)).astype(np.float32)
    assert levels(sentence, noise).alternation == 0

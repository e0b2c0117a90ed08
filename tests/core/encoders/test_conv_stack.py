"""The convolutions as matrix products: the numbers of PyTorch's own layers in float64, in blocks of any size.

PyTorch's float32 layers are no truth: on a CPU they are up to 2.0e-5 from float64 at values up to 58, these 1.9e-5.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.fixtures import release
from tinywave_core.encoders.conv_stack import ConvLayer, ConvStack, frame_count, hop_and_field
from tinywave_core.encoders.hubert import HubertEncoder

pytestmark = pytest.mark.arithmetic

HUBERT = tuple(ConvLayer(16, kernel, 5 if kernel == 10 else 2) for kernel in (10, 3, 3, 3, 3, 2, 2, 2))
WAV2VEC2 = HUBERT[:-1]
# Kernels of one tap, of less than a stride, and of more than two strides.
ODD = (ConvLayer(6, 4, 3), ConvLayer(5, 1, 1), ConvLayer(7, 2, 3), ConvLayer(4, 7, 3))


def random_stack(layers: tuple[ConvLayer, ...], seed: int = 0) -> ConvStack:
    stack, generator = ConvStack(layers), torch.Generator().manual_seed(seed)
    for weight in stack.weights:
        weight.normal_(generator=generator).mul_(2 / weight[0].numel() ** 0.5)
    stack.norm_weight.normal_(1, 0.1, generator=generator)
    stack.norm_bias.normal_(0, 0.1, generator=generator)
    return stack.prepare()


def by_torch(stack: ConvStack, wave: torch.Tensor) -> torch.Tensor:
    """The same with Conv1d, GroupNorm and GELU of PyTorch, in float64."""
    x = wave[None, None].double()
    for number, (layer, weight) in enumerate(zip(stack.layers, stack.weights, strict=True)):
        x = nn.functional.conv1d(x, weight.double(), stride=layer.stride)
        if number == 0:
            x = nn.functional.group_norm(x, layer.channels, stack.norm_weight.double(), stack.norm_bias.double())
        x = nn.functional.gelu(x)
    return x[0].T


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within a millionth of the largest value: 17 roundings of float32, after eight layers of up to 48 products each."""
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("layers", [HUBERT, WAV2VEC2, ODD], ids=["hubert", "wav2vec2", "odd"])
@pytest.mark.parametrize("samples", [720, 1280, 1999, 20_001, 80_000])
def test_features_are_those_of_convolution_group_norm_and_gelu(
    speech: torch.Tensor, layers: tuple[ConvLayer, ...], samples: int
) -> None:
    stack, wave = random_stack(layers), speech[20_000 : 20_000 + samples]
    assert_close(stack(wave), by_torch(stack, wave))


@pytest.mark.parametrize("block", [1, 3, 16, 1000])
def test_blocks_of_any_size_give_the_same(speech: torch.Tensor, block: int) -> None:
    stack = random_stack(HUBERT)
    whole = by_torch(stack, speech[:40_000])
    stack.block_frames = block
    assert_close(stack(speech[:40_000]), whole)


def test_offset_of_a_recording_does_not_matter_and_silence_is_the_bias() -> None:
    stack = random_stack(HUBERT)
    wave = 0.01 * torch.randn(8000, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(stack(wave + 0.75), stack(wave), rtol=0, atol=2e-3)
    assert torch.isfinite(stack(torch.zeros(8000))).all()
    torch.testing.assert_close(stack(torch.zeros(8000)), stack(torch.full((8000,), 0.5)), rtol=0, atol=1e-4)


@settings(max_examples=50)
@given(samples=st.integers(0, 5000), layers=st.sampled_from([HUBERT, WAV2VEC2, ODD]))
def test_every_length_has_as_many_frames_as_convolutions_give(samples: int, layers: tuple[ConvLayer, ...]) -> None:
    stack = random_stack(layers)
    _, field = hop_and_field(layers)
    expected = 0
    if samples >= field:
        expected = by_torch(stack, torch.zeros(samples)).shape[0]
    assert frame_count(samples, layers) == len(stack(torch.zeros(samples))) == expected


@pytest.mark.parametrize(
    ("samples", "frames"), [(719, 0), (720, 1), (1279, 1), (1280, 1), (1360, 2), (146_160, 228), (1_600_000, 2499)]
)
def test_frames_of_hubert_are_known(samples: int, frames: int) -> None:
    assert frame_count(samples, HUBERT) == frames


def test_hop_and_field_of_both_models_are_known() -> None:
    assert hop_and_field(HUBERT) == (640, 720)
    assert hop_and_field(WAV2VEC2) == (320, 400)


def test_full_size_gives_the_recorded_activations(full_hubert: HubertEncoder, speech: torch.Tensor) -> None:
    recorded = release.arrays()["act|conv_out"]
    found = full_hubert.convs(speech)[release.UNITS["act_rows"]].numpy()
    np.testing.assert_allclose(found, recorded, rtol=1e-4, atol=1e-4 * np.abs(recorded).max())

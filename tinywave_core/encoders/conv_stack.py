"""Waveform -> convolutional features of wav2vec 2.0 and HuBERT, one recording at a time, as plain matrix products.

Same numbers as the stack of `Conv1d`s (within float32 rounding), at about two thirds of its cost on a CPU: channels last, a
convolution is one product over paired frames, and the first one with its GroupNorm is a single affine map, whose mean and
variance follow from the 10 x 10 covariance of the input. Work goes in blocks of frames that stay in the cache.
Rows are never padded here: the GroupNorm of a recording sees that recording only, whatever it is batched with later.

Shapes: S samples, T frames, K kernel, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tinywave_core.devices import double

EPSILON = 1e-5  # of the GroupNorm


@dataclass(frozen=True)
class ConvLayer:
    """One convolution without padding."""

    channels: int
    kernel: int
    stride: int


def frame_count(samples: int, layers: tuple[ConvLayer, ...]) -> int:
    """Frames of a recording of so many samples."""
    frames = samples
    for layer in layers:
        frames = (frames - layer.kernel) // layer.stride + 1 if frames >= layer.kernel else 0
    return frames


def hop_and_field(layers: tuple[ConvLayer, ...]) -> tuple[int, int]:
    """Samples from one frame to the next, and samples that one frame sees."""
    hop, field = 1, 1
    for layer in layers:
        field += (layer.kernel - 1) * hop
        hop *= layer.stride
    return hop, field


class ConvStack(nn.Module):
    """Convolutions with GELU after each, GroupNorm with one group per channel after the first, no bias."""

    def __init__(self, layers: tuple[ConvLayer, ...]) -> None:
        super().__init__()
        self.layers = layers
        self.hop, self.field = hop_and_field(layers)
        channels = (1, *(layer.channels for layer in layers))
        self.weights = nn.ParameterList(
            torch.empty(layer.channels, inputs, layer.kernel)
            for layer, inputs in zip(layers, channels[:-1], strict=True)
        )
        self.norm_weight = nn.Parameter(torch.empty(channels[1]))
        self.norm_bias = nn.Parameter(torch.empty(channels[1]))
        self.requires_grad_(False)
        self._products: list[list[Tensor]] = []
        # Input frames of the widest layer in one block: a few MB, which second-level caches hold in part.
        self.block_frames = 16

    def prepare(self) -> "ConvStack":
        """Lay out the weights for the products; call it when they are loaded and on their device."""
        self._products = [
            _pieces(weight, layer.stride) for weight, layer in zip(self.weights[1:], self.layers[1:], strict=True)
        ]
        return self

    @torch.inference_mode()
    def forward(self, wave_S: Tensor) -> Tensor:
        """Features [T, C] of one recording."""
        frames = frame_count(len(wave_S), self.layers)
        features_TC = wave_S.new_empty(frames, self.layers[-1].channels)
        if not frames:
            return features_TC
        weight_KC, shift_C = self._first_layer(wave_S)
        block = self.block_frames if wave_S.device.type == "cpu" else frames
        for start in range(0, frames, block):
            stop = min(start + block, frames)
            part = wave_S[start * self.hop : (stop - 1) * self.hop + self.field]
            features_TC[start:stop] = self._block(part, weight_KC, shift_C)
        return features_TC

    def _first_layer(self, wave_S: Tensor) -> tuple[Tensor, Tensor]:
        """First convolution and GroupNorm over the whole recording as one map: inputs @ weight [K, C] + shift [C]."""
        first = self.layers[0]
        weight_CK = double(self.weights[0][:, 0])
        mean_K, covariance_KK = _moments(wave_S, first.kernel, first.stride)
        mean_C = weight_CK @ mean_K
        variance_C = ((weight_CK @ covariance_KK) * weight_CK).sum(dim=1)
        scale_C = double(self.norm_weight) / torch.sqrt(variance_C + EPSILON)
        shift_C = double(self.norm_bias) - mean_C * scale_C
        return (weight_CK * scale_C[:, None]).T.contiguous().to(wave_S), shift_C.to(wave_S)

    def _block(self, part_S: Tensor, weight_KC: Tensor, shift_C: Tensor) -> Tensor:
        first = self.layers[0]
        x_TC = torch.addmm(shift_C, part_S.unfold(0, first.kernel, first.stride), weight_KC)
        torch.ops.aten.gelu_(x_TC)
        for layer, products in zip(self.layers[1:], self._products, strict=True):
            channels = x_TC.shape[1]
            frames = (len(x_TC) - layer.kernel) // layer.stride + 1
            y_TC = x_TC.new_empty(frames, layer.channels)
            for number, weight in enumerate(products):
                rows = x_TC.as_strided(
                    (frames, len(weight)), (layer.stride * channels, 1), number * layer.stride * channels
                )
                if number:
                    y_TC.addmm_(rows, weight)
                else:
                    torch.mm(rows, weight, out=y_TC)
            x_TC = torch.ops.aten.gelu_(y_TC)
        return x_TC


def _pieces(weight: Tensor, stride: int) -> list[Tensor]:
    """Weights [C, C', K] as matrices [taps x C', C] over at most `stride` taps, so that their input rows do not overlap."""
    taps_KCC = weight.permute(2, 1, 0)
    return [part.reshape(-1, weight.shape[0]).contiguous() for part in taps_KCC.split(stride)]


def _moments(wave_S: Tensor, kernel: int, stride: int) -> tuple[Tensor, Tensor]:
    """Mean [K] and covariance [K, K] of the frames of a wave, in float64."""
    frames_TK = double(wave_S.unfold(0, kernel, stride))
    mean_K = frames_TK.mean(dim=0)
    centred_TK = frames_TK - mean_K
    return mean_K, centred_TK.T @ centred_TK / len(frames_TK)

"""HiFi-GAN's two judges of a waveform (Kong et al. 2020, arXiv 2010.05646, section 2.3): by period and by scale.

All have weight norm; the paper's first scale has spectral norm, which keeps vectors of its own beside the weights.

Shapes: B clips, S samples, C channels, P a period, T time steps of a layer.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

PERIODS = (2, 3, 5, 7, 11)
SCALES = 3
SLOPE = 0.1
Judgement = tuple[Tensor, list[Tensor]]
"""Scores [B, N], near 1 for true speech, and what each layer saw."""


class PeriodDiscriminator(nn.Module):
    """Sees every P-th sample as a column: what repeats in P samples."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        channels = [1, width, 4 * width, 16 * width, 32 * width, 32 * width]
        strides = [3, 3, 3, 3, 1]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(channels[i], channels[i + 1], (5, 1), (strides[i], 1), padding=(2, 0)))
            for i in range(len(strides))
        )
        self.last = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, samples_BS: Tensor) -> Judgement:
        missing = -samples_BS.shape[1] % self.period
        padded = F.pad(samples_BS[:, None], (0, missing), mode="reflect")
        return _judged(padded.unflatten(-1, (-1, self.period)), self.layers, self.last)


class ScaleDiscriminator(nn.Module):
    """Sees the waveform, whole or smoothed to a coarser scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Channels, kernel, stride and groups of each layer, in multiples of the width where the paper has 128.
        rows = [
            (1, width, 15, 1, 1),
            (width, width, 41, 2, 4),
            (width, 2 * width, 41, 2, 16),
            (2 * width, 4 * width, 41, 4, 16),
            (4 * width, 8 * width, 41, 4, 16),
            (8 * width, 8 * width, 41, 1, 16),
            (8 * width, 8 * width, 5, 1, 1),
        ]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv1d(inner, outer, kernel, stride, padding=kernel // 2, groups=min(groups, width)))
            for inner, outer, kernel, stride, groups in rows
        )
        self.last = weight_norm(nn.Conv1d(8 * width, 1, 3, padding=1))

    def forward(self, samples_BS: Tensor) -> Judgement:
        return _judged(samples_BS[:, None], self.layers, self.last)


def _judged(x: Tensor, layers: nn.ModuleList, last: nn.Module) -> Judgement:
    seen = []
    for layer in layers:
        x = F.leaky_relu(layer(x), SLOPE)
        seen.append(x)
    x = last(x)
    return x.flatten(1), [*seen, x]


class Discriminators(nn.Module):
    """All of them. `width` scales their layers: 32 gives the paper's sizes (periods 32 to 1024 channels, scales 128 to 1024)."""

    def __init__(self, width: int = 32, periods: Sequence[int] = PERIODS) -> None:
        super().__init__()
        self.periods = nn.ModuleList(PeriodDiscriminator(period, width) for period in periods)
        self.scales = nn.ModuleList(ScaleDiscriminator(4 * width) for _ in range(SCALES))

    def forward(self, samples_BS: Tensor) -> list[Judgement]:
        judged = [judge(samples_BS) for judge in self.periods]
        for scale in self.scales:
            judged.append(scale(samples_BS))
            samples_BS = F.avg_pool1d(samples_BS[:, None], 4, 2, padding=2)[:, 0]
        return judged


def loss_of_judges(true: list[Judgement], made: list[Judgement]) -> Tensor:
    """Least squares (Mao et al. 2017): true speech should score 1, what was made 0. Summed over the judges."""
    return torch.stack(
        [(1 - t).square().mean() + m.square().mean() for (t, _), (m, _) in zip(true, made, strict=True)]
    ).sum()


def loss_of_generator(true: list[Judgement], made: list[Judgement]) -> tuple[Tensor, Tensor]:
    """What the generator wants of them: a score of 1 each, and that each layer sees the same as of true speech (L1). Both summed."""
    adversarial = torch.stack([(1 - scores).square().mean() for scores, _ in made]).sum()
    features = torch.stack(
        [
            (t - m).abs().mean()
            for (_, seen), (_, of_made) in zip(true, made, strict=True)
            for t, m in zip(seen, of_made, strict=True)
        ]
    ).sum()
    return adversarial, features

"""The light vocoder as a network: codes by the frame -> two filters and a pitch for every 10 ms.

ConvNeXt blocks (as in Vocos, arXiv 2306.00814) read units, pitch codes, styles and a voice at 100 Hz. Instead of a spectrum
with phases, which takes an adversary to learn, the head gives the gains of two sources (pulses at the pitch and noise, as in
DDSP, arXiv 2001.04643): phases come from the sources, so a spectral loss is enough. Gains start as the mean envelope of a unit
between its neighbours, which least squares gives in seconds; what is learned is how speech differs from it.

Shapes: B rows of a batch, T frames at 25 Hz, F = 4 T rows at 100 Hz, C channels, M mel bands, K bins of the spectrum, S samples.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinywave_core.synthesis.source_filter import FFT_SAMPLES, HOP_SAMPLES, MELS, linear_envelope

ROWS = 4  # of a frame
BINS = FFT_SAMPLES // 2 + 1
KERNEL, EXPANSION = 7, 3
KINDS = ("units", "pitch", "style", "voice")
LOUDEST = 4.0  # largest log gain; sources have the level of white noise of variance 1
SEMITONES = 12.0  # scale of the pitch output


class Block(nn.Module):
    """ConvNeXt: a convolution in time per channel, then two layers over the channels, beside the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.along = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide = nn.Linear(channels, EXPANSION * channels)
        self.narrow = nn.Linear(EXPANSION * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x_BFC: Tensor) -> Tensor:
        inner = self.norm(self.along(x_BFC.transpose(1, 2)).transpose(1, 2))
        out: Tensor = x_BFC + self.scale * self.narrow(F.gelu(self.wide(inner)))
        return out


class LightNetwork(nn.Module):
    """Sizes are those of the tables: units, pitch codes, styles (0: none in these tokens) and voices, the first unnamed."""

    bins: Tensor  # [M, K] of a log-mel in a log gain
    silence: Tensor  # [K] log gain of log-mels of 0

    def __init__(self, sizes: dict[str, int], channels: int, blocks: int) -> None:
        super().__init__()
        # Log-mels that the previous frame's unit, the unit itself and the next one's add up to.
        self.envelopes = nn.Parameter(torch.zeros(3, sizes["units"], ROWS * MELS))
        silence = linear_envelope(np.zeros((1, MELS)))
        bins_MK = torch.from_numpy(linear_envelope(np.eye(MELS)) - silence).float()
        self.register_buffer("bins", bins_MK, persistent=False)
        self.register_buffer("silence", torch.from_numpy(silence[0]).float(), persistent=False)
        self.tables = nn.ModuleDict({kind: nn.Embedding(sizes[kind], channels) for kind in KINDS if sizes[kind]})
        self.near = nn.Conv1d(channels, channels, 3, padding=1)
        self.place = nn.Parameter(torch.randn(ROWS, channels) * 0.1)  # of a row within its frame
        self.blocks = nn.ModuleList(Block(channels) for _ in range(blocks))
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, 2 * BINS + 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.constant_(self.head.bias[: 2 * BINS], -0.5)  # two sources share the envelope

    @property
    def context(self) -> int:
        """Frames on each side of a frame that its rows depend on."""
        return 1 + -(-len(self.blocks) * (KERNEL // 2) // ROWS)

    def forward(self, codes: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log gains [B, F, 2, K] and semitones [B, F] from the voice's median, of codes [B, T] of each kind."""
        x_BTC = torch.stack([table(codes[kind]) for kind, table in self.tables.items()]).sum(0)
        x_BTC = x_BTC + self.near(x_BTC.transpose(1, 2)).transpose(1, 2)
        x_BFC = (x_BTC[:, :, None] + self.place).flatten(1, 2)
        for block in self.blocks:
            x_BFC = block(x_BFC)
        out = self.head(self.norm(x_BFC))
        gains = self._means(codes["units"])[:, :, None] + out[..., : 2 * BINS].unflatten(-1, (2, BINS))
        return LOUDEST - F.softplus(LOUDEST - gains), SEMITONES * out[..., -1]  # smoothly below LOUDEST

    def _means(self, units_BT: Tensor) -> Tensor:
        """Log gains [B, F, K] of units between their neighbours; at the ends a unit is its own neighbour."""
        around = torch.cat([units_BT[:, :1], units_BT, units_BT[:, -1:]], dim=1)
        length = units_BT.shape[1]
        mel = sum(table[around[:, position : position + length]] for position, table in enumerate(self.envelopes))
        assert isinstance(mel, Tensor)
        return mel.unflatten(-1, (ROWS, MELS)).flatten(1, 2) @ self.bins + self.silence


def filtered(gains_BF2K: Tensor, source_B2S: Tensor) -> Tensor:
    """Samples [B, S] of sources under log gains; S = 160 (F - 1)."""
    length = source_B2S.shape[-1]
    assert length == HOP_SAMPLES * (gains_BF2K.shape[1] - 1)
    spectrum_B2KF = spectrum(source_B2S.flatten(0, 1)).unflatten(0, (-1, 2))
    mixed_BKF = (spectrum_B2KF * gains_BF2K.exp().permute(0, 2, 3, 1)).sum(1)
    return torch.istft(mixed_BKF, FFT_SAMPLES, HOP_SAMPLES, window=_window(source_B2S), length=length)


def spectrum(samples_NS: Tensor, size: int = FFT_SAMPLES, hop: int = HOP_SAMPLES) -> Tensor:
    """Spectra [N, K, F] under Hann windows."""
    window = _window(samples_NS, size)
    return torch.stft(samples_NS, size, hop, window=window, pad_mode="constant", return_complex=True)


def _window(like: Tensor, size: int = FFT_SAMPLES) -> Tensor:
    return torch.hann_window(size, dtype=like.dtype, device=like.device)

"""Convolutional position embedding that padding cannot leak into: wav2vec 2.0's, and HuBERT's with BatchNorm in front.

The BatchNorm turns padding that was zero into something else, which the 128 frames wide convolution would mix into the last
64 frames of a shorter recording; so padding is zeroed after it. It cannot be folded into the convolution either: its shift
meets the zero padding at the edges. Shapes: B recordings, T frames, D width.
"""

import torch
from torch import Tensor, nn


class PositionConv(nn.Module):
    """GELU(conv(norm(x))) without the residual; keys `batch_norm.*` and `conv.*`."""

    def __init__(self, width: int, kernel: int, groups: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(width) if batch_norm else None
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor | None) -> Tensor:
        """Embeddings [B, T, D]; `valid_BT` is False on padding, None where there is none."""
        x_BDT = x_BTD.transpose(1, 2)
        if self.batch_norm is not None:
            x_BDT = self.batch_norm(x_BDT)
        if valid_BT is not None:
            x_BDT = x_BDT * valid_BT[:, None]
        y_BDT = self.conv(x_BDT)[..., : x_BDT.shape[2]]  # an even kernel gives one frame too many
        return torch.nn.functional.gelu(y_BDT).transpose(1, 2)


def valid_frames(lengths: list[int], device: torch.device) -> Tensor | None:
    """Mask [B, T] of frames that are not padding; None if all have the same length."""
    if len(set(lengths)) == 1:
        return None
    return torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]

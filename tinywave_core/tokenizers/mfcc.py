"""Waveform -> 39 cepstral features (13 MFCC, their first and second differences) at 25 Hz, one row per HuBERT frame.

Frame t covers samples 640 t … 640 t + 719: three 25 ms windows 10 ms apart, which are averaged. HuBERT's first-iteration
targets (arXiv 2106.07447, section 3.1), at SpiritLM's rate. Level and mean cepstrum of the utterance are removed, so that
units say what was spoken rather than by whom and how loud. All of it is float64, constants too: CPUs differ by 1e-12 then, and
`kmeans` says why that makes units exact.

Shapes: n samples, T frames at 25 Hz, F windows at 100 Hz.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from tinywave_core.audio.mel import mel_filters
from tinywave_core.storage.schemas import SAMPLE_RATE

FRAME_SAMPLES, FIELD_SAMPLES = 640, 720  # hop and receptive field of HuBERT's 25 Hz model
WINDOW_SAMPLES, HOP_SAMPLES = 400, 160  # 25 ms every 10 ms
# Four hops make a frame, but only three windows lie inside HuBERT's field: 2 * 160 + 400 = 720 samples.
WINDOWS_PER_FRAME, WINDOWS_INSIDE = 4, 3
CEPSTRA, FEATURES = 13, 39
MEL_BANDS, LOWEST_HZ, LOG_OFFSET = 40, 40.0, 1e-6
# Windows this far under the loudest do not count in the mean: else it would say how much silence there is.
SPEECH_RANGE_DB = 40.0

Features = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]


def frame_count(num_samples: int) -> int:
    """Frames at 25 Hz of an utterance: HuBERT's count."""
    return (num_samples - FIELD_SAMPLES) // FRAME_SAMPLES + 1 if num_samples >= FIELD_SAMPLES else 0


def mfcc(samples: Samples) -> Features:
    """Features [T, 39] of mono speech at 16 kHz; depends on this utterance only, and not on its level."""
    frames = frame_count(len(samples))
    if not frames:
        return np.zeros((0, FEATURES))
    waveform = torch.from_numpy(samples.astype(np.float64))
    rms = waveform.square().mean().sqrt().item()
    windows_FS = waveform.unfold(0, WINDOW_SAMPLES, HOP_SAMPLES)
    # At one level for all, LOG_OFFSET means the same in quiet and loud recordings; silence has no level to divide by.
    own_CF = _cepstra(windows_FS / rms * 0.1 if rms else windows_FS)
    power_F = windows_FS.square().mean(dim=1)
    speech_F = power_F >= power_F.max() * 10 ** (-SPEECH_RANGE_DB / 10)
    cepstra_CF = (own_CF - own_CF[:, speech_F].mean(dim=1, keepdim=True)).numpy()
    delta_CF = _delta(cepstra_CF)
    windows_CF = np.concatenate([cepstra_CF, delta_CF, _delta(delta_CF)])
    inside_TW = np.arange(frames)[:, None] * WINDOWS_PER_FRAME + np.arange(WINDOWS_INSIDE)
    return np.ascontiguousarray(windows_CF[:, inside_TW].mean(axis=2).T)


def _delta(values_CF: Features) -> Features:
    """Slope over five windows, ends held: torchaudio's compute_deltas, whose convolution is slow on a busy machine."""
    padded = np.pad(values_CF, ((0, 0), (2, 2)), mode="edge")
    return (2 * (padded[:, 4:] - padded[:, :-4]) + padded[:, 3:-1] - padded[:, 1:-3]) / 10


def _cepstra(windows_FS: torch.Tensor) -> torch.Tensor:
    """MFCC [C, F] of windows: cosine transform of the log of mel bands of the power spectrum."""
    window_S, mel_KM, cosines_MC = _constants()
    power_FK = torch.fft.rfft(windows_FS * window_S).abs().square()
    return (torch.log(power_FK @ mel_KM + LOG_OFFSET) @ cosines_MC).T


@cache
def _constants() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hann window, mel filters, and the orthonormal cosine transform (DCT-II)."""
    window_S = torch.hann_window(WINDOW_SAMPLES, dtype=torch.float64)
    # Not torchaudio's filters: they are float32, and by them features differed by 1e-7 between CPUs, and so did codebooks.
    mel_KM = mel_filters(WINDOW_SAMPLES // 2 + 1, MEL_BANDS, SAMPLE_RATE, LOWEST_HZ, "htk")
    angles_MC = np.pi / MEL_BANDS * (np.arange(MEL_BANDS)[:, None] + 0.5) * np.arange(CEPSTRA)
    cosines_MC = np.cos(angles_MC) * np.sqrt(2 / MEL_BANDS)
    cosines_MC[:, 0] = np.sqrt(1 / MEL_BANDS)
    return window_S, torch.from_numpy(mel_KM), torch.from_numpy(cosines_MC)

"""Waveform -> 39 cepstral features (13 MFCC, their first and second differences) at 25 Hz, one row per HuBERT frame.

Frame t covers samples 640 t … 640 t + 719: three 25 ms windows 10 ms apart, which are averaged. HuBERT's first-iteration
targets (arXiv 2106.07447, section 3.1), at SpiritLM's rate. Level and mean cepstrum of the utterance are removed, so that
units say what was spoken rather than by whom and how loud. Float64 inside: see `kmeans` for why that makes units exact.

Shapes: n samples, T frames at 25 Hz, F windows at 100 Hz.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
import torchaudio

SAMPLE_RATE = 16_000
FRAME_SAMPLES, FIELD_SAMPLES = 640, 720  # hop and receptive field of HuBERT's 25 Hz model
WINDOW_SAMPLES, HOP_SAMPLES = 400, 160  # 25 ms every 10 ms
WINDOWS_PER_FRAME, WINDOWS_INSIDE = 4, 3
CEPSTRA, FEATURES = 13, 39
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
    cepstra_CF = _transform()(waveform / rms * 0.1 if rms else waveform)
    power_F = waveform.unfold(0, WINDOW_SAMPLES, HOP_SAMPLES).square().mean(dim=1)
    speech_F = power_F >= power_F.max() * 10 ** (-SPEECH_RANGE_DB / 10)
    cepstra_CF = (cepstra_CF - cepstra_CF[:, speech_F].mean(dim=1, keepdim=True)).numpy()
    delta_CF = _delta(cepstra_CF)
    windows_CF = np.concatenate([cepstra_CF, delta_CF, _delta(delta_CF)])
    inside_TW = np.arange(frames)[:, None] * WINDOWS_PER_FRAME + np.arange(WINDOWS_INSIDE)
    return np.ascontiguousarray(windows_CF[:, inside_TW].mean(axis=2).T)


def _delta(values_CF: Features) -> Features:
    """Slope over five windows, ends held: torchaudio's compute_deltas, whose convolution is slow on a busy machine."""
    padded = np.pad(values_CF, ((0, 0), (2, 2)), mode="edge")
    return (2 * (padded[:, 4:] - padded[:, :-4]) + padded[:, 3:-1] - padded[:, 1:-3]) / 10


@cache
def _transform() -> torchaudio.transforms.MFCC:
    settings = {"n_fft": WINDOW_SAMPLES, "hop_length": HOP_SAMPLES, "center": False, "n_mels": 40, "f_min": 40.0}
    return torchaudio.transforms.MFCC(SAMPLE_RATE, n_mfcc=CEPSTRA, log_mels=True, melkwargs=settings).double()

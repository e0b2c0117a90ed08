"""Log-mel spectra of 16 kHz speech at 100 Hz, and back to linear envelopes.

Shapes: F rows at 100 Hz, M mel bands.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from tinywave_core.audio.mel import mel_filters
from tinywave_core.storage.schemas import SAMPLE_RATE

MELS = 80
FFT_SAMPLES, HOP_SAMPLES = 512, 160
LOG_FLOOR = 1e-5
NOISE_MAGNITUDE = 0.5 * float(np.sqrt(np.pi * 0.375 * 512))  # mean STFT magnitude of white noise, Hann window of 512


def log_mel(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Natural log of the mel magnitudes [F, M]; frame i is centred on sample 160 i."""
    # As `torch.stft` asks for half a window to reflect, what is shorter is padded.
    waveform = torch.from_numpy(np.pad(samples, (0, max(FFT_SAMPLES - len(samples), 0))).astype(np.float64))
    window = torch.hann_window(FFT_SAMPLES, dtype=torch.float64)
    spectrum = torch.stft(waveform, FFT_SAMPLES, HOP_SAMPLES, window=window, return_complex=True)
    mel_FM = spectrum.abs().T.numpy() @ mel_filters(FFT_SAMPLES // 2 + 1, MELS, SAMPLE_RATE, 0.0, "slaney")
    return np.log(np.maximum(mel_FM, LOG_FLOOR))


@cache
def _bands() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Where each mel band has its middle, as an FFT bin, and the log of its response to a flat spectrum."""
    bank = mel_filters(FFT_SAMPLES // 2 + 1, MELS, SAMPLE_RATE, 0.0, "slaney")
    return (bank * np.arange(len(bank))[:, None]).sum(axis=0) / bank.sum(axis=0), np.log(bank.sum(axis=0))


def linear_envelope(log_mel_FM: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log gain [F, 257] that gives a flat excitation this mel spectrum."""
    middles, response = _bands()
    flat = log_mel_FM - response - np.log(NOISE_MAGNITUDE)
    bins = np.arange(FFT_SAMPLES // 2 + 1)
    right = np.clip(np.searchsorted(middles, bins), 1, MELS - 1)
    share = np.clip((bins - middles[right - 1]) / (middles[right] - middles[right - 1]), 0.0, 1.0)
    return flat[:, right - 1] * (1 - share) + flat[:, right] * share

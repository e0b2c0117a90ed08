"""A source and a filter: log-mel envelopes and a pitch contour at 100 Hz -> 16 kHz speech, as they come.

The excitation is a pulse train at the pitch where voiced and noise elsewhere; its phases go on from one row to the next.
Griffin and Lim's iterations (1984) run on blocks of 0.2 s with 0.12 s on each side, whose places are fixed, and one block
fades into the next. So audio needs 0.12 s of look-ahead, and is the same however its rows arrive.

Shapes: M mel bands, F rows at 100 Hz; row i is centred on sample 160 i.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from tinywave_core.audio.mel import mel_filters
from tinywave_core.synthesis.windows import windows

SAMPLE_RATE = 16_000
MELS = 80
FFT_SAMPLES, HOP_SAMPLES = 512, 160
BLOCK_ROWS, CONTEXT_ROWS = 20, 12
FADE_SAMPLES = 160
# Exponent of the harmonics' ripple; 0 is plain Griffin-Lim. Held-out log-mel correlation and share of the voiced frames
# that have the coded F0, 8 iterations (LibriSpeech, 100 units): 0: 0.81, 0.10; 0.3: 0.82, 0.80; 0.5: 0.81, 0.95; 0.7: 0.79, 0.97.
HARMONIC_DEPTH = 0.7
TONAL_BELOW_HZ = 4000.0  # voiced speech is noisy above
NOISE_MAGNITUDE = 0.5 * float(np.sqrt(np.pi * 0.375 * 512))  # mean STFT magnitude of white noise, Hann window of 512
KNEE, PEAK = 0.7, 0.95  # samples beyond the knee are bent so that none passes the peak

_Array = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Outline:
    """The target of some rows: envelope, pitch and voicing."""

    log_mel: _Array  # [F, M]
    semitones: _Array  # [F + 1] from the voice's median, up to the next row
    voiced: _Array  # [F] 0 … 1


@dataclass(frozen=True)
class _Row:
    log_mel: _Array  # [M]
    voiced: float
    source: _Array  # [2, 160] pulses and noise of its 10 ms


def speak(outlines: Iterable[Outline], median_hz: float, iterations: int) -> Iterator[Samples]:
    """Audio of the rows in blocks; the last row is where it ends."""
    rows = _excited(outlines, median_hz)
    tail = np.zeros(0)  # of the last block, beyond its end
    for window, start, stop in windows(rows, CONTEXT_ROWS, CONTEXT_ROWS, BLOCK_ROWS):
        samples = _filtered(window, iterations)
        block = samples[start * HOP_SAMPLES : stop * HOP_SAMPLES].copy()
        fade = (np.arange(len(tail)) + 0.5) / max(len(tail), 1)
        block[: len(tail)] = block[: len(tail)] * fade + tail * (1 - fade)
        tail = samples[stop * HOP_SAMPLES :][:FADE_SAMPLES]
        yield limited(block).astype(np.float32)


def limited(samples: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Bend samples above the knee: a limiter that needs no look-ahead."""
    loud, room = np.abs(samples), PEAK - KNEE
    return np.sign(samples) * np.where(loud < KNEE, loud, KNEE + room * np.tanh((loud - KNEE) / room))


def _excited(outlines: Iterable[Outline], median_hz: float) -> Iterator[_Row]:
    """Rows, each with its source, continuous from one row to the next."""
    source = Source(median_hz)
    for outline in outlines:
        parts = source.rows(outline.semitones)
        for log_mel, voiced, part in zip(outline.log_mel, outline.voiced, parts, strict=True):
            yield _Row(log_mel, float(voiced), part)


class Source:
    """Pulses and noise of a voice, row after row."""

    def __init__(self, median_hz: float) -> None:
        self._median_hz = median_hz
        self._phase, self._random = 1e-3, np.random.default_rng(0)

    def rows(self, semitones: _Array) -> _Array:
        """Pulses and noise [F, 2, 160] of the next rows; semitones [F + 1] from the voice's median, up to the row after them."""
        times = np.arange((len(semitones) - 1) * HOP_SAMPLES) / HOP_SAMPLES
        f0_hz = self._median_hz * 2 ** (np.interp(times, np.arange(len(semitones)), semitones) / 12)
        phases = self._phase + np.pi * np.cumsum(f0_hz / SAMPLE_RATE)
        self._phase = float(phases[-1] % np.pi)
        both = np.stack([_pulses(f0_hz, phases), self._random.standard_normal(len(times))])
        return both.reshape(2, -1, HOP_SAMPLES).transpose(1, 0, 2)


def _pulses(f0_hz: _Array, half_phase: _Array) -> _Array:
    """All harmonics of the contour below 8 kHz, in phase, with the mean STFT magnitude of white noise."""
    count = np.floor(7600.0 / f0_hz)
    # Closed form of the sum of cos(h phase), h = 1 … count (Dirichlet kernel), which has the period pi of the half phase. Near 0
    # both sines are small; there they are exact, and at 0 the limit is the count.
    near_0 = half_phase - np.pi * np.round(half_phase / np.pi)
    sine, top = np.sin(near_0), np.sin((2 * count + 1) * near_0)
    harmonics = np.divide(top, 2 * sine, out=count + 0.5, where=sine != 0) - 0.5
    # A Hann window of 512 spreads a cosine of amplitude 1 over the spectrum with a mean of 8000 / F0.
    return harmonics * f0_hz * NOISE_MAGNITUDE / 8000.0


def _filtered(rows: list[_Row], iterations: int) -> _Array:
    """Samples [160 (F - 1)] whose spectrum follows the envelope: harmonics where voiced (below 4 kHz), noise for the rest."""
    length = (len(rows) - 1) * HOP_SAMPLES
    harmonics, noise = (_spectrum(source[:length]) for source in np.concatenate([row.source for row in rows], axis=1))
    voiced_F = np.array([row.voiced for row in rows])
    # Only the phase of the noise is kept: its magnitude would ruffle the envelope by 5 dB.
    noise *= NOISE_MAGNITUDE / np.maximum(np.abs(noise), 1e-9)
    frequencies = np.arange(FFT_SAMPLES // 2 + 1) * SAMPLE_RATE / FFT_SAMPLES
    tonal = voiced_F[:, None] / (1 + np.exp((frequencies - TONAL_BELOW_HZ) / 400.0))
    excitation = harmonics * tonal + noise * (1 - tonal)
    ripple = np.maximum(np.abs(excitation) / NOISE_MAGNITUDE, 1e-3)
    envelope = linear_envelope(np.stack([row.log_mel for row in rows]))
    spectrum = excitation * np.exp(envelope) * ripple ** (HARMONIC_DEPTH - 1)
    magnitude = np.abs(spectrum)
    for _ in range(iterations):  # from the excitation's phase instead of a random one
        spectrum = _spectrum(_samples(spectrum, length))
        spectrum *= magnitude / np.maximum(np.abs(spectrum), 1e-9)
    return _samples(spectrum, length)


def _spectrum(samples: _Array) -> npt.NDArray[np.complex128]:
    return torch.stft(
        torch.from_numpy(samples), FFT_SAMPLES, HOP_SAMPLES, window=_window(), pad_mode="constant", return_complex=True
    ).T.numpy()


def _samples(spectrum: npt.NDArray[np.complex128], length: int) -> _Array:
    return torch.istft(torch.from_numpy(spectrum).T, FFT_SAMPLES, HOP_SAMPLES, window=_window(), length=length).numpy()


@cache
def _window() -> torch.Tensor:
    return torch.hann_window(FFT_SAMPLES, dtype=torch.float64)


@cache
def _bands() -> tuple[_Array, _Array]:
    """Where each mel band has its middle, as an FFT bin, and the log of its response to a flat spectrum."""
    bank = mel_filters(FFT_SAMPLES // 2 + 1, MELS, SAMPLE_RATE, 0.0, "slaney")
    return (bank * np.arange(len(bank))[:, None]).sum(axis=0) / bank.sum(axis=0), np.log(bank.sum(axis=0))


def linear_envelope(log_mel_FM: _Array) -> _Array:
    """Log gain [F, 257] that gives a flat excitation this mel spectrum."""
    middles, response = _bands()
    flat = log_mel_FM - response - np.log(NOISE_MAGNITUDE)
    bins = np.arange(FFT_SAMPLES // 2 + 1)
    right = np.clip(np.searchsorted(middles, bins), 1, MELS - 1)
    share = np.clip((bins - middles[right - 1]) / (middles[right] - middles[right - 1]), 0.0, 1.0)
    return flat[:, right - 1] * (1 - share) + flat[:, right] * share

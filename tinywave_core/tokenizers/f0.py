"""Waveform -> F0 in Hz at 100 Hz, 0 where unvoiced: normalised autocorrelation after Boersma (1993).

Per 50 ms Hann window: autocorrelation by FFT, divided by the window's own; peaks between 60 and 400 Hz are candidates,
the unvoiced one stands beside them, and the cheapest path over time wins. One thread, numpy only, so it is the same
everywhere. Frame i is centred on sample 160 i. SpiritLM's extractor (FCPE) needs a released model; this needs none.

Shapes: F frames at 100 Hz, L lags, K candidates (the first one is "unvoiced").
"""

import numpy as np
import numpy.typing as npt

from tinywave_core.storage.schemas import SAMPLE_RATE

HOP_SAMPLES = 160
LOWEST_HZ, HIGHEST_HZ = 60.0, 400.0
WINDOW_SAMPLES = 800  # three periods of the lowest F0
FFT_SAMPLES = 1080  # at least window + longest lag, and a product of small primes
# Whole samples: a period of HIGHEST_HZ, and one of LOWEST_HZ rounded up, so that this F0 still lies inside.
SHORTEST_LAG, LONGEST_LAG = 40, 267
# Formants above this hold little of the periodicity, and the smoother autocorrelation takes a parabola better.
LOWPASS_HZ = 2500.0
# Mains hum (50 or 60 Hz) is as periodic as a voice; a low voice is still heard by its harmonics.
HUM_HZ = 110.0
CANDIDATES = 8
# Praat's defaults, in units of normalised autocorrelation, but for the octave cost: with 0.01 very even tones came out
# an octave too low.
VOICING_THRESHOLD, SILENCE_THRESHOLD = 0.45, 0.03
OCTAVE_COST, OCTAVE_JUMP_COST, VOICING_CHANGE_COST = 0.03, 0.35, 0.14
SILENT_RMS = 1e-4  # of full scale: dither and digital silence are never voiced

F0 = npt.NDArray[np.float64]
_Array = npt.NDArray[np.float64]


def frame_count(num_samples: int) -> int:
    """Frames at 100 Hz, one every 160 samples from the first on."""
    return num_samples // HOP_SAMPLES + 1


def f0_hz(samples: npt.NDArray[np.float32]) -> F0:
    """F0 [F] in Hz of mono speech at 16 kHz, 0.0 where unvoiced."""
    windows_FS = _windows(samples)
    correlation_FL, power_F = _autocorrelation(windows_FS)
    f0_FK, strength_FK = _candidates(correlation_FL)
    strength_FK[:, 0] = _unvoiced_strength(np.sqrt(power_F))
    path_F = _best_path(f0_FK, strength_FK)
    return f0_FK[np.arange(len(path_F)), path_F]


def _windows(samples: npt.NDArray[np.float32]) -> _Array:
    # In float64: CPUs then differ by 1e-12 only, and codes come out the same on all of them.
    padded = np.pad(samples.astype(np.float64), WINDOW_SAMPLES // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    windows = windows[: frame_count(len(samples))]
    return windows - windows.mean(axis=1, keepdims=True)


def _autocorrelation(windows_FS: _Array) -> tuple[_Array, _Array]:
    """Normalised autocorrelation [F, L] at lags 0 … LONGEST_LAG + 1 without the window's own decay, and power [F]."""
    window_S = np.hanning(WINDOW_SAMPLES + 2)[1:-1]
    low = int(LOWPASS_HZ * FFT_SAMPLES / SAMPLE_RATE)
    spectrum = np.fft.rfft(windows_FS * window_S, FFT_SAMPLES)[:, :low]
    frequencies = np.arange(low) * SAMPLE_RATE / FFT_SAMPLES
    weight = 1 / (1 + (HUM_HZ / np.maximum(frequencies, 1.0)) ** 8)
    power = (np.square(spectrum.real) + np.square(spectrum.imag)) * weight
    # One lag more than is searched: a peak at the last one needs its neighbour for the parabola.
    raw_FL = np.fft.irfft(power, FFT_SAMPLES)[:, : LONGEST_LAG + 2]
    own_L = np.fft.irfft(np.square(np.abs(np.fft.rfft(window_S, FFT_SAMPLES))), FFT_SAMPLES)[: LONGEST_LAG + 2]
    # Without the division by the window's own, longer lags would look weaker, and the octave above could win (Boersma 1993).
    normalised_FL = raw_FL / np.maximum(raw_FL[:, :1], 1e-12) / (own_L / own_L[0])
    return normalised_FL, np.maximum(raw_FL[:, 0], 0.0) / np.square(window_S).sum()


def _candidates(correlation_FL: _Array) -> tuple[_Array, _Array]:
    """F0 and strength [F, K] of the strongest peaks, placed between lags by a parabola; column 0 is left unvoiced."""
    left = correlation_FL[:, SHORTEST_LAG - 1 : LONGEST_LAG]
    here = correlation_FL[:, SHORTEST_LAG : LONGEST_LAG + 1]
    right = correlation_FL[:, SHORTEST_LAG + 1 : LONGEST_LAG + 2]
    peak = (here > left) & (here >= right) & (here > 0.5 * VOICING_THRESHOLD)
    curvature = np.where(peak, left - 2 * here + right, -1.0)
    shift = np.where(peak, 0.5 * (left - right) / curvature, 0.0)
    height = here - 0.25 * (left - right) * shift
    lag = np.arange(SHORTEST_LAG, LONGEST_LAG + 1) + shift
    # A parabola can rise above 1, which no correlation does. Every multiple of a period is a period as well, and as strong in an
    # even tone: the octave cost lets the shortest one win.
    strength = np.minimum(height, 1.0) - OCTAVE_COST * np.log2(LOWEST_HZ * lag / SAMPLE_RATE)
    strength = np.where(peak, strength, -np.inf)
    # Stable: equal strengths must come in the same order on every CPU.
    best = np.argsort(-strength, axis=1, kind="stable")[:, : CANDIDATES - 1]
    strength_FK = np.take_along_axis(strength, best, axis=1)
    f0_FK = np.where(np.isfinite(strength_FK), SAMPLE_RATE / np.take_along_axis(lag, best, axis=1), 0.0)
    return np.pad(f0_FK, ((0, 0), (1, 0))), np.pad(strength_FK, ((0, 0), (1, 0)))


def _unvoiced_strength(rms_F: _Array) -> _Array:
    """How well "unvoiced" fits: the more so, the quieter the frame is beside the loudest."""
    loudest = max(float(rms_F.max(initial=0.0)), 1e-12)
    quietness = 2.0 - (rms_F / loudest) * (1 + VOICING_THRESHOLD) / SILENCE_THRESHOLD
    return np.where(rms_F < SILENT_RMS, np.inf, VOICING_THRESHOLD + np.maximum(quietness, 0.0))


def _best_path(f0_FK: _Array, strength_FK: _Array) -> npt.NDArray[np.int64]:
    """Viterbi: candidate of each frame that gives the most strength after the costs of jumps."""
    voiced = f0_FK > 0
    octaves = np.log2(np.where(voiced, f0_FK, 1.0))
    jump = OCTAVE_JUMP_COST * np.abs(octaves[1:, None, :] - octaves[:-1, :, None])
    changes = voiced[1:, None, :] != voiced[:-1, :, None]
    both = voiced[1:, None, :] & voiced[:-1, :, None]
    cost = np.where(changes, VOICING_CHANGE_COST, np.where(both, jump, 0.0))
    # A frame that must be unvoiced has infinite strength there; finite numbers keep the sums comparable.
    gain_FK = np.clip(strength_FK, -1e6, 1e3)
    total_K = gain_FK[0]
    back = np.zeros(f0_FK.shape, np.int64)
    for frame in range(1, len(f0_FK)):
        reached = total_K[:, None] - cost[frame - 1]
        back[frame] = reached.argmax(axis=0)
        total_K = reached.max(axis=0) + gain_FK[frame]
    path = np.zeros(len(f0_FK), np.int64)
    path[-1] = total_K.argmax()
    for frame in range(len(f0_FK) - 1, 0, -1):
        path[frame - 1] = back[frame, path[frame]]
    return path

"""How good one utterance is as speech, in numbers: 16-bit mono samples at 16 kHz in, `Measures` out. No thresholds here.

Signal-to-noise ratio without a model of noise: the VAD says which windows of 32 ms are speech and which are pause, and the mean power
of the pauses, away from speech, is the noise. On examples/speech with noise mixed in at 0 to 20 dB its median is off by less than 0.5 dB for white noise and
tones of music, and 2 dB too high for pink noise; an estimate from the quietest tenth of windows is 2 to 6 dB too high, WADA-SNR (Kim and Stern, 2008) spreads three times
as wide (`make bench-filters`, infra/decisions/0039-what-is-left-out.md). Where an utterance has no pause, as in the babble of others, the
quietest tenth is what there is; there it says up to 6 dB too much. Shapes: N samples, W windows of the VAD.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinywave_core.audio.levels import Levels
from tinywave_core.audio.quality import LOWEST_PEAK, sounding_bands, upper_edge_hz
from tinywave_core.audio.vad import WINDOW, speech_probabilities
from tinywave_core.storage.schemas import SAMPLE_RATE

FULL = 32_768.0
SPEECH, PAUSE = 0.5, 0.15  # probability of speech from which a window is speech, and below which it is a pause
# Beside speech the VAD is late by a few windows: at the first word of a recording it says pause for up to 0.1 s. Of 232 clean recordings six came
# out below 8 dB by that, one at -20 dB; with this margin the lowest is 13 dB.
MARGIN = 4  # windows
FEWEST_PAUSES = 6  # windows, 0.2 s: fewer say little
QUIETEST = 0.1
# A window below one step of 16 bits was written by an editor or a gate, not heard by a microphone.
DIGITAL_SILENCE = (1 / FULL) ** 2
LOWEST_DB, HIGHEST_DB = -20.0, 80.0


@dataclass(frozen=True)
class Measures:
    """Of one utterance; None is what cannot be measured, because it has no speech or is too short."""

    snr_db: float | None
    bandwidth_hz: float | None
    clipped_share: float
    level_db: float | None
    speech_share: float


def measure(samples_N: npt.NDArray[np.int16]) -> Measures:
    """All of them; the same samples give the same numbers."""
    probabilities_W = speech_probabilities(samples_N)
    power_W = window_power(samples_N)
    # The last window of the VAD is filled up with zeros: its power would be too low.
    whole_W = probabilities_W[: len(power_W)]
    speech_W = power_W[whole_W >= SPEECH]
    return Measures(
        snr_db=snr_db(power_W, whole_W),
        bandwidth_hz=bandwidth_hz(samples_N),
        clipped_share=clipped_share(samples_N),
        level_db=_db(float(speech_W.mean())) if len(speech_W) else None,
        speech_share=float(np.mean(probabilities_W >= SPEECH)) if len(probabilities_W) else 0.0,
    )


def window_power(samples_N: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """Mean square [W] of each whole window, 1 at full scale, without its offset."""
    windows = samples_N[: len(samples_N) // WINDOW * WINDOW].reshape(-1, WINDOW) / FULL
    return np.asarray(windows.var(axis=1))


def snr_db(power_W: npt.NDArray[np.float64], probabilities_W: npt.NDArray[np.float32]) -> float | None:
    """Speech over noise in dB, between -20 and 80; None without speech, or without anything but speech and digital silence."""
    heard_W = power_W > DIGITAL_SILENCE
    speech_W = power_W[heard_W & (probabilities_W >= SPEECH)]
    if not len(speech_W):
        return None
    pauses_W = power_W[heard_W & _deep_pauses(probabilities_W)]
    if len(pauses_W) < FEWEST_PAUSES:
        quiet_W = np.sort(power_W[heard_W])
        pauses_W = quiet_W[: max(1, round(QUIETEST * len(quiet_W)))]
    noise = float(pauses_W.mean())
    # What is heard while somebody speaks is speech and noise.
    speech = max(float(speech_W.mean()) - noise, 0.0)
    return float(np.clip(_db(speech / noise), LOWEST_DB, HIGHEST_DB))


def _deep_pauses(probabilities_W: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Windows that are pauses as their neighbours are, MARGIN to each side."""
    pause_W = probabilities_W < PAUSE
    deep_W = pause_W.copy()
    for step in range(1, MARGIN + 1):
        deep_W[step:] &= pause_W[:-step]
        deep_W[:-step] &= pause_W[step:]
    return deep_W


def bandwidth_hz(samples_N: npt.NDArray[np.int16]) -> float | None:
    """Up to where the speech sounds; None where that is not known, because noise covers what lies above, or it is too short."""
    bands = sounding_bands(samples_N, [(0, len(samples_N))])
    if bands is None or not bands[0].any():
        return None
    sounds_B, covered_B = bands
    above_B = covered_B[int(np.flatnonzero(sounds_B)[-1]) + 1 :]
    return None if above_B.any() else upper_edge_hz(sounds_B)


def clipped_share(samples_N: npt.NDArray[np.int16]) -> float:
    """Share of the samples on flat tops at the loudest, whatever level that is; 0 for what is so quiet that the steps of 16 bits are flat."""
    if not len(samples_N) or int(np.abs(samples_N.astype(np.int32)).max()) < LOWEST_PEAK * FULL:
        return 0.0
    levels = Levels(1, SAMPLE_RATE)
    levels.add((samples_N / FULL).astype(np.float32)[:, None])
    return levels.flat_share


def _db(power: float) -> float:
    return float(10 * np.log10(max(power, 1e-12)))

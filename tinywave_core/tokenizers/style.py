"""Prosody of each started second -> statistics that k-means turns into [St…] codes at 1 Hz.

Six numbers: level in dB beside the utterance's, spread of the level, F0 level and F0 range in semitones, voiced share,
and how fast the cepstrum moves (a stand-in for speaking rate). The count is that of SpiritLM's style encoder.

Shapes: S seconds, T frames at 25 Hz, F frames at 100 Hz.
"""

import numpy as np
import numpy.typing as npt

from tinywave_core.tokenizers import mfcc, pitch

STATISTICS = 6
QUIET_DB = -60.0


def code_count(num_samples: int) -> int:
    """Codes at 1 Hz: one per started 50 frames of wav2vec2's 50 Hz."""
    # 400 and 320 samples are field and hop of wav2vec2, of which SpiritLM's style encoder is made.
    frames = (num_samples - 400) // 320 + 1 if num_samples >= 400 else 0
    return -(-frames // 50)


def statistics(
    samples: mfcc.Samples, f0_hz: npt.NDArray[np.float64], features_TD: mfcc.Features
) -> npt.NDArray[np.float64]:
    """Prosody statistics [S, 6] of one utterance."""
    level_F = _level_db(samples)
    semitones_F = pitch.semitones(f0_hz)
    motion_T = np.abs(features_TD[:, mfcc.CEPSTRA : 2 * mfcc.CEPSTRA]).mean(axis=1)
    seconds = range(code_count(len(samples)))
    rows = [_row(_part(level_F, s, 100), _part(semitones_F, s, 100), _part(motion_T, s, 25)) for s in seconds]
    return np.array(rows).reshape(-1, STATISTICS)


def _part(values: npt.NDArray[np.float64], second: int, rate: int) -> npt.NDArray[np.float64]:
    """Values of one second; the last one where the second has only just begun."""
    part = values[second * rate : (second + 1) * rate]
    return part if len(part) else values[-1:]


def _row(
    level: npt.NDArray[np.float64], semitones: npt.NDArray[np.float64], motion: npt.NDArray[np.float64]
) -> list[float]:
    voiced = semitones[np.isfinite(semitones)]
    low, middle, high = np.percentile(voiced, [10, 50, 90]) if len(voiced) else (0.0, 0.0, 0.0)
    return [level.mean(), level.std(), middle, high - low, len(voiced) / len(semitones), motion.mean()]


def _level_db(samples: mfcc.Samples) -> npt.NDArray[np.float64]:
    """Level of each 10 ms in dB beside the utterance's RMS, at least QUIET_DB."""
    blocks = np.square(samples[: len(samples) // 160 * 160].astype(np.float64)).reshape(-1, 160).mean(axis=1)
    mean = blocks.mean()
    ratio = blocks / mean if mean > 0 else np.ones_like(blocks)
    return np.maximum(10 * np.log10(np.maximum(ratio, 1e-12)), QUIET_DB)

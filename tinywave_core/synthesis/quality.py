"""How close resynthesised speech is to the recording: figures that need no listener, with a floor and a ceiling beside them.

A voice has durations of its own, so clips are aligned first, by the path through both on which their cepstra are nearest (dynamic
time warping). All figures look at spectra, none at phases. They know nothing of who speaks: another person's voice is never the same. Read them beside the floor
(another clip's speech) and the ceiling (Griffin-Lim from the recording's own mel spectrum); they say nothing of how natural
a voice sounds.

Shapes: F frames at 100 Hz, M mel bands.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torchaudio

from tinywave_core.synthesis.mel import FFT_SAMPLES, HOP_SAMPLES, MELS, NOISE_MAGNITUDE, linear_envelope, log_mel

CEPSTRA = 12

Samples = npt.NDArray[np.float32]
_Array = npt.NDArray[np.float64]
Synthesize = Callable[[int], Samples]
"""Speech of the clip of a number."""


def likeness(generated: Samples, true: Samples) -> float:
    """Correlation of the aligned log-mels, each without its mean over time: 1 is the same."""
    return _likeness(*_aligned(generated, true))


def cepstral_distance_db(generated: Samples, true: Samples) -> float:
    """Mel-cepstral distance over 12 coefficients between aligned frames, without loudness: 0 is the same."""
    return _distance_db(*_aligned(generated, true))


def _likeness(a_FM: _Array, b_FM: _Array) -> float:
    a, b = a_FM - a_FM.mean(axis=0), b_FM - b_FM.mean(axis=0)
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / size if size else 0.0


def _distance_db(a_FM: _Array, b_FM: _Array) -> float:
    return float(10 / np.log(10) * np.sqrt((_cepstra(a_FM - b_FM) ** 2).sum(axis=1) / 2).mean())


def figures(clips: Sequence[Samples], vocoders: dict[str, Synthesize]) -> dict[str, dict[str, float]]:
    """Means over the clips for each vocoder, for `floor` (the last vocoder's speech of the clip before) and for `ceiling`."""
    generated = {name: [speak(number) for number in range(len(clips))] for name, speak in vocoders.items()}
    last = [*generated.values()][-1]
    generated |= {"floor": [*last[-1:], *last[:-1]], "ceiling": [from_own_mel(clip) for clip in clips]}
    return {name: _means(waves, clips) for name, waves in generated.items()}


def _means(waves: Sequence[Samples], clips: Sequence[Samples]) -> dict[str, float]:
    pairs = [_aligned(*pair) for pair in zip(waves, clips, strict=True)]
    return {
        "likeness": float(np.mean([_likeness(*pair) for pair in pairs])),
        "cepstral_distance_db": float(np.mean([_distance_db(*pair) for pair in pairs])),
    }


def from_own_mel(samples: Samples, iterations: int = 32) -> Samples:
    """Griffin and Lim's reconstruction of a recording from its own mel spectrum."""
    magnitude = np.exp(linear_envelope(log_mel(samples))) * NOISE_MAGNITUDE
    window = torch.hann_window(FFT_SAMPLES, dtype=torch.float64)
    generated = torchaudio.functional.griffinlim(
        torch.from_numpy(magnitude.T),
        window,
        FFT_SAMPLES,
        HOP_SAMPLES,
        FFT_SAMPLES,
        power=1.0,
        n_iter=iterations,
        momentum=0.99,
        length=len(samples),
        rand_init=False,
    )
    return generated.numpy().astype(np.float32)


def _cepstra(log_mel_FM: _Array) -> _Array:
    waves = np.cos(np.pi * np.outer(np.arange(MELS) + 0.5, np.arange(1, CEPSTRA + 1)) / MELS)
    return log_mel_FM @ waves * (2 / MELS)


def _aligned(generated: Samples, true: Samples) -> tuple[_Array, _Array]:
    """Log-mels of both, row by row of their common path."""
    a_FM, b_GM = log_mel(generated), log_mel(true)
    path = warped(_cepstra(a_FM), _cepstra(b_GM))
    return a_FM[path[:, 0]], b_GM[path[:, 1]]


def warped(a_FC: _Array, b_GC: _Array) -> npt.NDArray[np.int64]:
    """Pairs of rows [steps, 2] from the first to the last of both, each step one further in either or both: the nearest such path."""
    squares = np.square(a_FC).sum(axis=1)[:, None] + np.square(b_GC).sum(axis=1)[None] - 2 * a_FC @ b_GC.T
    apart = np.sqrt(np.maximum(squares, 0))
    rows, columns = apart.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for diagonal in range(rows + columns - 1):  # all pairs whose numbers have this sum know what came before them
        i = np.arange(max(0, diagonal - columns + 1), min(diagonal, rows - 1) + 1)
        j = diagonal - i
        before = np.minimum(np.minimum(total[i, j], total[i, j + 1]), total[i + 1, j])
        total[i + 1, j + 1] = apart[i, j] + before
    path = [(rows - 1, columns - 1)]
    while path[-1] != (0, 0):
        i, j = path[-1]
        steps = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        path.append(min(steps, key=lambda step: total[step[0] + 1, step[1] + 1]))
    return np.array(path[::-1])

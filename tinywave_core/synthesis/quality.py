"""How close resynthesised speech is to the recording: figures that need no listener, with a floor and a ceiling beside them.

Both clips start together; the longer one is cut. All figures look at spectra, none at phases. Read them beside the floor
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
Synthesize = Callable[[int], Samples]
"""Speech of the clip of a number."""


def likeness(generated: Samples, true: Samples) -> float:
    """Correlation of the log-mels, each without its mean over time: 1 is the same."""
    a, b = _log_mels(generated, true)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / size if size else 0.0


def cepstral_distance_db(generated: Samples, true: Samples) -> float:
    """Mel-cepstral distance over 12 coefficients, without loudness: 0 is the same."""
    a, b = _log_mels(generated, true)
    waves = np.cos(np.pi * np.outer(np.arange(MELS) + 0.5, np.arange(1, CEPSTRA + 1)) / MELS)
    difference_FC = (a - b) @ waves * (2 / MELS)
    return float(10 / np.log(10) * np.sqrt((difference_FC**2).sum(axis=1) / 2).mean())


def figures(clips: Sequence[Samples], vocoders: dict[str, Synthesize]) -> dict[str, dict[str, float]]:
    """Means over the clips for each vocoder, for `floor` (the last vocoder's speech of the clip before) and for `ceiling`."""
    generated = {name: [speak(number) for number in range(len(clips))] for name, speak in vocoders.items()}
    last = [*generated.values()][-1]
    generated |= {"floor": [*last[-1:], *last[:-1]], "ceiling": [from_own_mel(clip) for clip in clips]}
    return {name: _means(waves, clips) for name, waves in generated.items()}


def _means(waves: Sequence[Samples], clips: Sequence[Samples]) -> dict[str, float]:
    pairs = [*zip(waves, clips, strict=True)]
    return {
        "likeness": float(np.mean([likeness(*pair) for pair in pairs])),
        "cepstral_distance_db": float(np.mean([cepstral_distance_db(*pair) for pair in pairs])),
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


def _log_mels(generated: Samples, true: Samples) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    length = min(len(generated), len(true))
    return log_mel(generated[:length]), log_mel(true[:length])

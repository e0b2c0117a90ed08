"""One audio file -> mono float32 at 16 kHz, exactly as SpiritLM's tokenizer loads it; for prompts and for people who look at single files.

Channels are resampled (`resampling.py`), then two are averaged. Level and offset stay as they are. Corpora go through
`stages.ingestion` instead, which decodes in a bounded child process and cuts at pauses.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from tinywave_core.audio.resampling import to_16k
from tinywave_core.errors import SourceError
from tinywave_core.storage.schemas import SAMPLE_RATE

MAX_CHANNELS = 2


def read_waveform(path: Path | str) -> npt.NDArray[np.float32]:
    """Samples [n]; SourceError names the file and what is wrong with it."""
    try:
        samples_NC, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise SourceError(f"{path} cannot be read as audio ({error}): expected wav, flac, ogg/opus or mp3") from error
    return to_mono_16k(samples_NC, rate, str(path))


def to_mono_16k(samples_NC: npt.NDArray[np.float32], rate: int, what: str) -> npt.NDArray[np.float32]:
    """Samples [n] of decoded audio [N, C]; `what` is its name in errors."""
    if samples_NC.shape[1] > MAX_CHANNELS:
        raise SourceError(
            f"{what} has {samples_NC.shape[1]} channels, expected one or two: mix it down or pick channels first"
        )
    if not np.isfinite(samples_NC).all():
        raise SourceError(
            f"{what} has samples that are NaN or infinite: it is damaged, or was written by faulty software"
        )
    if rate != SAMPLE_RATE and len(samples_NC):
        import torch

        channels_CN = torch.from_numpy(np.ascontiguousarray(samples_NC.T))
        try:
            samples_NC = to_16k(channels_CN, rate).numpy().T
        except SourceError as error:
            raise SourceError(f"{what} has {error}") from error
    return np.ascontiguousarray(
        samples_NC.mean(axis=1, dtype=np.float32) if samples_NC.shape[1] > 1 else samples_NC[:, 0]
    )

"""What people pass as sound -> mono float32 samples at 16 kHz."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinywave_core.audio.waveform import read_waveform, to_mono_16k
from tinywave_core.errors import SourceError
from tinywave_core.storage.schemas import SAMPLE_RATE

Sound = str | Path | npt.NDArray[np.float32]
"""The path of an audio file, or samples: [n], or [n, channels] as soundfile gives them."""


_LOUDEST = 64.0  # no recording clips so hard; integers written as floats are far above


def samples_of(audio: Sound, sample_rate: int | None = None) -> npt.NDArray[np.float32]:
    """Samples [n] at 16 kHz. `sample_rate` is of an array (none: 16 kHz); a file knows its own.

    SourceError for what is no audio: nothing, integers (as floats too), NaN, more than two channels, a rate of no speech.
    """
    if isinstance(audio, str | Path):
        if sample_rate is not None:
            raise SourceError(f"sample_rate is {sample_rate}, and {audio} is a file, which says its own: leave it out")
        return read_waveform(Path(audio).expanduser())
    array = np.asarray(audio)
    if array.dtype.kind != "f" or array.ndim not in (1, 2):
        raise SourceError(
            f"the audio is {array.dtype} of shape {list(array.shape)}; expected floats between -1 and 1 of shape [samples] or "
            "[samples, channels]: divide 16-bit integers by 32768"
        )
    if not array.size:
        raise SourceError("the audio has no samples: expected a tenth of a second at least")
    if (peak := float(np.abs(array).max())) > _LOUDEST:
        raise SourceError(
            f"the audio reaches {peak:,.0f}; expected floats between -1 and 1: divide what was 16-bit integers by 32768"
        )
    samples_NC = array.astype(np.float32).reshape(len(array), -1)
    return to_mono_16k(samples_NC, SAMPLE_RATE if sample_rate is None else sample_rate, "the audio")

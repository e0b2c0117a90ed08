"""A sentence of real speech, and a folder to write broken files into."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from tinywave_core.audio.decode import Decoder, Recording
from tinywave_core.config.base import RuntimeConfig

EXAMPLES = Path(__file__).parents[3] / "examples" / "speech"
SENTENCE = EXAMPLES / "LJSpeech" / "wavs" / "LJ001-0002.wav"
Write = Callable[..., Path]


@pytest.fixture(scope="session")
def sentence() -> npt.NDArray[np.float32]:
    """1.9 s of speech [N] at 22.05 kHz."""
    samples_N, _ = soundfile.read(SENTENCE, dtype="float32")
    return np.asarray(samples_N)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(name, samples, rate, **soundfile_options)`."""

    def write(name: str, samples: npt.NDArray[Any], rate: int = 22_050, **options: Any) -> Path:
        soundfile.write(tmp_path / name, samples, rate, **options)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def decoder() -> Iterator[Decoder]:
    with Decoder(RuntimeConfig(), max_recording_hours=0.1) as decoder:
        yield decoder


@pytest.fixture(scope="session")
def decode(decoder: Decoder) -> Callable[[Path], Recording]:
    return decoder.decode

"""Encoders at full and at toy size, loaded once, and the recordings that the golden units are of."""

from pathlib import Path

import pytest
import soundfile
import torch

from tests.fixtures import release
from tinywave_core.encoders.hubert import HubertEncoder, load_release
from tinywave_core.encoders.style import StyleEncoder, load_style_encoder

NAME = release.AUDIO.name
CLIPS = {
    NAME: slice(None),
    f"{NAME}[20000:60001]": slice(20_000, 60_001),
    f"{NAME}[20000:21280]": slice(20_000, 21_280),
}


@pytest.fixture(scope="session")
def speech() -> torch.Tensor:
    """9 s at 16 kHz."""
    return torch.from_numpy(soundfile.read(release.AUDIO, dtype="float32")[0])


@pytest.fixture(scope="session")
def clips(speech: torch.Tensor) -> dict[str, torch.Tensor]:
    """By their names among the golden units."""
    return {name: speech[part] for name, part in CLIPS.items()}


@pytest.fixture(scope="session")
def full_hubert(full_release: Path) -> HubertEncoder:
    return load_release(full_release / "speech_tokenizer" / release.CHECKPOINTS["hubert"]["file"])


@pytest.fixture(scope="session")
def full_style(full_release: Path) -> StyleEncoder:
    return load_style_encoder(full_release / "speech_tokenizer/style_encoder_w2v2")


@pytest.fixture(scope="session")
def small_hubert(small_release: Path) -> HubertEncoder:
    return load_release(small_release / "speech_tokenizer" / release.CHECKPOINTS["hubert"]["file"])


@pytest.fixture(scope="session")
def small_style(small_release: Path) -> StyleEncoder:
    return load_style_encoder(small_release / "speech_tokenizer/style_encoder_w2v2")

"""Synthetic speech: voiced vowels of drawn pitch and formants, hiss and pauses, about as loud as speech."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.fixtures import gguf_model
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.tokenizers.codebooks import Codebooks

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Spoken:
    utterance_id: str
    samples: Samples


def babble(seed: int, seconds: float = 4.0) -> Samples:
    random = np.random.default_rng(seed)
    time = np.arange(3200) / 16_000
    pieces: list[npt.NDArray[np.float64]] = []
    while sum(map(len, pieces)) < seconds * 16_000:
        f0 = random.uniform(90, 250)
        formants = random.uniform([300, 900], [800, 2500])
        gains = [sum(np.exp(-(((h * f0 - f) / 150) ** 2)) for f in formants) for h in range(1, 20)]
        vowel = sum(g * np.cos(2 * np.pi * h * f0 * time) for h, g in enumerate(gains, start=1))
        sound = [vowel, random.standard_normal(3200), np.zeros(3200)][random.choice(3, p=[0.6, 0.25, 0.15])]
        pieces.append(random.uniform(0.02, 0.1) * sound * np.hanning(3200))
    return np.concatenate(pieces)[: int(seconds * 16_000)].astype(np.float32)


def small_config(**changes: object) -> TokenizationConfig:
    sizes = {"units": {"clusters": 12}, "pitch": {"clusters": 6}, "style": {"clusters": 3}}
    return TokenizationConfig.model_validate(sizes | changes)


@pytest.fixture(scope="session")
def utterances() -> list[Spoken]:
    return [Spoken(f"{seed:02d}", babble(seed)) for seed in range(6)]


@pytest.fixture(scope="session")
def codebooks(utterances: list[Spoken]) -> Codebooks:
    return Codebooks.fit(small_config(), utterances)


@pytest.fixture(scope="session")
def config() -> Callable[..., TokenizationConfig]:
    return small_config


@pytest.fixture(scope="session")
def gguf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with GGUF files in all forms."""
    return gguf_model.write_model(tmp_path_factory.mktemp("gguf"), gguf_model.VOCABULARY, gguf_model.ALL)

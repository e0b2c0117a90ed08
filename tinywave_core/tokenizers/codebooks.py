"""The embedded tokenizer: MFCC units, F0 pitch codes and prosody styles, with codebooks fitted on the user's own speech.

`fit` reads training utterances once and keeps features only. `tokenize` looks at one utterance and nothing else: the
same audio gives the same units in any order, shard, batch or number of threads. Kept as safetensors and JSON.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.errors import SchemaVersionError, TinyWaveError
from tinywave_core.tokenizers import f0, kmeans, mfcc, pitch, speech, style
from tinywave_core.tokenizers.embedded import DESCRIPTION
from tinywave_core.tokenizers.vocabulary import BYTE_TEXT, Vocabulary

FORMAT_VERSION = 1
TENSORS = "codebooks.safetensors"
MIN_SAMPLES = 1280  # SpiritLM gives shorter audio no units at all

# In float64 CPUs differ by 1e-12, where a decision on the lattice of `kmeans` needs 1e-2: all of them give the same codes.
_Array = npt.NDArray[np.float64]


class Utterance(Protocol):
    """What fitting needs of an utterance."""

    @property
    def utterance_id(self) -> str: ...

    @property
    def samples(self) -> mfcc.Samples: ...


@dataclass(frozen=True)
class Codebook:
    """Centres on the lattice of `kmeans`, and the scale that brings features to it."""

    mean: _Array  # [D]
    deviation: _Array  # [D]
    centres: kmeans.Lattice  # [K, D]

    @classmethod
    def fit(cls, points_ND: _Array, clusters: int, seed: int, what: str) -> "Codebook":
        # No point, no mean: `kmeans.fit` below then refuses with words for the user.
        mean, deviation = np.zeros(points_ND.shape[1]), np.ones(points_ND.shape[1])
        if len(points_ND):
            # Rounded: the last bits of a feature can depend on where its samples lay in memory.
            # The floor keeps a feature that never varies from being divided by 0.
            mean, deviation = points_ND.mean(axis=0).round(9), np.maximum(points_ND.std(axis=0), 1e-3).round(9)
        return cls(mean, deviation, kmeans.fit(kmeans.snap((points_ND - mean) / deviation), clusters, seed, what=what))

    def encode(self, points_ND: _Array) -> kmeans.Codes:
        return kmeans.assign(kmeans.snap((points_ND - self.mean) / self.deviation), self.centres)


@dataclass(frozen=True)
class Codebooks:
    """A fitted tokenizer; pitch and style are None for base tokens."""

    units: Codebook
    pitch_centres: kmeans.Lattice | None  # [codes - 1, 1]; code 0 is unvoiced
    style: Codebook | None

    @classmethod
    def fit(cls, config: TokenizationConfig, utterances: Iterable[Utterance]) -> "Codebooks":
        """Codebooks of these utterances, whatever their order; TinyWaveError when they are too few for the sizes set."""
        features = _collect(utterances, expressive=config.tokens == "expressive")
        units = Codebook.fit(features.units, config.units.clusters, config.seed, "frames of 40 ms")
        if config.tokens == "base":
            return cls(units, None, None)
        pitch_centres = pitch.fit(features.pitch, config.pitch.clusters, config.seed)
        return cls(units, pitch_centres, Codebook.fit(features.style, config.style.clusters, config.seed, "seconds"))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(
            text=BYTE_TEXT,
            hubert=len(self.units.centres),
            pitch=0 if self.pitch_centres is None else len(self.pitch_centres) + 1,
            style=0 if self.style is None else len(self.style.centres),
        )

    def tokenize(self, samples: mfcc.Samples) -> speech.Streams:
        """Raw streams of one utterance (mono, 16 kHz)."""
        if len(samples) < MIN_SAMPLES:
            return speech.Streams(speech.EMPTY, speech.EMPTY, speech.EMPTY)
        features = mfcc.mfcc(samples)
        units = self.units.encode(features)
        if self.pitch_centres is None or self.style is None:
            return speech.Streams(units, speech.EMPTY, speech.EMPTY)
        f0_hz = f0.f0_hz(samples)
        codes = pitch.encode(pitch.contour(f0_hz, len(samples)), self.pitch_centres)
        return speech.Streams(units, codes, self.style.encode(style.statistics(samples, f0_hz, features)))

    def save(self, folder: Path) -> None:
        """Write codebooks.safetensors and codebooks.json."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = _tensors("units", self.units)
        if self.pitch_centres is not None and self.style is not None:
            tensors |= {"pitch.centres": self.pitch_centres, **_tensors("style", self.style)}
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / TENSORS)
        description = {
            "format": "tinywave-codebooks",
            "version": FORMAT_VERSION,
            "units": "mfcc",
            "pitch": None if self.pitch_centres is None else "f0_kmeans",
            "style": None if self.style is None else "prosody",
            "rates_hz": self.vocabulary.rates.merge_hz,
            "vocabulary": self.vocabulary.to_json(),
        }
        # With sorted keys: the digest of this file is a part of the tokenizer's identity.
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Codebooks":
        """Read what `save` wrote."""
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if description.get("format") != "tinywave-codebooks":
            raise TinyWaveError(
                f"{folder / DESCRIPTION} is not a description of codebooks: pass a tokenization artifact"
            )
        if description["version"] > FORMAT_VERSION:
            raise SchemaVersionError(
                f"{folder} has codebooks of version {description['version']}, this TinyWave reads up to {FORMAT_VERSION}: "
                "update TinyWave"
            )
        tensors = load_file(folder / TENSORS)
        expressive = description["pitch"] is not None
        return cls(
            units=_codebook("units", tensors),
            pitch_centres=tensors["pitch.centres"] if expressive else None,
            style=_codebook("style", tensors) if expressive else None,
        )


@dataclass(frozen=True)
class _Features:
    units: _Array  # [N, 39]
    pitch: _Array  # [M], NaN where unvoiced
    style: _Array  # [L, 6]


def _collect(utterances: Iterable[Utterance], *, expressive: bool) -> _Features:
    """Features of all utterances in the order of their ids."""
    rows = {u.utterance_id: _features_of(u.samples, expressive=expressive) for u in utterances}
    # Recordings may come in any order, and k-means draws its first centres by the number of a row.
    rows = {name: rows[name] for name in sorted(rows)}
    return _Features(
        # The empty first part is for a corpus without speech: numpy cannot join nothing, and `kmeans.fit` says what is missing.
        units=np.concatenate([np.zeros((0, mfcc.FEATURES)), *(row.units for row in rows.values())]),
        pitch=np.concatenate([np.zeros(0), *(row.pitch for row in rows.values())]),
        style=np.concatenate([np.zeros((0, style.STATISTICS)), *(row.style for row in rows.values())]),
    )


def _features_of(samples: mfcc.Samples, *, expressive: bool) -> _Features:
    features = mfcc.mfcc(samples)
    if not expressive or not len(features):
        return _Features(features, np.zeros(0), np.zeros((0, style.STATISTICS)))
    f0_hz = f0.f0_hz(samples)
    return _Features(features, pitch.contour(f0_hz, len(samples)), style.statistics(samples, f0_hz, features))


def _tensors(name: str, codebook: Codebook) -> dict[str, npt.NDArray[np.floating]]:
    return {f"{name}.mean": codebook.mean, f"{name}.deviation": codebook.deviation, f"{name}.centres": codebook.centres}


def _codebook(name: str, tensors: dict[str, npt.NDArray[Any]]) -> Codebook:
    return Codebook(tensors[f"{name}.mean"], tensors[f"{name}.deviation"], tensors[f"{name}.centres"])

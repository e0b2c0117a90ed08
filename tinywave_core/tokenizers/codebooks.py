"""The embedded tokenizer: units of MFCC or of a pretrained encoder, F0 pitch codes and prosody styles, by codebooks.

They are fitted on the user's own speech; the units' can be given. `fit` reads training utterances once and keeps features only.
`tokenize` gives an utterance what it gives it alone: the same units in any order, shard, batch or number of threads. Kept as
safetensors and JSON, which name an encoder by its digest: its weights are never copied.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.errors import CheckpointError, SchemaVersionError, TinyWaveError
from tinywave_core.tokenizers import f0, kmeans, mfcc, pitch, speech, style
from tinywave_core.tokenizers.embedded import DESCRIPTION, EncoderUnits
from tinywave_core.tokenizers.frames import FrameSample
from tinywave_core.tokenizers.streams import SPIRITLM_RATES, Rates, rates_with_units_at
from tinywave_core.tokenizers.vocabulary import BYTE_TEXT, Vocabulary

if TYPE_CHECKING:
    from tinywave_core.encoders.pretrained import SpeechEncoder

FORMAT_VERSION = 2
MFCC_VERSION = 1  # of codebooks whose units are of MFCC, which every TinyWave reads
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
    def fit(cls, points_ND: npt.NDArray[np.floating], clusters: int, seed: int, what: str) -> "Codebook":
        """Of these points, whose memory it takes."""
        # No point, no mean: `kmeans.fit` below then refuses with words for the user.
        mean, deviation = kmeans.moments(points_ND)
        # Rounded: the last bits of a feature can depend on where its samples lay in memory.
        # The floor keeps a feature that never varies from being divided by 0.
        mean, deviation = mean.round(9), np.maximum(deviation, 1e-3).round(9)
        kmeans.snap_in_place(points_ND, mean, deviation)
        return cls(mean, deviation, kmeans.fit(points_ND.astype(np.float32, copy=False), clusters, seed, what=what))

    def encode(self, points_ND: npt.NDArray[np.floating]) -> kmeans.Codes:
        return kmeans.assign(kmeans.snap((points_ND - self.mean) / self.deviation), self.centres)

    def tensors(self, name: str) -> dict[str, npt.NDArray[np.floating]]:
        return {f"{name}.mean": self.mean, f"{name}.deviation": self.deviation, f"{name}.centres": self.centres}


@dataclass(frozen=True)
class GivenCodebook:
    """Centres that were fitted elsewhere, on features as they are."""

    centres: npt.NDArray[np.float32]  # [K, D]

    def encode(self, points_ND: npt.NDArray[np.floating]) -> kmeans.Codes:
        """The nearest centre by squared distance, the first one at ties; in float64, where rounding turns none but exact ties."""
        centres_KD = self.centres.astype(np.float64)
        norms_K = np.square(centres_KD).sum(axis=1)
        return np.argmin(norms_K - 2 * (points_ND.astype(np.float64) @ centres_KD.T), axis=1)

    def tensors(self, name: str) -> dict[str, npt.NDArray[np.floating]]:
        return {f"{name}.centres": self.centres}


@dataclass(frozen=True)
class Codebooks:
    """A fitted tokenizer; pitch and style are None for base tokens."""

    units: Codebook | GivenCodebook
    pitch_centres: kmeans.Lattice | None  # [codes - 1, 1]; code 0 is unvoiced
    style: Codebook | None
    encoder: "SpeechEncoder | None" = None
    """What the units' features come from; None: MFCC."""

    @classmethod
    def fit(
        cls,
        config: TokenizationConfig,
        utterances: Iterable[Utterance],
        encoder: "SpeechEncoder | None" = None,
        given: GivenCodebook | None = None,
    ) -> "Codebooks":
        """Codebooks of these utterances, whatever their order, but for the units' where it is given; TinyWaveError when they are
        too few for the sizes set."""
        features = _collect(utterances, config, encoder, fit_units=given is None)
        what = f"frames of {1000 / _rates(encoder).units:g} ms"
        units = given or Codebook.fit(features.units, config.units.clusters, config.seed, what)
        if config.tokens == "base":
            return cls(units, None, None, encoder)
        pitch_centres = pitch.fit(features.pitch, config.pitch.clusters, config.seed)
        style_codebook = Codebook.fit(features.style, config.style.clusters, config.seed, "seconds")
        return cls(units, pitch_centres, style_codebook, encoder)

    @property
    def rates(self) -> Rates:
        """Of its streams."""
        return _rates(self.encoder)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(
            text=BYTE_TEXT,
            hubert=len(self.units.centres),
            pitch=0 if self.pitch_centres is None else len(self.pitch_centres) + 1,
            style=0 if self.style is None else len(self.style.centres),
            rates=self.rates,
        )

    def tokenize(self, samples: mfcc.Samples) -> speech.Streams:
        """Raw streams of one utterance (mono, 16 kHz)."""
        return self.tokenize_all([samples])[0]

    def tokenize_all(self, recordings: Sequence[mfcc.Samples]) -> list[speech.Streams]:
        """Raw streams of recordings (mono, 16 kHz), computed together: the same as each alone."""
        if self.encoder is None:
            return [self._streams(samples, None) for samples in recordings]
        heard = iter(self.encoder.together([samples for samples in recordings if len(samples) >= MIN_SAMPLES]))
        return [self._streams(each, next(heard) if len(each) >= MIN_SAMPLES else None) for each in recordings]

    def _streams(self, samples: mfcc.Samples, frames_TD: npt.NDArray[np.float32] | None) -> speech.Streams:
        """Streams of one recording, and its frames of the encoder, where there is one."""
        if len(samples) < MIN_SAMPLES:
            return speech.Streams(speech.EMPTY, speech.EMPTY, speech.EMPTY)
        if self.pitch_centres is None or self.style is None:
            units = self.units.encode(mfcc.mfcc(samples) if frames_TD is None else frames_TD)
            return speech.Streams(units, speech.EMPTY, speech.EMPTY)
        features, f0_hz = mfcc.mfcc(samples), f0.f0_hz(samples)
        units = self.units.encode(features if frames_TD is None else frames_TD)
        codes = pitch.encode(pitch.contour(f0_hz, len(samples)), self.pitch_centres)
        return speech.Streams(units, codes, self.style.encode(style.statistics(samples, f0_hz, features)))

    def save(self, folder: Path) -> None:
        """Write codebooks.safetensors and codebooks.json."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = self.units.tensors("units")
        if self.pitch_centres is not None and self.style is not None:
            tensors |= {"pitch.centres": self.pitch_centres, **self.style.tensors("style")}
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / TENSORS)
        description = {
            "format": "tinywave-codebooks",
            "version": MFCC_VERSION if self.encoder is None else FORMAT_VERSION,
            "units": "mfcc" if self.encoder is None else asdict(EncoderUnits.of(self.encoder)),
            "pitch": None if self.pitch_centres is None else "f0_kmeans",
            "style": None if self.style is None else "prosody",
            "rates_hz": self.vocabulary.rates.merge_hz,
            "vocabulary": self.vocabulary.to_json(),
        }
        # With sorted keys: the digest of this file is a part of the tokenizer's identity.
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, encoder: "SpeechEncoder | None" = None) -> "Codebooks":
        """Read what `save` wrote; with the encoder that codebooks.json describes, where it describes one."""
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
        made_with = "mfcc" if encoder is None else asdict(EncoderUnits.of(encoder))
        if made_with != description["units"]:
            raise CheckpointError(
                f"{folder} has codebooks for units of {description['units']}, and is opened with {made_with}: pass the encoder that "
                "they were made with"
            )
        tensors = load_file(folder / TENSORS)
        expressive = description["pitch"] is not None
        given = "units.mean" not in tensors
        return cls(
            units=GivenCodebook(tensors["units.centres"]) if given else _codebook("units", tensors),
            pitch_centres=tensors["pitch.centres"] if expressive else None,
            style=_codebook("style", tensors) if expressive else None,
            encoder=encoder,
        )


def _rates(encoder: "SpeechEncoder | None") -> Rates:
    return SPIRITLM_RATES if encoder is None else rates_with_units_at(encoder.shape.rate_hz)


@dataclass(frozen=True)
class _Features:
    units: npt.NDArray[np.floating]  # [N, D]
    pitch: _Array  # [M], NaN where unvoiced
    style: _Array  # [L, 6]


def _collect(
    utterances: Iterable[Utterance], config: TokenizationConfig, encoder: "SpeechEncoder | None", *, fit_units: bool
) -> _Features:
    """Features of all utterances in the order of their ids; of an encoder's frames, a sample."""
    sample = None if encoder is None else FrameSample(config.units.clusters, config.seed, encoder.shape.width)
    expressive, rows = config.tokens == "expressive", {}
    for u in utterances:
        if encoder is not None and sample is not None and fit_units:
            sample.add(u.utterance_id, encoder(u.samples))
        if encoder is None or expressive:
            rows[u.utterance_id] = _features_of(u.samples, expressive=expressive)
    # Recordings may come in any order, and k-means draws its first centres by the number of a row.
    rows = {name: rows[name] for name in sorted(rows)}
    return _Features(
        # The empty first part is for a corpus without speech: numpy cannot join nothing, and `kmeans.fit` says what is missing.
        units=np.concatenate([np.zeros((0, mfcc.FEATURES)), *(row.units for row in rows.values())])
        if sample is None
        else sample.frames(),
        pitch=np.concatenate([np.zeros(0), *(row.pitch for row in rows.values())]),
        style=np.concatenate([np.zeros((0, style.STATISTICS)), *(row.style for row in rows.values())]),
    )


def _features_of(samples: mfcc.Samples, *, expressive: bool) -> _Features:
    features = mfcc.mfcc(samples)
    if not expressive or not len(features):
        return _Features(features, np.zeros(0), np.zeros((0, style.STATISTICS)))
    f0_hz = f0.f0_hz(samples)
    return _Features(features, pitch.contour(f0_hz, len(samples)), style.statistics(samples, f0_hz, features))


def _codebook(name: str, tensors: dict[str, npt.NDArray[Any]]) -> Codebook:
    return Codebook(tensors[f"{name}.mean"], tensors[f"{name}.deviation"], tensors[f"{name}.centres"])


# A codebook of the units that is given --------------------------------------------------------------------------------


def read_codebook(path: Path) -> GivenCodebook:
    """K-means centres [K, D] in a .npy file, as `cluster_centers` in a .safetensors or torch file, or of a pickled scikit-learn k-means;
    CheckpointError for anything else. Nothing is unpickled."""
    if not path.is_file():
        raise CheckpointError(
            f"there is no codebook {path}: expected a file of k-means centres (.npy, .safetensors, .pt, .bin)"
        )
    if path.suffix == ".npy":
        try:
            centres = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(f"{path} cannot be read as a .npy file ({error!s:.200}): save it again") from error
    elif path.suffix == ".safetensors" or _is_zip(path):
        from tinywave_core.checkpoints.weights import load_entries

        entry = load_entries(path).get("cluster_centers")
        centres = None if entry is None else entry.float().numpy()
    else:
        from tinywave_core.tokenizers.pickled_centres import pickled_centres

        centres = pickled_centres(path)
    if not isinstance(centres, np.ndarray) or centres.dtype.kind != "f" or centres.ndim != 2 or not centres.size:
        found = "nothing" if centres is None else f"{centres.dtype} {list(centres.shape)}"
        raise CheckpointError(
            f"{path} has {found} as its centres; expected floating-point numbers [units, width] (in .pt: `cluster_centers`)"
        )
    # numpy takes NaN for the least: one such centre would be the nearest of every frame.
    if not np.isfinite(centres).all():
        raise CheckpointError(f"{path} has centres that are NaN or infinite: fit them again")
    return GivenCodebook(np.ascontiguousarray(centres, dtype=np.float32))


def _is_zip(path: Path) -> bool:
    """As torch saves a file; textlesslib's .pt files are pickles of joblib."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"

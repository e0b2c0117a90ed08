"""The embedded tokenizer as a choice: codebooks that are fitted on the user's own speech, without a download.

Its units are of MFCC, or of a pretrained encoder that the user names. That encoder is known by its digest, and opened where the settings
or the environment variable TINYWAVE_ENCODER say that it lies.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tinywave_core.checkpoints.digests import sha256_once
from tinywave_core.checkpoints.places import given_file, model_folder
from tinywave_core.checkpoints.spiritlm import Kind, digest_of
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.errors import CheckpointError
from tinywave_core.tokenizers.base import TOKENS_PER_S, Places, Sizes, SpeechTokenizer, TokenizerKind
from tinywave_core.tokenizers.streams import SPIRITLM_RATES
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tinywave_core.encoders.pretrained import SpeechEncoder
    from tinywave_core.tokenizers.codebooks import GivenCodebook

S_PER_H = 30.0  # of one core, measured on examples/speech at 2.8 GHz
# Of an encoder: seconds of one core per hour of speech for each of its parameters, measured with HuBERT base (970 s an hour). It is an
# upper bound for a Whisper, whose file has a decoder as well: tiny.en took 42 s.
S_PER_H_AND_PARAMETER = 1e-5
GPU_SPEED_UP = 50.0
DESCRIPTION = "codebooks.json"
ENVIRONMENT = "TINYWAVE_ENCODER"
_AFTER_TOKENS = ("interleaving", "alignment", "text", "near_duplicates", "benchmarks")


@dataclass(frozen=True)
class EncoderUnits:
    """What decides the features of units of an encoder, as codebooks.json has it."""

    sha256: str
    layer: int
    model_type: str
    width: int
    hop_samples: int
    window_frames: int
    """Frames that are computed together: what one of them hears."""
    normalise: bool
    """Whether every window is brought to mean 0 and variance 1."""

    @classmethod
    def of(cls, encoder: "SpeechEncoder") -> "EncoderUnits":
        """Of an opened encoder."""
        shape = encoder.shape
        return cls(
            encoder.digest, encoder.layer, shape.model_type, shape.width, shape.hop, shape.window, shape.normalise
        )


@dataclass(frozen=True)
class EmbeddedTokenizer:
    """Units of MFCC or of an encoder, F0 pitch codes and prosody styles, by k-means."""

    config: TokenizationConfig
    places: Places = field(default=Places())
    kind: Literal["codebooks"] = "codebooks"
    is_fitted: Literal[True] = True

    @property
    def uses_gpu(self) -> bool:
        return self.config.units.kind == "encoder"

    @property
    def tokens(self) -> Kind:
        return self.config.tokens

    @property
    def tokens_per_s(self) -> float:
        # At other rates as well: what is said changes as often, and repeated units are left out.
        return TOKENS_PER_S[self.tokens]

    @property
    def expected_sizes(self) -> Sizes:
        units, pitch, style = (each.clusters for each in (self.config.units, self.config.pitch, self.config.style))
        return Sizes(units) if self.tokens == "base" else Sizes(units, pitch, style)

    def settings(self) -> TokenizationConfig:
        # How the tokens are mixed with text and compared comes after they are made.
        defaults = {name: getattr(TokenizationConfig(), name) for name in _AFTER_TOKENS}
        # Models are identified by their content, not by where they lie.
        places = {name: "given" for name in ("encoder", "codebook") if getattr(self.config.units, name) is not None}
        return self.config.model_copy(update={**defaults, "units": self.config.units.model_copy(update=places)})

    def given(self) -> dict[str, Any]:
        units = self.config.units
        if units.encoder is None:
            return {}
        from tinywave_core.checkpoints.model_directory import model_digest

        codebook = {} if units.codebook is None else {"codebook_sha256": sha256_once(given_file(units.codebook))}
        return {"encoder_sha256": model_digest(model_folder(units.encoder)), **codebook}

    def check(self, vocabulary: Vocabulary | None) -> None:
        # Sizes are not compared with the vocabulary's: codebooks that were pinned may have others than the settings today.
        del vocabulary
        units = self.config.units
        if units.encoder is None or units.layer is None:
            return
        from tinywave_core.encoders.pretrained import read_shape

        shape = read_shape(model_folder(units.encoder), units.layer)
        if units.codebook is not None:
            open_codebook(given_file(units.codebook), units.clusters, shape.width)

    def vocoder(self) -> None:
        return None

    def seconds_per_hour(self, device: str) -> float:
        if self.config.units.encoder is None:
            return S_PER_H
        from tinywave_core.encoders.pretrained import encoder_parameters

        core_s = encoder_parameters(model_folder(self.config.units.encoder)) * S_PER_H_AND_PARAMETER
        beside = S_PER_H if self.tokens == "expressive" else 0.0
        return beside + core_s / (GPU_SPEED_UP if device == "cuda" else 1)


def choose(config: PipelineConfig) -> EmbeddedTokenizer:
    """Any settings will do."""
    return EmbeddedTokenizer(config.tokenization, Places.of(config))


def open_codebook(path: Path, clusters: int, width: int) -> "GivenCodebook":
    """The codebook of the units that is given; CheckpointError where it is of another size than the settings or the encoder."""
    from tinywave_core.tokenizers.codebooks import read_codebook

    codebook = read_codebook(path)
    found, columns = codebook.centres.shape
    if columns != width:
        raise CheckpointError(
            f"{path} has centres of width {columns}, the encoder's layers are {width} wide: they do not belong together"
        )
    if found != clusters:
        raise CheckpointError(
            f"{path} has {found} centres, tokenization.units.clusters is {clusters}: set --tokenization.units.clusters {found}"
        )
    return codebook


def open_encoder(place: str | None, layer: int, sha256: str, device: str) -> "SpeechEncoder":
    """The encoder at a place (path or URL), or where TINYWAVE_ENCODER says; CheckpointError where it is not at hand, or another one."""
    from tinywave_core.checkpoints.model_directory import model_digest
    from tinywave_core.encoders.pretrained import shared_encoder

    found = place or os.environ.get(ENVIRONMENT)
    if not found:
        raise CheckpointError(
            f"the tokens are made with a speech encoder (SHA-256 {sha256[:12]}…), which lies elsewhere: set the environment variable "
            f"{ENVIRONMENT} to its directory or s3:// prefix"
        )
    folder = model_folder(found)
    if (now := model_digest(folder)) != sha256:
        raise CheckpointError(
            f"the speech encoder in {found} has SHA-256 {now[:12]}…, the tokens were made with {sha256[:12]}…: pass that one "
            f"(tokenization.units.encoder, or {ENVIRONMENT}), on all machines alike"
        )
    return shared_encoder(folder, layer, device)


def open_codebooks(folder: Path, vocabulary: Vocabulary | None, places: Places, device: str) -> SpeechTokenizer:
    """Codebooks, which are small files of the folder itself and run on the CPU, and the encoder that they name, if they do."""
    from tinywave_core.tokenizers.codebooks import TENSORS, Codebooks

    units = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["units"]
    encoder = None if units == "mfcc" else open_encoder(places.encoder, units["layer"], units["sha256"], device)
    codebooks = Codebooks.load(folder, encoder)
    own = codebooks.vocabulary
    ids = own if vocabulary is None else vocabulary
    Sizes(own.hubert, own.pitch, own.style).require(ids)
    return SpeechTokenizer(
        EMBEDDED.name,
        ids,
        digest_of([folder / DESCRIPTION, folder / TENSORS]),
        codebooks.tokenize_all,
    )


# Its counts of codes are SpiritLM's too, so that either tokenizer can take the other's place.
EMBEDDED = TokenizerKind("codebooks", DESCRIPTION, SPIRITLM_RATES, choose, open_codebooks)

"""SpiritLM's tokenizer as a choice: models of its release. They are given, not fitted.

What stands for it in the store and in exports is release.json: which files they are, by digest, and never their weights.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tinywave_core.checkpoints.spiritlm import Kind, Release, open_release, vocoder_part
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.errors import CheckpointError
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.tokenizers.base import TOKENS_PER_S, Places, Sizes, SpeechTokenizer, TokenizerKind
from tinywave_core.tokenizers.streams import SPIRITLM_RATES
from tinywave_core.tokenizers.vocabulary import SPIRITLM_EXPRESSIVE, Vocabulary

if TYPE_CHECKING:
    from tinywave_core.tokenizers.spiritlm import SpeechSource

DESCRIPTION = "release.json"
# Seconds of one core per hour of speech (`make bench-tokenization`): HuBERT alone, and with pitch and style; a GPU was not measured.
S_PER_H: dict[Kind, float] = {"base": 330.0, "expressive": 920.0}
GPU_SPEED_UP = 50.0


@dataclass(frozen=True)
class ReleaseTokenizer:
    """HuBERT units; for expressive tokens the release's pitch and style models besides."""

    tokens: Kind
    places: Places
    kind: Literal["release"] = "release"
    is_fitted: Literal[False] = False
    uses_gpu: Literal[True] = True

    @property
    def tokens_per_s(self) -> float:
        return TOKENS_PER_S[self.tokens]

    @property
    def expected_sizes(self) -> Sizes:
        published = SPIRITLM_EXPRESSIVE
        if self.tokens == "base":
            return Sizes(published.hubert)
        return Sizes(published.hubert, published.pitch, published.style)

    def settings(self) -> TokenizationConfig:
        # The other settings have no say in these tokens: a change of one must not make them again.
        return TokenizationConfig(tokens=self.tokens)

    def given(self) -> dict[str, Any]:
        source = _source(self.places, self.tokens)
        # Digests and not paths: a release that was moved computes nothing again, another file under the same name is noticed.
        return {"digests": source.digests(self.tokens), "sizes": asdict(source.sizes(self.tokens))}

    def check(self, vocabulary: Vocabulary | None) -> None:
        sizes = _source(self.places, self.tokens).sizes(self.tokens)
        if vocabulary is not None:
            sizes.require(vocabulary)

    def vocoder(self) -> Release:
        return open_release(self.places.spiritlm_dir, [vocoder_part(self.tokens)])

    def seconds_per_hour(self, device: str) -> float:
        return S_PER_H[self.tokens] / (GPU_SPEED_UP if device == "cuda" else 1)


def choose(config: PipelineConfig) -> ReleaseTokenizer | None:
    """Where a release is set, and no other encoder asked for by name."""
    if config.spiritlm_dir is None or config.tokenization.units.kind == "encoder":
        return None
    return ReleaseTokenizer(config.tokenization.tokens, Places.of(config))


def open_described(folder: Path, vocabulary: Vocabulary | None, places: Places, device: str) -> SpeechTokenizer:
    """The models that a folder's release.json names; CheckpointError where those at hand are others."""
    about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    kind: Kind = about["tokens"]
    source = _source(places, kind)
    digests = source.digests(kind)
    if digests != about["digests"]:
        raise CheckpointError(
            "the files of SpiritLM's release here are not those that the tokens were made with: the release changed, or this "
            f"machine has another one; pass --spiritlm-dir with the one that {DESCRIPTION} describes, on all machines alike"
        )
    return _open(source, kind, vocabulary or Sizes(**about["sizes"]).with_bytes(SPIRITLM_RATES), digests, device)


def open_release_of(vocabulary: Vocabulary, places: Places, device: str) -> SpeechTokenizer:
    """The release that is given, for a model that does not say which one it was trained with."""
    kind: Kind = "expressive" if vocabulary.pitch else "base"
    source = _source(places, kind)
    return _open(source, kind, vocabulary, source.digests(kind), device)


def _open(
    source: "SpeechSource", kind: Kind, vocabulary: Vocabulary, digests: dict[str, str], device: str
) -> SpeechTokenizer:
    from tinywave_core.tokenizers.spiritlm import shared_tokenizer

    models = shared_tokenizer(source, kind, device, vocabulary, digests.items())
    return SpeechTokenizer(RELEASE.name, vocabulary, fingerprint(digests), models.streams)


def _source(places: Places, kind: Kind) -> "SpeechSource":
    # Imported here: it needs torch, and plans and estimates ask this module too.
    from tinywave_core.tokenizers.spiritlm import SpeechSource

    return SpeechSource.of(places.spiritlm_dir, kind)


RELEASE = TokenizerKind("release", DESCRIPTION, SPIRITLM_RATES, choose, open_described)

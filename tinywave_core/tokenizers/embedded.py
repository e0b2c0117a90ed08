"""The embedded tokenizer as a choice: codebooks that are fitted on the user's own speech, without a download."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tinywave_core.checkpoints.spiritlm import Kind, digest_of
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.errors import ConfigError
from tinywave_core.tokenizers.base import TOKENS_PER_S, Places, Sizes, SpeechTokenizer, TokenizerKind
from tinywave_core.tokenizers.streams import SPIRITLM_RATES
from tinywave_core.tokenizers.vocabulary import Vocabulary

S_PER_H = 30.0  # of one core, measured on examples/speech at 2.8 GHz
DESCRIPTION = "codebooks.json"


@dataclass(frozen=True)
class EmbeddedTokenizer:
    """MFCC units, F0 pitch codes and prosody styles, by k-means."""

    config: TokenizationConfig
    kind: Literal["codebooks"] = "codebooks"
    is_fitted: Literal[True] = True
    uses_gpu: Literal[False] = False

    @property
    def tokens(self) -> Kind:
        return self.config.tokens

    @property
    def tokens_per_s(self) -> float:
        return TOKENS_PER_S[self.tokens]

    @property
    def expected_sizes(self) -> Sizes:
        units, pitch, style = (each.clusters for each in (self.config.units, self.config.pitch, self.config.style))
        return Sizes(units) if self.tokens == "base" else Sizes(units, pitch, style)

    def settings(self) -> TokenizationConfig:
        if self.config.hubert.quantizer is not None:
            raise ConfigError(
                "--tokenization.hubert.quantizer is set, but neither --spiritlm-dir nor --tokenization.hubert.encoder: a "
                "quantizer needs a HuBERT; set one of them"
            )
        # How the tokens are mixed with text comes after they are made.
        defaults = {name: getattr(TokenizationConfig(), name) for name in ("interleaving", "alignment", "text")}
        return self.config.model_copy(update=defaults)

    def given(self) -> dict[str, Any]:
        return {}

    def check(self, vocabulary: Vocabulary | None) -> None:
        # Sizes are not compared with the vocabulary's: codebooks that were pinned may have others than the settings today.
        del vocabulary

    def vocoder(self) -> None:
        return None

    def seconds_per_hour(self, device: str) -> float:
        del device
        return S_PER_H


def choose(config: PipelineConfig) -> EmbeddedTokenizer:
    """Any settings will do."""
    return EmbeddedTokenizer(config.tokenization)


def open_codebooks(folder: Path, vocabulary: Vocabulary | None, places: Places, device: str) -> SpeechTokenizer:
    """Fitted codebooks, which are small files of the folder itself and run on the CPU."""
    del places, device
    from tinywave_core.tokenizers.codebooks import TENSORS, Codebooks

    codebooks = Codebooks.load(folder)
    own = codebooks.vocabulary
    ids = own if vocabulary is None else vocabulary
    Sizes(own.hubert, own.pitch, own.style).require(ids)
    return SpeechTokenizer(
        EMBEDDED.name,
        ids,
        digest_of([folder / DESCRIPTION, folder / TENSORS]),
        lambda recordings: [codebooks.tokenize(samples) for samples in recordings],
    )


# Its counts of codes are SpiritLM's too, so that either tokenizer can take the other's place.
EMBEDDED = TokenizerKind("codebooks", DESCRIPTION, SPIRITLM_RATES, choose, open_codebooks)

"""Settings of interleaving: which words of an utterance a sequence holds as speech, and which as text."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tinywave_core.config.base import Config


class InterleavingConfig(Config):
    """How spans of speech and text are drawn. Every change of modality is at a word boundary."""

    policy: Literal["speech", "text", "poisson", "spiritlm", "patterns"] = "speech"
    """`speech` or `text`: all in one; `poisson`: spans of speech in text (SIMS, arXiv 2504.02398); `spiritlm`: spans of
    either in turn (arXiv 2402.05755, appendix A); `patterns`: [S], [T], [S][T], [T][S] or [S][T][S], each as likely, cut at
    random words (TinyWave, arXiv 2506.23670). Utterances without word times are all speech."""
    variants: int = Field(4, ge=1, le=1000)
    """How many different drawings of spans an utterance gets: epoch e uses drawing e modulo this. Each is a sequence of its
    own, with cached logits of its own. `speech` and `text` ignore it: they have one."""
    poisson_words: float = Field(10.0, gt=0, le=200)
    """Mean length of a span of speech, in words (SIMS: 10)."""
    poisson_speech_share: float = Field(0.3, ge=0, le=1)
    """Share of an utterance's words that are speech (SIMS: 0.3)."""
    spiritlm_text_words_min: int = Field(10, ge=1)
    """Shortest span of text, in words (SpiritLM: 10); the last span of an utterance can be shorter."""
    spiritlm_text_words_max: int = Field(30, ge=1)
    """Longest span of text, in words (SpiritLM: 30)."""
    spiritlm_speech_words_min: int = Field(5, ge=1)
    """Shortest span of speech, in words (SpiritLM: 5); the last span of an utterance can be shorter."""
    spiritlm_speech_words_max: int = Field(15, ge=1)
    """Longest span of speech, in words (SpiritLM: 15)."""
    seed: int = Field(0, ge=0)
    """Seed of the drawings."""

    @property
    def drawings(self) -> int:
        """How many drawings of an utterance can differ."""
        return 1 if self.policy in ("speech", "text") else self.variants

    @model_validator(mode="after")
    def _ranges_are_in_order(self) -> Self:
        for modality in ("text", "speech"):
            least, most = (getattr(self, f"spiritlm_{modality}_words_{end}") for end in ("min", "max"))
            if least > most:
                raise ValueError(
                    f"spiritlm_{modality}_words_min is {least}, more than spiritlm_{modality}_words_max, {most}: swap them"
                )
        return self

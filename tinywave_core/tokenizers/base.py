"""What a speech tokenizer is, before it is opened and after. Imports nothing heavy: plans and estimates ask here too."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tinywave_core.checkpoints.spiritlm import Kind, Release
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.errors import CheckpointError
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.tokenizers.speech import Streams
from tinywave_core.tokenizers.streams import Rates
from tinywave_core.tokenizers.vocabulary import BYTE_TEXT, Vocabulary

Samples = npt.NDArray[np.float32]
# Deduplicated tokens per second of speech at SpiritLM's rates (measured): units alone, and with pitch and style.
TOKENS_PER_S: dict[Kind, float] = {"base": 21.0, "expressive": 30.5}


@dataclass(frozen=True)
class Sizes:
    """How many different codes a tokenizer gives."""

    hubert: int
    pitch: int = 0
    style: int = 0

    def require(self, vocabulary: Vocabulary) -> None:
        """CheckpointError where the vocabulary of the language model has another number of them."""
        # The ids of one kind begin where those of the kind before end: one wrong size would turn tokens into others, without an error.
        for name, given, expected in (
            ("units", self.hubert, vocabulary.hubert),
            ("pitch codes", self.pitch, vocabulary.pitch),
            ("styles", self.style, vocabulary.style),
        ):
            if given != expected:
                raise CheckpointError(
                    f"the speech tokenizer gives {given} {name}, the language model's vocabulary has {expected}: they do not "
                    "belong together; take both from one release, or set tokenization.tokens to base or expressive as the "
                    "model is"
                )

    def with_bytes(self, rates: Rates) -> Vocabulary:
        """The vocabulary of a fresh teacher for them."""
        return Vocabulary(text=BYTE_TEXT, hubert=self.hubert, pitch=self.pitch, style=self.style, rates=rates)


@dataclass(frozen=True)
class SpeechTokenizer:
    """An opened one: recordings -> raw streams. Its streams and their rates are those of its vocabulary."""

    kind: str
    vocabulary: Vocabulary
    """Of the ids that its streams become."""
    identity: str
    """Equal where the same recording gives the same streams."""
    tokenize: Callable[[Sequence[Samples]], list[Streams]] = field(repr=False)
    """Mono recordings at `sample_rate`, computed together: the same as each alone."""
    sample_rate: int = SAMPLE_RATE


@dataclass(frozen=True)
class Places:
    """Where models lie that a tokenizer's folder only names. They are known by their content, so this identifies nothing."""

    spiritlm_dir: str | None = None
    encoder: str | None = None
    codebook: str | None = None
    """That a fit takes; afterwards the tokenizer has it."""

    @classmethod
    def of(cls, config: PipelineConfig) -> "Places":
        """As the settings give them."""
        units = config.tokenization.units
        return cls(config.spiritlm_dir, units.encoder, units.codebook)


class ChosenTokenizer(Protocol):
    """The tokenizer that settings ask for, before it is opened."""

    @property
    def kind(self) -> str:
        """Its part in the store, and `tokenizer_kind` of the tokens' summary."""

    @property
    def tokens(self) -> Kind:
        """`base` or `expressive`."""

    @property
    def is_fitted(self) -> bool:
        """Whether it is fitted on the user's speech (then by the stage, and pinned); else its models are given."""

    @property
    def uses_gpu(self) -> bool:
        """Whether it runs on a GPU where there is one."""

    @property
    def tokens_per_s(self) -> float:
        """Deduplicated tokens per second of speech, for estimates."""

    @property
    def expected_sizes(self) -> Sizes:
        """For estimates: without a look at a file."""

    def settings(self) -> TokenizationConfig:
        """The settings that have a say in the tokens, for fingerprints; ConfigError where they contradict one another."""

    def given(self) -> dict[str, Any]:
        """What identifies given models, for fingerprints: `digests` and `sizes`; for one that is fitted, the digests of what it takes."""

    def check(self, vocabulary: Vocabulary | None) -> None:
        """Refuse files and sizes that do not go together, or not with a teacher's vocabulary; reads headers and configs only."""

    def vocoder(self) -> Release | None:
        """The release whose vocoder speaks its tokens, checked; None where it speaks with a voice of recordings."""

    def seconds_per_hour(self, device: str) -> float:
        """Of one core, or of the GPU that it uses, per hour of speech."""


@dataclass(frozen=True)
class TokenizerKind:
    """A row of `opening.KINDS`."""

    name: str
    description: str
    """File by which a folder says that its tokenizer is of this kind."""
    rates: Rates
    """Of its streams."""
    choose: Callable[[PipelineConfig], ChosenTokenizer | None]
    """None where the settings ask for another kind."""
    open: Callable[[Path, Vocabulary | None, Places, str], SpeechTokenizer]
    """From a folder with a description, the vocabulary of ids (None: its own), places and device."""

"""The one call that everything which generates goes through: token ids in, token ids out, one at a time.

Ids, never strings: two tokenizers that agree on a string may still give it different ids. What a modality excludes is
excluded by id, before the softmax, in every runtime.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tinywave_core.tokenizers.prompts import OutputModality
from tinywave_core.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 0.8
    """Softmax temperature, above 0; small values come close to the likeliest token."""
    top_p: float = 0.95
    """Nucleus: the smallest set of tokens with this much probability is sampled from."""
    max_new_tokens: int = 200
    """Longest continuation in tokens."""
    min_new_tokens: int = 0
    """Shortest continuation in tokens: </s> is not allowed before."""
    seed: int = 0
    """The same seed gives the same continuation in the same runtime on the same kind of device."""


class Runtime(Protocol):
    """A loaded model."""

    name: str
    """`transformers` or `llama.cpp`."""
    vocabulary: Vocabulary
    context: int
    """Most tokens that prompt and continuation have together."""

    def prefill(self, ids: Sequence[int]) -> None:
        """Read `ids` now, so that a prompt that begins with them starts quicker; changes nothing else."""

    def stream(self, prompt: Sequence[int], sampling: Sampling, output: OutputModality) -> Iterator[int]:
        """New ids of the modality `output` as they are made, without </s>; closing the iterator ends the work.

        ConfigError where prompt and continuation are longer than `context`.
        """

    def close(self) -> None:
        """Give back memory and threads."""

"""The interface of everything that generates: token ids in, token ids out, one at a time.

Ids, never strings: two tokenizers that agree on a string may still give it different ids. What a modality excludes is
excluded by id, before the softmax, in every runtime.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tinywave_core.errors import CheckpointError, ConfigError, TokenError
from tinywave_core.tokenizers.prompts import OutputModality
from tinywave_core.tokenizers.vocabulary import Vocabulary

RuntimeName = Literal["transformers", "llama.cpp"]
RUNTIMES: tuple[RuntimeName, ...] = ("transformers", "llama.cpp")
Dtype = Literal["auto", "float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("auto", "float32", "bfloat16")

DRAFTER, OWN = "drafter", "own"
"""Folder of an export that has its drafter, where the run made one; and how it is asked for in place of a path."""
DRAFTER_FILE = "drafter.json"
"""In that folder, in place of speech.json: vocabulary and GGUF files."""
DRAFTED = 3
"""Tokens that a drafter proposes at a time. The model then reads 4 at once, the fewest that llama.cpp multiplies together on CPUs."""


@dataclass
class Drafting:
    """What became of a drafter's proposals since the runtime was opened."""

    drafted: int = 0
    """Tokens that the drafter proposed and the model read."""
    accepted: int = 0
    """Those of them that the model kept."""

    @property
    def share(self) -> float | None:
        """Of the proposals that were kept; None before the first."""
        return self.accepted / self.drafted if self.drafted else None


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
    """The same seed gives the same continuation in the same runtime, with the same drafter, on the same kind of device."""


class Runtime(Protocol):
    """A loaded model."""

    name: str
    """`transformers` or `llama.cpp`."""
    vocabulary: Vocabulary
    context: int
    """Most tokens that prompt and continuation have together."""
    drafting: Drafting | None
    """None without a drafter."""

    def prefill(self, ids: Sequence[int]) -> None:
        """Read `ids` now, so that a prompt that begins with them starts quicker; changes nothing else."""

    def stream(self, prompt: Sequence[int], sampling: Sampling, output: OutputModality) -> Iterator[int]:
        """New ids of the modality `output` as they are made, without </s>; closing the iterator ends the work.

        ConfigError where prompt and continuation are longer than `context`.
        """

    def close(self) -> None:
        """Give back memory and threads."""


def check_drafter(vocabulary: Vocabulary, drafter: Vocabulary, folder: object) -> None:
    """Raise CheckpointError for a drafter that has other ids than the model."""
    if drafter != vocabulary:
        raise CheckpointError(
            f"the drafter {folder} has the vocabulary {drafter.to_json()}, the model {vocabulary.to_json()}: expected one that was "
            "distilled on the same tokens, with the same --distillation.vocabulary and --export.vocabulary"
        )


def check_request(
    vocabulary: Vocabulary, context: int, prompt: Sequence[int], sampling: Sampling, output: OutputModality
) -> None:
    """Raise ConfigError or TokenError for a prompt that cannot be continued so; the same text for every runtime."""
    check_prompt(vocabulary, context, prompt)
    if not (sampling.temperature > 0 and 0 < sampling.top_p <= 1 and sampling.max_new_tokens >= 1):
        raise ConfigError(
            f"temperature {sampling.temperature}, top_p {sampling.top_p} and max_new_tokens {sampling.max_new_tokens}: expected a "
            "temperature above 0 (0.01 comes close to the likeliest token), top_p above 0 and at most 1, and 1 token or more"
        )
    if not -(2**63) <= sampling.seed < 2**64:
        raise ConfigError(f"a seed of {len(str(sampling.seed))} digits; expected one of 64 bits")
    if len(prompt) + sampling.max_new_tokens > context:
        raise ConfigError(
            f"the prompt has {len(prompt)} tokens and {sampling.max_new_tokens} are to follow, the model reads {context}: give a "
            "shorter prompt, fewer examples or fewer new tokens"
        )
    if output == "text" and vocabulary.is_speech_only:
        raise ConfigError(
            "this model has no text in its vocabulary, so it cannot write: ask for speech, or export with "
            "--export.vocabulary full and a student of --distillation.vocabulary full"
        )


def check_prompt(vocabulary: Vocabulary, context: int, ids: Sequence[int]) -> None:
    """Raise TokenError for ids outside the vocabulary or an empty prompt, ConfigError for too many ids."""
    if not len(ids):
        raise TokenError("the prompt has no tokens; expected <s> and a marker at least (`Vocabulary.prompt_ids`)")
    wrong = next((i for i in ids if not 0 <= i < vocabulary.tokens), None)
    if wrong is not None:
        raise TokenError(
            f"the prompt has the id {wrong}, this model's are 0 to {vocabulary.tokens - 1}: take the ids of the tokenizer beside it"
        )
    if len(ids) > context:
        raise ConfigError(f"the prompt has {len(ids)} tokens, the model reads {context}: give a shorter prompt")

"""A written prompt and its written continuation -> a rating from 1 to 5 by a language model of text that lies here.

The judge is asked by a fixed template that ends where a digit must follow. Its rating is the expectation over the digits 1 to 5 under
its own probabilities: nothing is sampled, so the same judge gives the same rating. Where something else than one of these digits is
likeliest the judge has not answered, and where there are no words there is nothing to rate: both are counted, never left out in silence.
Judges: a directory that transformers loads (safetensors only), or a GGUF file in llama.cpp (`runtimes/rating.py`). Legend: V ids of the judge's vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tinywave_core.errors import CheckpointError
from tinywave_core.evals.figures import Mean, Rated
from tinywave_core.evals.judges import mean

TEMPLATE_VERSION = 1
"""Part of what identifies a rating; raised with every change of the template."""
DIGITS = "12345"
# The bracket is there so that the digit follows without a space, which tokenizers treat differently.
TEMPLATE = """\
Below are beginnings of spoken sentences and how they go on, written down by a machine. Each continuation is rated from 1 to 5: \
5 is fluent and makes sense after the beginning, 3 is partly so, 1 is noise or has nothing to do with it.

Beginning: the children ran down to the beach and
Continuation: threw off their shoes to feel the warm sand
Rating: [5]

Beginning: he opened the letter slowly because
Continuation: the of and table said of the was and to
Rating: [1]

Beginning: we had dinner late that evening so
Continuation: the kitchen was small and the horse is a good friend
Rating: [3]

Beginning: {prompt}
Continuation: {continuation}
Rating: ["""
Failure = Literal["no prompt", "no words", "no digit", "too long"]
GAPS = (("student", "teacher"), ("control", "teacher"), ("student", "control"), ("recording", "teacher"))

LogProbabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rating:
    """What the judge said of one continuation: a value, or why there is none."""

    value: float | None
    failure: Failure | None = None


@dataclass(frozen=True)
class Judge:
    """A loaded judge."""

    digits: list[int]
    """Ids of the digits 1 to 5."""
    next_token: Callable[[str, int], LogProbabilities | None] = field(repr=False)
    """Log-probabilities [V] of what follows a text; None where it is longer than the judge reads. The number is a digit's id."""

    def rate(self, prompt: str, continuation: str) -> Rating:
        """Ask the judge, unless there is nothing to ask."""
        if not prompt.strip():
            return Rating(None, "no prompt")
        if not continuation.strip():
            return Rating(None, "no words")
        logprobs_V = self.next_token(question(prompt, continuation), self.digits[0])
        if logprobs_V is None:
            return Rating(None, "too long")
        value = expected(logprobs_V, self.digits)
        return Rating(value, None if value is not None else "no digit")


def question(prompt: str, continuation: str) -> str:
    """What the judge reads; each text is one line of it."""
    return TEMPLATE.format(prompt=" ".join(prompt.split()), continuation=" ".join(continuation.split()))


def expected(logprobs_V: LogProbabilities, digits: Sequence[int]) -> float | None:
    """Mean of the digits under their probabilities among one another; None where another token is the likeliest."""
    if int(np.argmax(logprobs_V)) not in digits:
        return None
    weights = np.exp(logprobs_V[list(digits)] - np.max(logprobs_V))
    return float(weights @ np.arange(1, len(digits) + 1) / weights.sum())


# Figures -----------------------------------------------------------------------------------------------------------


def rated(ratings: Mapping[str, Sequence[Rating]], seed: int) -> dict[str, Rated]:
    """Means by source: of those that were rated, and of all where each failure counts as the lowest rating."""
    return {source: _rated(own, seed) for source, own in ratings.items()}


def _rated(ratings: Sequence[Rating], seed: int) -> Rated:
    failures = [rating.failure for rating in ratings if rating.failure]
    at_worst = mean([1.0 if rating.value is None else rating.value for rating in ratings], seed)
    assert at_worst is not None
    return Rated(
        rating=mean([rating.value for rating in ratings], seed),
        at_worst=at_worst,
        failures={name: failures.count(name) for name in dict.fromkeys(failures)},
    )


def gaps(ratings: Mapping[str, Sequence[Rating]], seed: int) -> dict[str, Mean]:
    """Paired differences of sources over the prompts of which both continuations were rated; absent where there is none."""
    found = {}
    for first, second in GAPS:
        pairs = zip(ratings[first], ratings[second], strict=True)
        known = [a.value - b.value for a, b in pairs if a.value is not None and b.value is not None]
        if (gap := mean(known, seed)) is not None:
            found[f"{first} less {second}"] = gap
    return found


# Judges ------------------------------------------------------------------------------------------------------------


def is_gguf(path: Path) -> bool:
    """Whether a setting names a GGUF file rather than a directory of transformers."""
    return path.suffix.lower() == ".gguf"


def judge_of_directory(folder: Path, device: str = "cpu") -> Judge:
    """The judge that transformers loads; CheckpointError where it is none. `runtimes/rating.py` has that of a GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM

    from tinywave_core.evals.transcription import load_whole
    from tinywave_core.tokenizers.directory import open_as_transformers

    model = load_whole(AutoModelForCausalLM, folder).to(device)
    tokenizer = open_as_transformers(folder)

    def ids_of(text: str) -> list[int]:
        return [int(i) for i in tokenizer(text)["input_ids"]]

    asked = ids_of(question("a", "b"))
    answered = [ids_of(question("a", "b") + digit) for digit in DIGITS]
    digits = [ids[-1] for ids in answered]
    if any(ids[:-1] != asked for ids in answered) or len(set(digits)) < len(DIGITS):
        raise CheckpointError(
            f"{folder} has a tokenizer without a token for each of the digits {DIGITS} after a bracket; expected that of a language model "
            "that can answer with a digit: take another judge"
        )

    @torch.inference_mode()
    def next_token(text: str, _: int) -> LogProbabilities | None:
        ids = ids_of(text)
        if len(ids) > (getattr(model.config, "max_position_embeddings", None) or len(ids)):
            return None
        logits_V = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0, -1].float()
        return np.asarray(logits_V.log_softmax(-1).cpu().numpy(), np.float64)

    return Judge(digits, next_token)

"""A recorded utterance, continued by a model after its first seconds and spoken: prompt, continuation, and what was really said.

In: raw streams and samples of the utterance. Out: token ids and 16 kHz audio. The same seed and utterance give the same continuation
in any order and company.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import LlamaForCausalLM

from tinywave_core.config.generation import GenerationConfig
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.synthesis.hifigan import Samples
from tinywave_core.synthesis.sampling import continue_tokens
from tinywave_core.synthesis.speaking import Speaker
from tinywave_core.tokenizers.speech import Streams, encode_utterance
from tinywave_core.tokenizers.vocabulary import Vocabulary

_RATES = {"units": 25.0, "pitch": 12.5, "style": 1.0}


@dataclass(frozen=True)
class Continuation:
    """One utterance, continued."""

    prompt: npt.NDArray[np.int64]
    """Ids from <s> to the cut."""
    new: npt.NDArray[np.int64]
    """Ids that the model drew after it."""
    waves: dict[str, Samples]
    """`prompt` as recorded, `continuation` (prompt and new tokens) and `original` (the whole utterance) through the vocoder."""


def continue_utterance(
    row: dict[str, Any],
    samples_N: Samples,
    model: LlamaForCausalLM,
    speaker: Speaker,
    vocabulary: Vocabulary,
    config: GenerationConfig,
) -> Continuation:
    """Continue the utterance of a token row after `config.prompt_s` seconds of it."""
    cut = config.prompt_s
    head = Streams(
        *(np.asarray(row[name][: max(1, round(cut * rate))], dtype=np.int64) for name, rate in _RATES.items())
    )
    whole = Streams(*(np.asarray(row[name], dtype=np.int64) for name in _RATES))
    prompt = encode_utterance(head, vocabulary)[:-1]  # without </s>
    # A seed of its own: neither the number of samples nor their order changes what is drawn for one.
    seed = int.from_bytes(hashlib.sha256(f"{config.seed}/{row['utterance_id']}".encode()).digest()[:6], "little")
    new = continue_tokens(model, prompt, vocabulary, config, seed)
    waves = {
        "prompt": samples_N[: round(cut * SAMPLE_RATE)],
        "continuation": speaker(np.concatenate([prompt, new])),
        "original": speaker(encode_utterance(whole, vocabulary)),
    }
    return Continuation(prompt, new, waves)

"""The reference: a model in transformers, in the precision of its device, one forward pass per token over kept keys and values.

Sampling looks only at the ids that the modality allows, so a student whose text was cut off draws the same tokens as the whole
one, and what cannot be said costs nothing.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import DynamicCache, LlamaForCausalLM
from transformers.generation.logits_process import TopPLogitsWarper

from tinywave_core.config.base import RuntimeConfig
from tinywave_core.devices import pick_device
from tinywave_core.models.llama import load_llama, on_device
from tinywave_core.runtimes.base import Sampling, check_prompt, check_request
from tinywave_core.threads import use_threads
from tinywave_core.tokenizers.allowed import allowed_ids
from tinywave_core.tokenizers.directory import read_directory
from tinywave_core.tokenizers.prompts import OutputModality
from tinywave_core.tokenizers.vocabulary import EOS_ID, Vocabulary

COLDEST, HOTTEST = 1e-6, 1e6
"""Temperatures beyond which nothing changes: the likeliest token, and any. Scores over smaller ones leave float32."""


@dataclass
class _Read:
    """Tokens that a model has read, with their keys and values."""

    ids: list[int] = field(default_factory=list)
    cache: DynamicCache = field(default_factory=DynamicCache)

    def keep(self, prompt: Sequence[int]) -> None:
        """Keep only the common beginning with `prompt`, less its last token, whose logits are not kept."""
        same = next((n for n, (a, b) in enumerate(zip(self.ids, prompt, strict=False)) if a != b), len(self.ids))
        same = min(same, len(prompt) - 1)
        if same < len(self.ids):
            self.cache.crop(same)
            del self.ids[same:]


class TransformersRuntime:
    """See `runtimes.base.Runtime`. Continuations may run side by side; each has keys and values of its own."""

    name = "transformers"

    def __init__(self, model: LlamaForCausalLM, vocabulary: Vocabulary, runtime: RuntimeConfig | None = None) -> None:
        self.model = model.eval()
        self._runtime = runtime
        self.vocabulary = vocabulary
        self.context = int(model.config.max_position_embeddings)
        self._read: _Read | None = None
        self._is_prefilled = False
        self._taking = threading.Lock()

    @classmethod
    def open(cls, folder: Path, runtime: RuntimeConfig) -> "TransformersRuntime":
        """The model in `folder`: float32 on a CPU (where bfloat16 is not faster, and prompts take six times as long), as it is
        stored on a GPU.
        """
        device = pick_device(runtime)
        model = load_llama(folder, dtype="auto") if device.type == "cuda" else load_llama(folder)
        return cls(on_device(model, device), read_directory(folder), runtime)

    def prefill(self, ids: Sequence[int]) -> None:
        """See `Runtime`."""
        check_prompt(self.vocabulary, self.context, ids)
        self._use_threads()
        read = self._take()
        read.keep(ids)
        self._forward(read, ids[len(read.ids) :])
        self._give_back(read, is_prefilled=True)

    def stream(self, prompt: Sequence[int], sampling: Sampling, output: OutputModality) -> Iterator[int]:
        """See `Runtime`. Without a `prefill` before it, it starts from nothing: the same digits, whatever went before."""
        check_request(self.vocabulary, self.context, prompt, sampling, output)
        return self._stream([int(i) for i in prompt], sampling, output)

    def _stream(self, prompt: list[int], sampling: Sampling, output: OutputModality) -> Iterator[int]:
        self._use_threads()
        allowed = torch.tensor(allowed_ids(self.vocabulary, output), device=self.model.device)
        end = int((allowed == EOS_ID).nonzero())
        generator = torch.Generator(self.model.device).manual_seed(sampling.seed)
        read = self._take() if self._is_prefilled else _Read()
        read.keep(prompt)
        new = prompt[len(read.ids) :]
        try:
            for number in range(sampling.max_new_tokens):
                scores = self._forward(read, new)[allowed].float()
                if number < sampling.min_new_tokens:
                    scores[end] = -torch.inf
                token = int(allowed[_draw(scores, sampling, generator)])
                if token == EOS_ID:
                    return
                yield token
                new = [token]
        finally:
            self._give_back(read, is_prefilled=False)

    def close(self) -> None:
        """See `Runtime`."""
        self._read = None
        del self.model

    @torch.inference_mode()
    def _forward(self, read: _Read, ids: Sequence[int]) -> torch.Tensor:
        """Logits [V] after `ids`, which follow the tokens read so far."""
        ids_BT = torch.tensor([list(ids)], device=self.model.device)
        logits_BTV = self.model(ids_BT, past_key_values=read.cache, use_cache=True, logits_to_keep=1).logits
        read.ids += ids
        return logits_BTV[0, -1]

    def _use_threads(self) -> None:
        """Set torch's number of threads, which it keeps per calling thread."""
        if self._runtime:
            use_threads(self._runtime)

    def _take(self) -> _Read:
        with self._taking:
            read, self._read = self._read, None
            return read or _Read()

    def _give_back(self, read: _Read, *, is_prefilled: bool) -> None:
        with self._taking:
            self._read, self._is_prefilled = read, is_prefilled


def _draw(scores: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    return int(torch.multinomial(probabilities(scores, sampling), 1, generator=generator))


def probabilities(scores: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Of each token [V], from its score: temperature first, then the nucleus, as transformers' `generate` has them."""
    scores = scores[None] / min(max(sampling.temperature, COLDEST), HOTTEST)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)  # type: ignore[arg-type]
    return scores[0].softmax(-1)

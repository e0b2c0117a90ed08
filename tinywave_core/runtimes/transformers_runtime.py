"""The reference: a model in transformers, in the precision of its device, one forward pass per token over kept keys and values.

Sampling looks only at the ids that the modality allows, so a student whose text was cut off draws the same tokens as the whole
one, and what cannot be said costs nothing. With a drafter one forward pass reads several tokens: `runtimes/speculative.py`.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from transformers import DynamicCache, LlamaForCausalLM
from transformers.generation.logits_process import TopPLogitsWarper

from tinywave_core.config.base import RuntimeConfig
from tinywave_core.devices import pick_device
from tinywave_core.models.llama import load_llama, on_device
from tinywave_core.runtimes.base import DRAFTED, Drafting, Dtype, Sampling, check_drafter, check_prompt, check_request
from tinywave_core.runtimes.speculative import draw, settle
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

    def keep(self, prompt: Sequence[int], last: int = 1) -> None:
        """Keep only the common beginning with `prompt`, less its `last` tokens, whose logits are not kept."""
        same = next((n for n, (a, b) in enumerate(zip(self.ids, prompt, strict=False)) if a != b), len(self.ids))
        same = min(same, len(prompt) - last)
        if same < len(self.ids):
            self.cache.crop(same)
            del self.ids[same:]


class TransformersRuntime:
    """See `runtimes.base.Runtime`. Continuations may run side by side; each has keys and values of its own."""

    name = "transformers"

    def __init__(
        self,
        model: LlamaForCausalLM,
        vocabulary: Vocabulary,
        runtime: RuntimeConfig | None = None,
        drafter: LlamaForCausalLM | None = None,
    ) -> None:
        self.model = model.eval()
        self._drafter = drafter.eval() if drafter else None
        self._runtime = runtime
        self.vocabulary = vocabulary
        self.context = min(int(each.config.max_position_embeddings) for each in (model, drafter) if each)
        self.drafting = Drafting() if drafter else None
        self._read: _Read | None = None
        self._is_prefilled = False
        self._taking = threading.Lock()

    @classmethod
    def open(
        cls, folder: Path, runtime: RuntimeConfig, drafter: Path | None = None, dtype: Dtype = "auto"
    ) -> "TransformersRuntime":
        """The model in `folder`, with the drafter in another, computing in float32 or bfloat16. `auto` is float32 on a CPU (without
        instructions for it bfloat16 is no faster there, and prompts take six times as long), as it is stored on a GPU.
        """
        device, vocabulary = pick_device(runtime), read_directory(folder)
        if drafter:
            check_drafter(vocabulary, read_directory(drafter), drafter)

        stored_or_float32: torch.dtype | Literal["auto"] = "auto" if device.type == "cuda" else torch.float32
        taken = stored_or_float32 if dtype == "auto" else getattr(torch, dtype)

        def load(path: Path) -> LlamaForCausalLM:
            return on_device(load_llama(path, dtype=taken), device)

        return cls(load(folder), vocabulary, runtime, load(drafter) if drafter else None)

    def prefill(self, ids: Sequence[int]) -> None:
        """See `Runtime`."""
        check_prompt(self.vocabulary, self.context, ids)
        self._use_threads()
        read = self._take()
        read.keep(ids)
        self._forward(self.model, read, ids[len(read.ids) :])
        self._give_back(read, is_prefilled=True)

    def stream(self, prompt: Sequence[int], sampling: Sampling, output: OutputModality) -> Iterator[int]:
        """See `Runtime`. Without a `prefill` before it, it starts from nothing: the same digits, whatever went before."""
        check_request(self.vocabulary, self.context, prompt, sampling, output)
        return self._stream([int(i) for i in prompt], sampling, output)

    def _stream(self, prompt: list[int], sampling: Sampling, output: OutputModality) -> Iterator[int]:
        self._use_threads()
        drawing = _Drawing(self.vocabulary, sampling, output, self.model.device)
        read, drafted = self._take() if self._is_prefilled else _Read(), _Read()
        ids = list(prompt)
        try:
            while (number := len(ids) - len(prompt)) < sampling.max_new_tokens:
                for token in self._next(read, drafted, ids, number, drawing):
                    if token == EOS_ID:
                        return
                    ids.append(token)
                    yield token
        finally:
            self._give_back(read, is_prefilled=False)

    def _next(self, read: _Read, drafted: _Read, ids: list[int], number: int, drawing: "_Drawing") -> list[int]:
        """The tokens after `ids`, of which `number` are new: one, or as many as stand of what the drafter proposes."""
        room = min(DRAFTED, drawing.sampling.max_new_tokens - number - 1)  # the model always adds one of its own
        if not (self._drafter and self.drafting and room):
            return [drawing.ids[draw(self._after(self.model, read, ids, [], number, drawing)[0], drawing.generator)]]
        proposed: list[int] = []
        rows = []
        for _ in range(room):
            rows.append(self._after(self._drafter, drafted, ids, proposed, number, drawing, 1)[0])
            proposed.append(drawing.ids[draw(rows[-1], drawing.generator)])
        target_KV = self._after(self.model, read, ids, proposed, number, drawing)
        places = [drawing.place[token] for token in proposed]
        stand, kept = settle(places, torch.stack(rows), target_KV, drawing.generator)
        self.drafting.drafted += room
        self.drafting.accepted += kept
        return [drawing.ids[place] for place in stand]

    def _after(
        self,
        model: LlamaForCausalLM,
        read: _Read,
        ids: list[int],
        proposed: list[int],
        number: int,
        drawing: "_Drawing",
        last: int | None = None,
    ) -> torch.Tensor:
        """Probabilities [K, V] of what follows `ids` and each proposed token, or only the `last` of them."""
        rows = last or len(proposed) + 1
        whole = [*ids, *proposed]
        read.keep(whole, rows)
        scores_KV = self._forward(model, read, whole[len(read.ids) :], rows)
        first = number + len(proposed) + 1 - rows
        return torch.stack([drawing.probabilities(scores_V, first + k) for k, scores_V in enumerate(scores_KV)])

    def close(self) -> None:
        """See `Runtime`."""
        self._read = self._drafter = None
        del self.model

    @torch.inference_mode()
    def _forward(self, model: LlamaForCausalLM, read: _Read, ids: Sequence[int], last: int = 1) -> torch.Tensor:
        """Logits [K, V] after the `last` of `ids`, which follow the tokens read so far."""
        ids_BT = torch.tensor([list(ids)], device=model.device)
        logits_BTV = model(ids_BT, past_key_values=read.cache, use_cache=True, logits_to_keep=last).logits
        read.ids += ids
        return logits_BTV[0]

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


class _Drawing:
    """How the tokens of one continuation are drawn."""

    def __init__(
        self, vocabulary: Vocabulary, sampling: Sampling, output: OutputModality, device: torch.device
    ) -> None:
        self.sampling = sampling
        self.ids = allowed_ids(vocabulary, output)
        self.place = {token: place for place, token in enumerate(self.ids)}
        self.generator = torch.Generator(device).manual_seed(sampling.seed)
        self._allowed = torch.tensor(self.ids, device=device)

    def probabilities(self, scores_V: torch.Tensor, number: int) -> torch.Tensor:
        """Of each allowed id as the new token `number`, from 0."""
        allowed = scores_V[self._allowed].float()
        if number < self.sampling.min_new_tokens:
            allowed[self.place[EOS_ID]] = -torch.inf
        return probabilities(allowed, self.sampling)


def probabilities(scores: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Of each token [V], from its score: temperature first, then the nucleus, as transformers' `generate` has them."""
    scores = scores[None] / min(max(sampling.temperature, COLDEST), HOTTEST)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)  # type: ignore[arg-type]
    return scores[0].softmax(-1)

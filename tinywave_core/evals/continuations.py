"""Prompts -> sampled continuations, several at a time, each with randomness of its own.

A row is drawn by the largest of log-probability plus Gumbel noise, which is sampling from the softmax; the noise comes from the row's
seed alone, so what it is batched with changes a continuation only where it changes the last digits of the logits.
Legend: R rows, V ids of the vocabulary, L tokens of a prompt.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import GenerationConfig, LlamaForCausalLM, LogitsProcessor, LogitsProcessorList

from tinywave_core.models.trim import in_ids_of, renumbering
from tinywave_core.progress import Progress, no_progress
from tinywave_core.tokenizers.allowed import allowed_ids
from tinywave_core.tokenizers.prompts import OutputModality
from tinywave_core.tokenizers.vocabulary import EOS_ID, Ids, Vocabulary

_ROWS = 8


class Allowed(LogitsProcessor):
    """Leaves what a continuation of this kind may hold."""

    def __init__(self, vocabulary: Vocabulary, output: OutputModality) -> None:
        self.allowed = allowed_ids(vocabulary, output)

    def __call__(self, _: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        left = torch.full_like(scores, -torch.inf)
        left[:, self.allowed] = scores[:, self.allowed]
        return left  # type: ignore[return-value]


class GumbelTopK(LogitsProcessor):
    """Makes the largest score a sample of the `top_k` likeliest at a temperature; a generator per row."""

    def __init__(self, seeds: Sequence[int], temperature: float, top_k: int) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature, self.top_k = temperature, top_k

    def __call__(self, _: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        scores_RV = scores.float() / self.temperature
        least_R1 = scores_RV.topk(min(self.top_k, scores_RV.shape[-1])).values[:, -1:]
        uniform_RV = torch.stack([torch.rand(scores_RV.shape[-1], generator=each) for each in self.generators])
        noise_RV = -torch.log(-torch.log(uniform_RV)).to(scores_RV.device)
        chosen = (scores_RV + noise_RV).masked_fill(scores_RV < least_R1, -torch.inf)
        return chosen  # type: ignore[return-value]


@torch.no_grad()
def continuations(
    model: LlamaForCausalLM,
    prompts: Sequence[npt.NDArray],
    vocabulary: Vocabulary,
    seeds: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    output: OutputModality = "speech",
    progress: Progress = no_progress,
) -> list[Ids]:
    """New ids of speech, or of another `output`, after every prompt [L] (which starts with <s> and a marker), up to </s>, without it.

    Prompts and what is said are in the ids of `vocabulary`, also of a model of speech alone, which has ids of its own: what it says is
    compared, and spoken, in those of the shards.
    """
    is_trimmed = renumbering(model, vocabulary) is not None
    prompts = in_ids_of(model, vocabulary, prompts)
    allowed = Allowed(vocabulary.speech_only() if is_trimmed else vocabulary, output)
    drawn: list[Ids] = []
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, bos_token_id=None, eos_token_id=EOS_ID, pad_token_id=0
    )
    for start in range(0, len(prompts), _ROWS):
        rows = slice(start, start + _ROWS)
        ids, mask = _left_padded(prompts[rows])
        sampled = GumbelTopK(seeds[rows], temperature, top_k)
        out = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            use_model_defaults=False,
            logits_processor=LogitsProcessorList([allowed, sampled]),
        )
        drawn += [_until_end(new) for new in out[:, ids.shape[1] :].cpu().numpy()]
        progress(len(drawn), len(prompts), "continuations")
    if not is_trimmed:
        return drawn
    back = np.array(vocabulary.speech_only_ids(), np.int64)
    return [back[ids] for ids in drawn]


def _left_padded(prompts: Sequence[npt.NDArray]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, prompts))
    ids = np.zeros((len(prompts), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _until_end(new: Ids) -> Ids:
    ends = np.flatnonzero(new == EOS_ID)
    return new[: ends[0]] if len(ends) else new

"""Continuations of a token prompt by transformers' own `generate`, restricted to a modality by ids, never by strings."""

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaForCausalLM, LogitsProcessor, LogitsProcessorList

from tinywave_core.config.generation import GenerationConfig
from tinywave_core.tokenizers.prompts import OutputModality, forbidden_ids
from tinywave_core.tokenizers.vocabulary import EOS_ID, Vocabulary


class OutputMask(LogitsProcessor):
    """Bans what the output modality excludes, and always the padding rows, which no tokenizer can name.

    </s> stays, so that a continuation can end. SpiritLM bans the same tokens but leaves the padding rows.
    """

    def __init__(self, vocabulary: Vocabulary, output: OutputModality) -> None:
        self.banned = forbidden_ids(vocabulary, output)
        self.padding = vocabulary.tokens

    def __call__(self, _: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        end = scores[:, EOS_ID].clone()
        scores[:, self.banned.start : self.banned.stop] = float("-inf")
        scores[:, self.padding :] = float("-inf")
        scores[:, EOS_ID] = end
        return scores


@torch.no_grad()
def continue_tokens(
    model: LlamaForCausalLM,
    prompt: npt.NDArray,
    vocabulary: Vocabulary,
    config: GenerationConfig,
    seed: int,
    output: OutputModality = "speech",
) -> npt.NDArray[np.int64]:
    """New ids of the modality `output` after `prompt` (which starts with <s> and a marker), without the prompt and </s>.

    The same seed gives the same continuation on the same kind of device.
    """
    ids = torch.from_numpy(np.asarray(prompt, dtype=np.int64))[None].to(model.device)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=0,
            max_new_tokens=config.max_new_tokens,
            min_new_tokens=min(config.min_new_tokens, config.max_new_tokens),
            pad_token_id=0,
            logits_processor=LogitsProcessorList([OutputMask(vocabulary, output)]),
        )
    new = out[0, ids.shape[1] :].cpu().numpy()
    return new[: np.argmax(new == EOS_ID)] if (new == EOS_ID).any() else new

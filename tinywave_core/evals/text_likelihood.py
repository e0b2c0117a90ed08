"""Likelihood of short texts under a causal language model that lies in a directory. Safetensors only, nothing is fetched."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tinywave_core.errors import CheckpointError
from tinywave_core.evals.transcription import load_whole
from tinywave_core.tokenizers.directory import open_as_transformers


@dataclass(frozen=True)
class TextModel:
    """A loaded model with its tokenizer."""

    model: Any
    tokenizer: Any
    start: int
    """What a text is read after: the tokenizer's beginning of text, or its end where it has no beginning (as GPT-2)."""
    end: int

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "TextModel":
        """CheckpointError where the directory has no whole causal language model with an end of text."""
        from transformers import AutoModelForCausalLM

        model = load_whole(AutoModelForCausalLM, folder).to(device)
        tokenizer = open_as_transformers(folder)
        end = tokenizer.eos_token_id
        if end is None:
            raise CheckpointError(
                f"the tokenizer of {folder} has no end of text (eos_token): expected that of a causal language model"
            )
        return cls(model, tokenizer, end if tokenizer.bos_token_id is None else tokenizer.bos_token_id, end)

    @torch.inference_mode()
    def mean_nll(self, text: str) -> float:
        """Mean NLL per token in nats; an empty text is one that ends where it begins."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] or [self.end]
        sequence = torch.tensor([[self.start, *ids]], device=self.model.device)
        logits = self.model(input_ids=sequence, use_cache=False).logits[0, :-1].float()
        return float(torch.nn.functional.cross_entropy(logits, sequence[0, 1:]))

"""Settings of teacher adaptation: brief fine-tuning of the teacher on the training tokens."""

from typing import Literal

from pydantic import Field, model_validator

from tinywave_core.config.base import Config, TrainingConfig


class FreshTeacherConfig(Config):
    """A small Llama that starts from random weights, for runs without a released teacher."""

    layers: int = Field(6, ge=2, le=128)
    """Decoder blocks."""
    width: int = Field(128, ge=16, le=16384)
    """Hidden size."""
    heads: int = Field(4, ge=1, le=128)
    """Attention heads; must divide the width."""
    intermediate: int = Field(352, ge=16)
    """Width of the gated MLP."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "FreshTeacherConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class LoraConfig(Config):
    """Low-rank adapters on all attention and MLP projections, merged into the weights afterwards."""

    rank: int = Field(16, ge=1, le=512)
    """Rank of the adapters."""
    alpha: float = Field(32.0, gt=0)
    """Scale: the adapter's output is multiplied by alpha / rank."""


class AdaptationConfig(Config):
    """Which teacher, and how it is fitted to the domain."""

    teacher: str = "fresh"
    """`fresh`: a small Llama from random weights; `spiritlm`: the language model of the release in `spiritlm_dir`, base or
    expressive as tokenization.tokens says; otherwise the directory of a Llama checkpoint in Hugging Face layout."""
    fresh: FreshTeacherConfig = FreshTeacherConfig()
    """Shape of the fresh teacher."""
    id_convention: Literal["slow", "fast"] = "slow"
    """How a teacher with a `tokenizer.model` turns strings into ids: as SpiritLM does (transformers' slow tokenizer: <s>, a
    lone word boundary, [Speech], …), or as transformers' fast one. The shards, the student and its export follow it."""
    method: Literal["full", "lora"] = "full"
    """`full` trains all weights; `lora` trains adapters (the paper's teacher correction) and merges them."""
    lora: LoraConfig = LoraConfig()
    """Adapters; used only with method `lora`."""
    packing: Literal["separate", "separators"] = "separate"
    """Sequences that share a row: `separate` never attend to one another; `separators` do, across the <s> and </s> between them.
    Distillation always keeps them separate, since cached targets belong to a sequence on its own."""
    floor: Literal["counts", "none"] = "counts"
    """What the teacher must be better than on held-out speech before its predictions are cached. `counts`: the best table of
    counts of one to four tokens of its training speech; `none`: nothing. Changes no result, and so identifies none."""
    training: TrainingConfig = TrainingConfig(steps=600, passes=16, batch_tokens=1024, learning_rate=3e-3)
    """The training run."""

    @model_validator(mode="after")
    def _lora_needs_a_checkpoint(self) -> "AdaptationConfig":
        if self.method == "lora" and self.teacher == "fresh":
            raise ValueError(
                "method `lora` needs `teacher`, a checkpoint to adapt; a fresh teacher is trained with `full`"
            )
        return self

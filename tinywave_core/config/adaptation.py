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


class BaseTrainingConfig(TrainingConfig):
    """A training run of a model that knows speech already: brief, at a low rate (infra/LAB_LOG.md, 2026-11-27)."""

    steps: int = Field(300, ge=1)
    """Optimiser steps at most; fewer where `passes` are over before."""
    passes: float | None = Field(4.0, gt=0)
    """Passes over the training speech at most. None: `steps` alone."""
    batch_tokens: int = Field(1024, ge=64)
    """Tokens in one optimiser step, padding included: rows of `sequence_length` tokens."""
    learning_rate: float = Field(3e-4, gt=0, le=1)
    """Peak learning rate."""
    dropout: float | None = Field(0.1, ge=0, lt=1)
    """As in `training`; None is 0."""


class AdaptationConfig(Config):
    """Which teacher, and how it is fitted to the domain."""

    came_later = ("text_rows", "most_text_tokens")

    teacher: str = "auto"
    """`fresh`: a small Llama from random weights; `base`: the one that comes with TinyWave, with its codebooks; `auto`: `base` where
    there is little speech (base_below_hours) and the other settings go with it, else `fresh`; `spiritlm`: the language model of the
    release in `spiritlm_dir`, base or expressive as tokenization.tokens says; otherwise a directory in Hugging Face layout: a Llama
    with units in its vocabulary, or a text model (Llama, Mistral, Qwen2, Qwen3, GPT-NeoX or OPT with a tokenizer.json), whose
    vocabulary is enlarged by the units of this corpus."""
    text_rows: Literal["as_needed", "keep"] = "as_needed"
    """Which text tokens a teacher that starts from a text model has. `as_needed`: all where text is trained on (interleaving, a text
    corpus), else none, as TWIST; `keep`: all, so that an interleaved student can go on from the one made here. Of no other teacher."""
    most_text_tokens: int | None = Field(None, ge=1)
    """Text tokens that a teacher that starts from a text model keeps at most. Those that came last in its byte-pair encoding go first,
    and a word that was one of them is written as the parts it was merged from. None: all of them. For vocabularies with more tokens
    than shards can name (65,536 with the units: Qwen, Llama 3), and for a smaller student."""
    base: str | None = None
    """Folder of the base, as `make base` writes one; none: the one that comes with TinyWave."""
    base_below_hours: float = Field(2.0, ge=0)
    """Hours of training speech below which `auto` starts from the base. Chooses a teacher, identifies none."""
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
    """The training run of any teacher but the base."""
    base_training: BaseTrainingConfig = BaseTrainingConfig()
    """That of the base, which knows speech already and is adapted briefly."""

    @property
    def own_training(self) -> TrainingConfig:
        """The training run of the teacher that is set."""
        return self.base_training if self.teacher == "base" else self.training

    @model_validator(mode="after")
    def _lora_needs_a_checkpoint(self) -> "AdaptationConfig":
        if self.method == "lora" and self.teacher in ("fresh", "auto"):
            raise ValueError(
                "method `lora` needs `teacher`, a checkpoint or `base` to adapt; a fresh teacher is trained with `full`"
            )
        return self

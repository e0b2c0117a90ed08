"""Settings of preference tuning: the distilled student learns which of its own continuations a judge finds better."""

from typing import Any, Literal

from pydantic import Field, model_validator

from tinywave_core.config.base import Config

JudgeName = Literal["teacher", "rating", "perplexity"]
_LONGEST_ROW = 8192


class PreferenceConfig(Config):
    """Preference tuning (DPO, arXiv 2305.18290) of the distilled student. It continues the beginnings of training speech several times, a
    judge ranks what it said, and it learns to prefer the better. Held-out speech has no part in it."""

    share: float = Field(0.0, ge=0, le=1)
    """Share of the training sequences whose beginning is a prompt, drawn by a hash of their ids. 0: no preference tuning. All sequences
    that validate are prompts too, on which the tuning is checked and never trained."""
    prompt_tokens: int = Field(64, ge=2, le=4096)
    """Tokens of a prompt, `<s>` and marker included. Shorter sequences are no prompts."""
    new_tokens: int = Field(96, ge=1, le=4096)
    """Tokens of a continuation. Only continuations of exactly so many are compared, so that length cannot win."""
    candidates: int = Field(8, ge=2, le=64)
    """Continuations of one prompt, from which pairs are made."""
    pairs_per_prompt: int = Field(2, ge=1, le=32)
    """Pairs of one prompt at most: those with the largest gaps, each continuation in one pair only."""
    temperature: float = Field(1.0, gt=0, le=5)
    """Softmax temperature of the student while it speaks."""
    top_k: int = Field(50, ge=1)
    """Tokens that are sampled from: the likeliest ones."""
    judge: JudgeName = "teacher"
    """Who ranks. `teacher`: its mean log-probability of the continuation's tokens, in nats. `rating`: evaluation.generated.judge, which
    rates from 1 to 5 what evaluation.generated.asr wrote down. `perplexity`: mean log-probability of that text under
    evaluation.generated.language_model, in nats per token of text."""
    least_gap: float = Field(0.05, ge=0)
    """Smallest difference of the judge's scores in a pair, in the judge's unit."""
    more_repetition: float = Field(0.0, ge=0, le=1)
    """By how much the better continuation may repeat itself more than the worse, as auto-BLEU of its tokens (the share of token pairs
    that occur again). A judge that likes repetition teaches it otherwise. 1: no limit."""
    least_pairs: int = Field(16, ge=1)
    """Fewer pairs to train on end the run with an error."""
    seed: int = Field(0, ge=0)
    """Of the prompts, the sampling and the order of training."""
    beta: float = Field(0.1, gt=0, le=10)
    """How dear it is to move away from the student before (the beta of DPO): a small one allows more."""
    likelihood_weight: float = Field(0.0, ge=0)
    """Weight of the negative log-likelihood per token of the better continuation, beside the preference loss (RPO, arXiv 2404.19733)."""
    steps: int = Field(200, ge=1)
    """Optimiser steps at most."""
    passes: float = Field(2.0, gt=0)
    """Passes over the pairs at most."""
    batch_pairs: int = Field(16, ge=1, le=1024)
    """Pairs in one optimiser step."""
    learning_rate: float = Field(3e-5, gt=0, le=1)
    """Peak learning rate; well below that of distillation, or held-out likelihood is lost (decision 59)."""

    @property
    def row_tokens(self) -> int:
        """Tokens of a pair: its prompt twice, and both continuations."""
        return 2 * (self.prompt_tokens + self.new_tokens)

    @property
    def sampling(self) -> dict[str, Any]:
        """How the student speaks, as `evals.continuations` takes it."""
        return {"max_new_tokens": self.new_tokens, "temperature": self.temperature, "top_k": self.top_k}

    def of_pairs(self) -> "PreferenceConfig":
        """What decides which pairs there are: how they are learned from is no part of it."""
        return self._without("beta", "likelihood_weight", "steps", "passes", "batch_pairs", "learning_rate")

    def of_comparison(self) -> "PreferenceConfig":
        """What decides how the student is compared before and after."""
        pairs = ("share", "candidates", "pairs_per_prompt", "least_gap", "more_repetition", "least_pairs")
        return self.of_pairs()._without(*pairs)

    def _without(self, *names: str) -> "PreferenceConfig":
        return self.model_copy(update={name: type(self).model_fields[name].default for name in names})

    @model_validator(mode="after")
    def _pair_is_a_row(self) -> "PreferenceConfig":
        if not 32 <= self.row_tokens <= _LONGEST_ROW:
            raise ValueError(
                f"prompt_tokens {self.prompt_tokens} and new_tokens {self.new_tokens} make a pair of {self.row_tokens} tokens; expected 32 to "
                f"{_LONGEST_ROW}: change one of them"
            )
        return self

    @model_validator(mode="after")
    def _pairs_have_candidates(self) -> "PreferenceConfig":
        if self.pairs_per_prompt > self.candidates // 2:
            raise ValueError(
                f"pairs_per_prompt is {self.pairs_per_prompt}, but {self.candidates} candidates make {self.candidates // 2} pairs at most: "
                "raise candidates"
            )
        return self

"""Settings of logit caching: unbiased sparse teacher targets, once per training sequence."""

from pydantic import Field

from tinywave_core.config.base import Config


class LogitCachingConfig(Config):
    """How much of the teacher's distribution is kept per token."""

    entries: int = Field(12, ge=2, le=255)
    """Entries K per token: exact head, sampled tail (12 for base tokens, 16 for expressive ones)."""
    temperature: float = Field(1.0, gt=0, le=10)
    """Softmax temperature at capture; it is fixed for the cache, since truncated logits cannot be re-tempered."""
    seed: int = Field(0, ge=0)
    """Seed of the tail sampler, mixed with sequence id and position."""

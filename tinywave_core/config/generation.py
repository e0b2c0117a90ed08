"""Settings of generation: held-out prompts are continued as tokens and as audio."""

from pydantic import Field

from tinywave_core.config.base import Config
from tinywave_core.config.vocoder import VocoderConfig


class GenerationConfig(Config):
    """Prompts, sampling and synthesis."""

    samples: int = Field(4, ge=1, le=1000)
    """Held-out utterances that are continued."""
    prompt_s: float = Field(3.0, gt=0.2, le=60)
    """Length of the prompt in seconds."""
    max_new_tokens: int = Field(150, ge=1, le=4096)
    """Longest continuation in tokens."""
    min_new_tokens: int = Field(50, ge=0, le=4096)
    """Shortest continuation in tokens: the end of speech is not allowed before (at most `max_new_tokens`)."""
    temperature: float = Field(0.8, gt=0, le=5)
    """Softmax temperature of sampling (SpiritLM's examples: 0.8-0.9)."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Nucleus: the smallest set of tokens with this much probability is sampled from."""
    vocoder: VocoderConfig = VocoderConfig()
    """What speaks the tokens."""
    seed: int = Field(0, ge=0)
    """Seed of the sampling, mixed with the utterance id."""

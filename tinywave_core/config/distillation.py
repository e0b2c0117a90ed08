"""Settings of distillation: a student of chosen teacher layers learns from tokens, logits, hidden states, attention."""

from typing import Literal

from pydantic import Field, model_validator

from tinywave_core.config.base import Config, TrainingConfig


class LossWeightsConfig(Config):
    """Weights of the four terms of the loss (the paper does not publish its own)."""

    language_model: float = Field(0.1, ge=0)
    """Cross-entropy on the true tokens."""
    logits: float = Field(0.9, ge=0)
    """Forward KL from the teacher's cached distribution, times temperature squared."""
    hidden: float = Field(0.5, ge=0)
    """1 - cosine between mapped hidden states; needs the teacher in the training step."""
    attention: float = Field(0.1, ge=0)
    """KL between mapped attention maps on sampled rows; needs the teacher in the training step."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> "LossWeightsConfig":
        if not (self.language_model or self.logits or self.hidden or self.attention):
            raise ValueError("all four weights are 0, so there is nothing to learn from")
        return self


class DistillationConfig(Config):
    """The student and what it learns from."""

    layers: int = Field(2, ge=1, le=128)
    """Decoder blocks of the student; width, heads and vocabulary are the teacher's."""
    layer_map: Literal["paper", "segment_end"] = "paper"
    """`paper`: student block l learns from, and starts as, teacher block 3l + 4 (of 32:10; in general the last blocks
    at equal stride). `segment_end`: evenly spaced blocks; each learns from the teacher block before the next copied one."""
    weights: LossWeightsConfig = LossWeightsConfig()
    """Weights of the loss terms."""
    attention_rows: int = Field(32, ge=1)
    """Query rows sampled per sequence and step for the attention term."""
    attention_heads: int = Field(4, ge=1)
    """Heads sampled per step for the attention term."""
    training: TrainingConfig = TrainingConfig(steps=400, batch_tokens=1024, learning_rate=2e-3)
    """The training run; the undistilled control uses the same."""

    def control(self) -> "DistillationConfig":
        """The same student, start and steps, learning from the true tokens only."""
        alone = LossWeightsConfig(language_model=1.0, logits=0.0, hidden=0.0, attention=0.0)
        return self.model_copy(update={"weights": alone})

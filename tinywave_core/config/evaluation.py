"""Settings of evaluation on the held-out recordings."""

from pydantic import Field

from tinywave_core.config.base import Config


class EvaluationConfig(Config):
    """What is measured on teacher, student and undistilled control."""

    cloze_prompt_share: float = Field(0.5, gt=0, lt=1)
    """Share of an utterance's tokens that is the prompt of the continuation cloze."""
    cloze_min_tokens: int = Field(24, ge=4)
    """Shortest prompt and shortest continuation of a cloze item, in tokens."""
    cloze_items: int = Field(500, ge=1)
    """Most cloze items (drawn by utterance id); each pits the true continuation against one of another utterance."""
    cloze_min_words: int = Field(4, ge=1)
    """Fewest words in either half of an item of the cross-modal cloze, which needs transcribed held-out speech."""
    seed: int = Field(0, ge=0)
    """Seed of the wrong continuations and of the bootstrap."""

"""What generation reports of its samples."""

from tinywave_core.steps.base import Summary


class SamplesSummary(Summary):
    """Continuations of held-out prompts."""

    samples: int
    new_tokens: int
    """Of all continuations."""
    seconds: float
    """Of audio, prompts included."""
    vocoder: str
    """What spoke them, in words."""

"""Events while a continuation is made, in order; times are seconds since the request."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Reason = Literal["end", "length", "stopped"]
"""The model ended it, it is as long as was asked for, or somebody stopped it."""


@dataclass(frozen=True)
class TokenMade:
    """One more id."""

    id: int
    """In the model's vocabulary."""
    at_s: float
    """Seconds since the request."""


@dataclass(frozen=True)
class TextMade:
    """One more piece of text, in whole characters."""

    text: str
    """UTF-8; what was written so far is all pieces joined."""
    at_s: float
    """Seconds since the request."""


@dataclass(frozen=True)
class AudioMade:
    """More speech, at 16 kHz."""

    samples: npt.NDArray[np.float32] = field(repr=False)
    """Float32 [n], mono, between -1 and 1."""
    at_s: float
    """Seconds since the request."""


@dataclass(frozen=True)
class Timings:
    """Time and tokens of a continuation."""

    prompt_tokens: int
    """Tokens that the model read."""
    new_tokens: int
    """Tokens that it made."""
    audio_s: float
    """Length of its speech."""
    first_token_s: float | None
    """Seconds until its first token; None where there is none."""
    first_audio_s: float | None
    """None where nothing was said."""
    last_token_s: float | None
    """Seconds until its last token."""
    total_s: float
    """Seconds until the end."""

    @property
    def tokens_per_second(self) -> float | None:
        """After the first one, while what they say is spoken."""
        took = (self.last_token_s or 0.0) - (self.first_token_s or 0.0)
        return (self.new_tokens - 1) / took if took > 0 else None

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work per second of speech, everything counted; below 1 it is faster than it is heard."""
        return self.total_s / self.audio_s if self.audio_s else None

    def to_json(self) -> dict[str, Any]:
        """The figures rounded, with those derived from them."""
        values = {
            "first_token_s": self.first_token_s,
            "first_audio_s": self.first_audio_s,
            "total_s": self.total_s,
            "audio_s": self.audio_s,
            "tokens_per_second": self.tokens_per_second,
            "real_time_factor": self.real_time_factor,
        }
        return {name: None if value is None else round(value, 3) for name, value in values.items()}


@dataclass(frozen=True)
class Done:
    """The end; nothing follows."""

    reason: Reason
    """`end`: the model ended it; `length`: as many tokens as were asked for; `stopped`: somebody stopped it, or enough was heard."""
    timings: Timings
    """Of the whole continuation."""


Event = TokenMade | TextMade | AudioMade | Done

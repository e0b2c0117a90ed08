"""The streams that speech tokens come from, and the rates at which codes come: the one table of both.

A stream has two names. As codes it is `units`, `pitch` or `style`: columns of tokens.parquet, fields of `speech.Streams`. As tokens
it is `hubert`, `pitch` or `style`, with the letters of SpiritLM's pieces: fields of every vocabulary.json, which exports have.
"""

from dataclasses import dataclass
from typing import Literal

StreamName = Literal["units", "pitch", "style"]
TokenKind = Literal["hubert", "pitch", "style"]


@dataclass(frozen=True)
class Stream:
    """One of them."""

    name: StreamName
    kind: TokenKind
    letters: str
    """Of its tokens: [Hu3]."""
    deduplicated: bool
    """Whether the first code of a run stands for all of it."""


# In the order of their ids. Style keeps its runs: its tokens are a second apart, which is what speech is timed by.
STREAMS = (
    Stream("units", "hubert", "Hu", deduplicated=True),
    Stream("pitch", "pitch", "Pi", deduplicated=True),
    Stream("style", "style", "St", deduplicated=False),
)
LETTERS = "|".join(stream.letters for stream in STREAMS)
"""For patterns: Hu|Pi|St."""


@dataclass(frozen=True)
class Rates:
    """Codes per second of speech, by stream."""

    units: float
    pitch: float = 1.0  # of a stream that a tokenizer does not have, any rate will do
    style: float = 1.0
    units_in_merge: float | None = None
    """By which the time of a unit is told where it is to be merged with others; none: `units`."""

    @property
    def frames_hz(self) -> dict[StreamName, float]:
        """How many codes of each stream a second of audio gives."""
        return {"units": self.units, "pitch": self.pitch, "style": self.style}

    @property
    def merge_hz(self) -> dict[StreamName, float]:
        """By which codes are placed in time: code i of a stream begins at i / rate."""
        return self.frames_hz | {"units": self.units_in_merge or self.units}


# HuBERT's hop is 640 samples: 25 units a second; pitch has 1280 samples to a code. HuBERT's field is 720 samples, so a chunk of 100 s,
# the longest that SpiritLM tokenizes at once, has (1,600,000 - 720) // 640 + 1 = 2499 units: by that rate SpiritLM places them
# among pitch and style. The order of the tokens that its models were trained on comes from it, so it is not to be rounded.
SPIRITLM_RATES = Rates(units=25.0, pitch=12.5, style=1.0, units_in_merge=24.99)


def rates_with_units_at(hz: float) -> Rates:
    """Of units of any rate, with pitch and style beside them."""
    # At 25 Hz SpiritLM's very own: what speaks its tokens speaks these, and their ids are ordered as its.
    return SPIRITLM_RATES if hz == SPIRITLM_RATES.units else Rates(units=hz, pitch=12.5, style=1.0)

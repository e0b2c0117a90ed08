"""Names and ids of all tokens, both ways: the one place that knows the order text, [Text], [Speech], [Hu], [Pi], [St].

SpiritLM's two layouts are SPIRITLM_BASE and SPIRITLM_EXPRESSIVE. A prompt begins in one of two ways, which differ by one
id: `fast` is <s>, a modality marker, then unit tokens; `slow` has the lone word-boundary piece ▁ between <s> and the
marker, as the tokenizer that SpiritLM was trained with puts it. `boundary` says which.
"""

import re
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tinywave_core.errors import ConfigError, TokenError
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.tokenizers.streams import LETTERS, SPIRITLM_RATES, STREAMS, Rates, Stream, TokenKind

Convention = Literal["slow", "fast"]
Kind = Literal["text", "marker"] | TokenKind
KINDS: tuple[Kind, ...] = ("text", "marker", *(stream.kind for stream in STREAMS))
MOST_ROWS = 1 << 24
MOST_UNITS = 10_000  # of a kind: their numbers have four digits
UNK_ID, BOS_ID, EOS_ID = 0, 1, 2  # <unk>, <s>, </s> as in Llama's tokenizers
BYTE_TEXT = 259  # <unk>, <s>, </s> and the 256 bytes: the text part of a fresh teacher
# ASCII digits only, at most four: \d would accept other scripts, and long ids would reach the integer parser.
_TOKEN = re.compile(rf"\[(?:(Text|Speech)|({LETTERS})([0-9]{{1,4}}))\]")

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """Sizes of the parts of the vocabulary; everything else follows."""

    text: int
    """Text pieces, ids 0 … text - 1."""
    hubert: int
    """[Hu…] tokens."""
    pitch: int = 0
    """[Pi…] tokens; 0 for base vocabularies that have none."""
    style: int = 0
    """[St…] tokens; likewise."""
    padded: int = 0
    """Rows of the model's embedding; 0 means exactly as many as tokens."""
    boundary: int | None = None
    """Id of the lone word-boundary piece ▁ that the slow convention puts before a leading marker; None: the fast
    convention."""
    rates: Rates = SPIRITLM_RATES
    """Of the streams behind the tokens. They are here because ids alone do not say how long they last."""

    @property
    def convention(self) -> Convention:
        return "fast" if self.boundary is None else "slow"

    @property
    def is_of_bytes(self) -> bool:
        """Whether it is a fresh teacher's: bytes as text, no padding, the fast convention."""
        return (self.text, self.padded, self.boundary) == (BYTE_TEXT, 0, None)

    def speech_only_ids(self) -> list[int]:
        """Ids that a model for speech alone needs: <unk>, <s>, </s>, the boundary of the slow convention, markers, units."""
        boundary = [] if self.boundary is None else [self.boundary]
        return [UNK_ID, BOS_ID, EOS_ID, *boundary, *range(self.text, self.tokens)]

    def speech_only(self) -> "Vocabulary":
        """The vocabulary of `speech_only_ids`, renumbered in that order, without padding."""
        kept = EOS_ID + 1
        boundary = None if self.boundary is None else kept
        return replace(self, text=kept + (boundary is not None), padded=0, boundary=boundary)

    @property
    def is_speech_only(self) -> bool:
        """Whether there is no text in it."""
        return self == self.speech_only()

    def require_same(self, other: "Vocabulary", own: str, others: str) -> None:
        """ConfigError, naming both, where another vocabulary gives other ids."""
        if self != other:
            mine, yours = self.to_json() | {"ids": self.convention}, other.to_json() | {"ids": other.convention}
            names = [k for k in mine | yours if mine.get(k) != yours.get(k)]
            differ = ", ".join(f"{k} {mine.get(k, 'as usual')} and {yours.get(k, 'as usual')}" for k in names)
            raise ConfigError(
                f"{own} and {others} have different vocabularies ({differ}): the same id would mean different things. Tokenize "
                "with the teacher that is used, or use the teacher that the tokens were made for"
            )

    def prompt_ids(self, marker: int) -> list[int]:
        """What every prompt begins with: <s>, the boundary of the slow convention, `marker`."""
        boundary = [] if self.boundary is None else [self.boundary]
        return [BOS_ID, *boundary, marker]

    @cached_property
    def text_marker(self) -> int:
        return self.text

    @cached_property
    def speech_marker(self) -> int:
        return self.text + 1

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Tokens of each stream, by kind, in the order of their ids."""
        return {"hubert": self.hubert, "pitch": self.pitch, "style": self.style}

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Those that it has tokens for."""
        return tuple(stream for stream in STREAMS if self.sizes[stream.kind])

    @cached_property
    def first(self) -> dict[str, int]:
        """First id of each kind of speech token."""
        starts = np.cumsum([self.text + 2, *self.sizes.values()]).tolist()
        return dict(zip(self.sizes, starts, strict=False))

    @cached_property
    def tokens(self) -> int:
        """Number of tokens that have a name."""
        return self.text + 2 + sum(self.sizes.values())

    @cached_property
    def rows(self) -> int:
        """Rows of the embedding matrix."""
        if self.padded and self.padded < self.tokens:
            raise TokenError(f"the vocabulary has {self.tokens} tokens but is padded to {self.padded} rows only")
        return self.padded or self.tokens

    def speech_ids(self) -> range:
        """Ids of all unit tokens."""
        return range(self.first["hubert"], self.tokens)

    def names(self) -> list[str]:
        """Names of the tokens above the text part, in the order of their ids."""
        spoken = [f"[{stream.letters}{i}]" for stream in STREAMS for i in range(self.sizes[stream.kind])]
        return ["[Text]", "[Speech]", *spoken]

    def to_id(self, kind: str, value: int) -> int:
        """Id of one unit token; TokenError out of range."""
        size = self.sizes[kind]
        if not 0 <= value < size:
            raise TokenError(f"{kind} unit {value} is out of range: this vocabulary has 0 to {size - 1}")
        return self.first[kind] + value

    def encode(self, string: str) -> list[int]:
        """Ids of a string of unit tokens and markers, e.g. "[Speech][Hu99][Pi3]"; TokenError on anything else."""
        ids, position = [], 0
        kinds = {stream.letters: stream.kind for stream in STREAMS}
        for match in _TOKEN.finditer(string):
            if match.start() != position:
                break
            marker, prefix, digits = match.groups()
            if marker:
                ids.append(self.text_marker if marker == "Text" else self.speech_marker)
            else:
                ids.append(self.to_id(kinds[prefix], int(digits)))
            position = match.end()
        if position != len(string):
            raise TokenError(
                f"{string[position : position + 20]!r} at character {position} is not a token; expected [Hu0] to "
                f"[Hu{self.hubert - 1}], [Pi…], [St…], [Text] or [Speech], without spaces"
            )
        return ids

    def decode(self, ids: npt.ArrayLike) -> str:
        """Names of unit tokens and markers joined with nothing; TokenError for text ids and padding."""
        names = self.names()
        offsets = np.asarray(ids, dtype=np.int64) - self.text
        if offsets.size and (offsets.min() < 0 or offsets.max() >= len(names)):
            raise TokenError(
                f"ids {np.asarray(ids).min()} to {np.asarray(ids).max()} go beyond the unit tokens {self.text} to {self.tokens - 1}"
            )
        return "".join(names[offset] for offset in offsets)

    def kinds(self, ids: npt.ArrayLike) -> npt.NDArray[np.int8]:
        """Index into KINDS of every id, in the shape of `ids`; specials (<s>, </s>, the lone ▁ of the slow convention) count as markers."""
        bounds = [self.text, *self.first.values()]
        ids = np.asarray(ids)
        kinds = np.searchsorted(bounds, ids, side="right").astype(np.int8)
        special = ids <= EOS_ID if self.boundary is None else (ids <= EOS_ID) | (ids == self.boundary)
        return np.where(special, np.int8(KINDS.index("marker")), kinds)

    def to_json(self) -> dict[str, Any]:
        """Its fields; rates only where they are others than SpiritLM's, which files without them have."""
        values = asdict(self)
        if self.rates == SPIRITLM_RATES:
            del values["rates"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Vocabulary":
        """What `to_json` gave; TokenError where these are no sizes, or more than there are names or rows for."""
        most = {"text": MOST_ROWS, "hubert": MOST_UNITS, "pitch": MOST_UNITS, "style": MOST_UNITS, "padded": MOST_ROWS}
        if not isinstance(values, dict) or not {"text", "hubert"} <= values.keys() <= {*most, "boundary", "rates"}:
            raise TokenError(f"{values!r:.200} is no vocabulary: expected {', '.join(most)}, boundary and rates")
        rates = values.get("rates")
        own = cls(**values) if rates is None else cls(**values | {"rates": _rates_of(rates)})
        # A damaged file can ask for any number, and names and rows are made in it: sizes are bounded first.
        for name, limit in most.items():
            size = getattr(own, name)
            # Not `isinstance`, which takes JSON's true for 1.
            if type(size) is not int or not 0 <= size <= limit:
                raise TokenError(f"{name} {size!r:.40} is no size of a vocabulary: expected 0 to {limit:,}")
        if own.boundary is not None and (type(own.boundary) is not int or not 0 <= own.boundary < own.text):
            raise TokenError(f"boundary {own.boundary!r:.40} is no id of {own.text:,} text pieces")
        return own


# Of the release: base has units only; both are padded to a multiple of 256 rows, and 29871 is Llama 2's ▁.
SPIRITLM_BASE = Vocabulary(text=32_000, hubert=501, padded=32_512, boundary=29_871)
SPIRITLM_EXPRESSIVE = Vocabulary(text=32_000, hubert=501, pitch=64, style=100, padded=32_768, boundary=29_871)


def _rates_of(values: object) -> Rates:
    """Codes per second as `to_json` gave them; TokenError where they are none."""
    names = {field.name for field in fields(Rates)}
    if not isinstance(values, dict) or not {"units"} <= values.keys() <= names:
        raise TokenError(f"{values!r:.200} are no rates of a vocabulary: expected {', '.join(sorted(names))}")
    for name, rate in values.items():
        if name == "units_in_merge" and rate is None:
            continue
        if type(rate) not in (int, float) or not 0 < rate <= SAMPLE_RATE:
            raise TokenError(
                f"{name} {rate!r:.40} is no rate: expected more than 0 and at most {SAMPLE_RATE:,} a second"
            )
    return Rates(**values)

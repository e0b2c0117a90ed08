"""Three streams of units <-> one sequence of token ids <-> its string, as SpiritLM does it.

units and pitch keep the first of each run, style keeps all (`deduplicate` chooses otherwise); a token's time is its index over
the stream's rate, which the vocabulary has; tokens are ordered by time, at equal times [St], [Pi], [Hu]. The way back gives every
[Hu] token the latest pitch and style: run lengths are gone, so how long a unit lasts is left to the vocoder.

Shapes: U, P, S lengths of the streams; N [Hu] tokens after deduplication.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tinywave_core.errors import TokenError
from tinywave_core.tokenizers.streams import STREAMS, Rates
from tinywave_core.tokenizers.vocabulary import EOS_ID, KINDS, Ids, Vocabulary

DEDUPLICATE = tuple(stream.name for stream in STREAMS if stream.deduplicated)

Units = npt.NDArray[np.int64]
EMPTY: Units = np.zeros(0, np.int64)
HUBERT, PITCH, STYLE = (KINDS.index(kind) for kind in ("hubert", "pitch", "style"))


@dataclass(frozen=True)
class Streams:
    """Raw units of one utterance, not deduplicated; pitch and style are empty for base tokens."""

    units: Units  # [U]
    pitch: Units  # [P]
    style: Units  # [S]
    # Chunks (of up to 100 s) without a voiced frame: their F0 counts as 0.
    unvoiced_chunks: int = field(default=0, kw_only=True)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "Streams":
        """Those of a row of tokens.parquet."""
        return cls(*(np.asarray(row[stream.name], np.int64) for stream in STREAMS))

    def before(self, seconds: float, rates: Rates) -> "Streams":
        """The first so many seconds as a prompt, to the nearest code; one code at least of each stream that has any."""
        hz = rates.frames_hz
        return Streams(*(getattr(self, s.name)[: max(1, round(seconds * hz[s.name]))] for s in STREAMS))


@dataclass(frozen=True)
class Positions:
    """[Hu] tokens of a sequence with the pitch and style in force; those are empty if the sequence has none."""

    units: Units  # [N]
    pitch: Units  # [N] or [0]
    style: Units  # [N] or [0]


def merge(streams: Streams, vocabulary: Vocabulary, *, deduplicate: Collection[str] = DEDUPLICATE) -> Ids:
    """Ids of the merged tokens, without <s>, [Speech] and </s>; `deduplicate` names streams that keep a run's first."""
    units_at, pitch_at, style_at = _kept(streams, deduplicate)
    first = vocabulary.first
    ids = np.concatenate(
        [
            _shifted(streams.style[style_at], first["style"], vocabulary.style),
            _shifted(streams.pitch[pitch_at], first["pitch"], vocabulary.pitch),
            _shifted(streams.units[units_at], first["hubert"], vocabulary.hubert),
        ]
    )
    # Stable: at equal times the order above (style, pitch, units) is kept, as SpiritLM has it.
    return ids[np.argsort(_times_s(units_at, pitch_at, style_at, vocabulary.rates), kind="stable")]


def merged_times_s(streams: Streams, rates: Rates) -> npt.NDArray[np.float64]:
    """When each of the tokens that `merge` gives begins, in seconds."""
    return np.sort(_times_s(*_kept(streams, DEDUPLICATE), rates), kind="stable")


def merged_before(streams: Streams, seconds: float, rates: Rates) -> int:
    """How many of the tokens that `merge` gives stand before a time."""
    return int((merged_times_s(streams, rates) < seconds).sum())


def _kept(streams: Streams, deduplicate: Collection[str]) -> tuple[Units, Units, Units]:
    """Indices of the units, pitches and styles that become tokens."""
    named = [(stream.name, getattr(streams, stream.name)) for stream in STREAMS]
    units_at, pitch_at, style_at = (
        run_starts(codes) if name in deduplicate else np.arange(len(codes)) for name, codes in named
    )
    return units_at, pitch_at, style_at


def _times_s(units_at: Units, pitch_at: Units, style_at: Units, rates: Rates) -> npt.NDArray[np.float64]:
    """Their times in the order in which equal times are merged: style, pitch, units."""
    hz = rates.merge_hz
    return np.concatenate([style_at / hz["style"], pitch_at / hz["pitch"], units_at / hz["units"]])


def encode_utterance(streams: Streams, vocabulary: Vocabulary) -> Ids:
    """The ids of one utterance as models see it: <s> [Speech] merged tokens </s>; slow: <s> ▁ [Speech] … </s>."""
    return np.concatenate([vocabulary.prompt_ids(vocabulary.speech_marker), merge(streams, vocabulary), [EOS_ID]])


def to_string(streams: Streams, vocabulary: Vocabulary, *, deduplicate: Collection[str] = DEDUPLICATE) -> str:
    """The merged tokens by name, joined with nothing."""
    return vocabulary.decode(merge(streams, vocabulary, deduplicate=deduplicate))


def from_string(
    string: str, vocabulary: Vocabulary, *, default_style: int | None = None, repeat_for_pitch: bool = False
) -> Positions:
    """Positions of a string of tokens; TokenError where it is not one."""
    ids = np.asarray(vocabulary.encode(string), dtype=np.int64)
    return positions(ids, vocabulary, default_style=default_style, repeat_for_pitch=repeat_for_pitch)


def positions(
    ids: npt.ArrayLike, vocabulary: Vocabulary, *, default_style: int | None = None, repeat_for_pitch: bool = False
) -> Positions:
    """[Hu] tokens with the latest pitch and style, or the first ones for what comes before; text and markers are skipped.

    `repeat_for_pitch` emits the last unit again when two pitches follow one another: it must have lasted that long. Before the first
    unit that one is emitted, as SpiritLM does it.
    `default_style` stands in when there are pitches but no style (SpiritLM draws one of 71, 68 and 98 at random).
    """
    # Shards keep ids as uint16, where `ids - first` would wrap around instead of going below 0.
    ids = np.asarray(ids, dtype=np.int64)
    kinds = vocabulary.kinds(ids)
    is_unit, is_pitch, is_style = kinds == HUBERT, kinds == PITCH, kinds == STYLE
    emits = is_unit | _second_pitches(is_unit, is_pitch) if repeat_for_pitch and is_unit.any() else is_unit
    units = _latest(ids - vocabulary.first["hubert"], is_unit, emits)
    pitch = _latest(ids - vocabulary.first["pitch"], is_pitch, emits)
    style = _latest(ids - vocabulary.first["style"], is_style, emits)
    if len(pitch) and not len(style) and default_style is not None:
        # One fixed style: with a draw the same tokens would sound different each time.
        style = np.full(len(pitch), default_style, np.int64)
    return Positions(units, pitch, style)


def positions_of_stream(
    ids: Iterable[int], vocabulary: Vocabulary, *, default_style: int | None = None, repeat_for_pitch: bool = False
) -> Iterator[Positions]:
    """The `positions` of ids that come one by one, in pieces.

    What comes first waits until a unit is known, and a pitch and a style where the vocabulary has them.
    """
    missing = {HUBERT} | {kind for kind, size in [(PITCH, vocabulary.pitch), (STYLE, vocabulary.style)] if size}
    waiting: list[int] = []
    last: dict[
        int, int
    ] = {}  # the latest id of each kind, in the order in which they came: all that what follows depends on
    for i in map(int, ids):
        kind = int(vocabulary.kinds(i))
        state = [*last.values()]
        if kind in (HUBERT, PITCH, STYLE):
            last = {k: v for k, v in last.items() if k != kind} | {kind: i}
        if missing:
            waiting.append(i)
            missing.discard(kind)
            if not missing:
                yield positions(waiting, vocabulary, repeat_for_pitch=repeat_for_pitch)
            continue
        found = positions([*state, i], vocabulary, repeat_for_pitch=repeat_for_pitch)
        if len(found.units) > 1:  # the state has one unit, which was given before
            yield Positions(found.units[1:], found.pitch[1:], found.style[1:])
    if missing:
        yield positions(waiting, vocabulary, default_style=default_style, repeat_for_pitch=repeat_for_pitch)


def run_starts(values: Units) -> Units:
    """Indices at which a run of equal values begins."""
    if not len(values):
        return EMPTY
    return np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))


def _shifted(values: Units, first: int, size: int) -> Ids:
    # Beyond its size a value would become the id of another kind, which is a valid token and goes unnoticed.
    if len(values) and (values.min() < 0 or values.max() >= size):
        raise TokenError(
            f"units {values.min()} to {values.max()} do not fit the vocabulary, which has {size} of their kind"
        )
    return values + first


def _latest(values: Units, given: npt.NDArray[np.bool_], wanted: npt.NDArray[np.bool_]) -> Units:
    """For every wanted place the last value given there or before; the first given one where there is none before."""
    places = np.flatnonzero(given)
    if not len(places):
        return EMPTY
    last = np.searchsorted(places, np.flatnonzero(wanted), side="right") - 1
    return values[places[np.maximum(last, 0)]]


def _second_pitches(is_unit: npt.NDArray[np.bool_], is_pitch: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pitch tokens that come straight after another pitch token (styles do not count)."""
    second = np.zeros(len(is_unit), bool)
    places = np.flatnonzero(is_unit | is_pitch)
    pitch_here = is_pitch[places]
    second[places[1:]] = pitch_here[1:] & pitch_here[:-1]
    return second

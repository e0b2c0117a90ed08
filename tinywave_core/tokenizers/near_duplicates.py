"""Which utterances are near-duplicates: the same reading in another encoding, an excerpt, a jingle that many have.

Hashes of runs of units per utterance in (unit_runs.py), pairs with shares out. An excerpt has few of the runs of the whole, so the
share asked for is containment: how many of an utterance's runs another one has. Candidates come from a sketch, the runs whose hash
is a multiple of SAMPLED (FracMinHash, Irber et al. 2022: MinHash that keeps containment); pairs are then counted over all runs.
A run that very many have gives its first MOST_OWNERS of each side alone, so that pairs grow with the utterances, not their square.

Measured with the base's MFCC units and N = 7, share of a copy's runs that the original has, median and least of 40 recordings of
examples/speech, and the part of them at 0.2 or more. With 1 beginning: Opus again 0.94, 0.75, 1.00; MP3 0.27, 0.07, 0.80; a third
0.00, 0.00, 0.20; cut by 13 ms 0.00, 0.00, 0.00; cut by half a second 0.00, 0.00, 0.00. With 4: Opus again 0.94, 0.75, 1.00; MP3
0.28, 0.08, 0.82; a third 0.21, 0.00, 0.53; a third in Opus 0.22, 0.00, 0.53; cut by 13 ms 0.23, 0.06, 0.70; cut by half a second 0.93,
0.29, 1.00; cut by 21 ms and Opus 0.60, 0.37, 1.00. Never found: Opus at its lowest rate (0.00), and six sentences of LJSpeech as MP3
beside WAV (0.00); seldom, noise at 30 dB (0.09, 0.00, 0.20). Strangers, of 11,990 pairs: the nearest has 0.05, with 1 beginning or 4.
So a pair is hardly ever wrong, and no pair does not say that there is none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tinywave_core.unit_runs import LEAST, Hashes, share_of

SAMPLED = 4
MOST_OWNERS = 32
_BLOCK = 2048  # utterances that are looked up at once: bounds the memory of their pairs

Kind = Literal["copy", "excerpt", "repeated"]


@dataclass(frozen=True)
class RunSets:
    """Different hashes of many utterances, one after the other: those of utterance i lie from offsets[i] to offsets[i + 1]."""

    hashes: Hashes
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, sets: Iterable[Hashes]) -> "RunSets":
        """Of one array per utterance."""
        given = list(sets)
        lengths = np.array([0, *map(len, given)], np.int64)
        return cls(np.concatenate([np.zeros(0, np.uint32), *given]), np.cumsum(lengths))

    @classmethod
    def joined(cls, parts: Sequence["RunSets"]) -> "RunSets":
        """The utterances of all, one after the other."""
        lengths = np.concatenate([[0], *(np.diff(part.offsets) for part in parts)]).astype(np.int64)
        return cls(np.concatenate([np.zeros(0, np.uint32), *(part.hashes for part in parts)]), np.cumsum(lengths))

    def take(self, order: npt.NDArray[np.int64]) -> "RunSets":
        """The same utterances in another order."""
        lengths = np.diff(self.offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.repeat(self.offsets[order] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return RunSets(self.hashes[places], offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> Hashes:
        return self.hashes[self.offsets[number] : self.offsets[number + 1]]

    def owners(self) -> npt.NDArray[np.int32]:
        """The utterance of each hash."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.offsets))

    def sketch(self) -> "RunSets":
        """Those that stand for all: about one of SAMPLED, the same ones in every utterance."""
        is_kept = self.hashes % np.uint32(SAMPLED) == 0
        return RunSets(self.hashes[is_kept], np.concatenate([[0], np.cumsum(is_kept)])[self.offsets])


@dataclass(frozen=True)
class Pair:
    """`share` of the runs of one utterance are in another one; both by their number.

    Of a copy each has at least half as much of the other, and `of` is kept before it; an excerpt has `of` as its whole."""

    utterance: int
    of: int
    share: float
    kind: Kind


@dataclass(frozen=True)
class Candidates:
    """Pairs [P, 2] that are worth counting, in order, and the share [U] of each utterance's sketch that more than MOST_OWNERS have."""

    pairs: npt.NDArray[np.int64]
    common: npt.NDArray[np.float64]


def find_candidates(own: RunSets, heard: RunSets, is_held_out: npt.NDArray[np.bool_], limit: float) -> Candidates:
    """Of sketches [U] in the order of keeping: what an utterance is looked up by, and what others find in it."""
    owners = heard.owners()
    found: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
    common = np.zeros(len(own), np.float64)
    # Side by side, or a jingle's many training copies would hide that a held-out utterance has it too.
    for side in (is_held_out, ~is_held_out):
        inside = side[owners]
        order = np.argsort(heard.hashes[inside], kind="stable")  # of equal hashes, the utterance that is kept first
        index, of = heard.hashes[inside][order], owners[inside][order]
        for first in range(0, len(own), _BLOCK):
            keys, counted = _looked_up(own, slice(first, first + _BLOCK), index, of, limit)
            found.append(keys)
            common[first : first + _BLOCK] = np.maximum(common[first : first + _BLOCK], counted)
    keys = np.unique(np.concatenate(found))
    return Candidates(np.stack([keys // max(len(own), 1), keys % max(len(own), 1)], axis=1), common)


def _looked_up(
    own: RunSets, block: slice, index: Hashes, of: npt.NDArray[np.int32], limit: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Keys of pairs (query * U + other) of a block of utterances that share enough of the sketch; and what of it is common."""
    offsets = own.offsets[block.start : block.stop + 1]
    sizes = np.diff(offsets)
    hashes = own.hashes[offsets[0] : offsets[-1]]
    queries = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    low, high = np.searchsorted(index, hashes, "left"), np.searchsorted(index, hashes, "right")
    is_common = (high - low) > MOST_OWNERS
    common = np.bincount(queries[is_common], minlength=len(sizes)) / np.maximum(sizes, 1)
    counts = np.minimum(high - low, MOST_OWNERS)
    places = np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    keys = (np.repeat(queries, counts) + block.start) * len(own) + of[places]
    keys = keys[keys // len(own) != keys % len(own)]
    pairs, shared = np.unique(keys, return_counts=True)
    # Half the limit: the sketch tells the share roughly, all runs are counted later.
    return pairs[shared >= limit / 2 * sizes[pairs // len(own) - block.start]], common


def count_pairs(
    candidates: Candidates,
    own: Mapping[int, Hashes],
    heard: Mapping[int, Hashes],
    is_held_out: npt.NDArray[np.bool_],
    limit: float,
) -> list[Pair]:
    """The candidates with their shares over all runs, those below the limit left out."""
    counted = {(a, b): share_of(own[a], heard[b]) for a, b in candidates.pairs.tolist()}
    shares = {pair: share for pair, share in counted.items() if share >= limit}
    pairs: list[Pair] = []
    told: set[tuple[int, bool]] = set()
    for (utterance, of), share in shares.items():
        back = shares.get((of, utterance), 0.0)
        is_copy = share / 2 <= back <= share * 2
        if candidates.common[utterance] >= limit:
            # One row for each side, or a jingle that a thousand have gives thirty-two thousand.
            if (utterance, bool(is_held_out[of])) not in told:
                told.add((utterance, bool(is_held_out[of])))
                pairs.append(Pair(utterance, of, share, "repeated"))
        elif is_copy and utterance > of:  # told once, from the end that is not kept
            pairs.append(Pair(utterance, of, share, "copy"))
        elif back < share / 2:
            pairs.append(Pair(utterance, of, share, "excerpt"))
    return pairs


def is_told(runs: Hashes) -> bool:
    """Whether an utterance has runs enough for its share to tell anything."""
    return len(runs) >= LEAST


def heard_held_out(pairs: Iterable[Pair], is_held_out: npt.NDArray[np.bool_]) -> set[int]:
    """Held-out utterances that training speech has as a copy, as an excerpt or as the whole that it is an excerpt of."""
    across = [(pair.utterance, pair.of) for pair in pairs if is_held_out[pair.utterance] != is_held_out[pair.of]]
    return {number for pair in across for number in pair if is_held_out[number]}


def left_out(pairs: Iterable[Pair], is_held_out: npt.NDArray[np.bool_]) -> dict[int, Pair]:
    """Training utterances to leave out, each with the pair that says why: one of each group is kept, the first in the order of keeping."""
    reasons: dict[int, list[Pair]] = {}
    for pair in pairs:
        goes = max(pair.utterance, pair.of)  # held-out speech comes first in the order
        # An excerpt goes for the whole; the whole goes for an excerpt only where that is held out.
        if not is_held_out[goes] and (goes == pair.utterance or is_held_out[pair.utterance]):
            reasons.setdefault(goes, []).append(pair)
    gone: dict[int, Pair] = {}
    for number in sorted(reasons):
        kept = [pair for pair in reasons[number] if pair.utterance + pair.of - number not in gone]
        if kept:
            gone[number] = kept[0]
    return gone

"""What phonetic units are worth, from the units of utterances and where their phones and words lie: pure functions on arrays.

- PNMI, phone purity and cluster purity (HuBERT, arXiv 2106.07447, section 4.3): over frames in a phone; silence counts as none, since
  any feature finds it. A frame's phone is the one in its middle.
- Words told apart, after ABX (Schatz 2013): of triples A, B, X, where X is the word of A and not that of B, the share in which the units
  of X are nearer to A's. Nearer by the edits between deduplicated units over the longer string; a tie is half. Within: one speaker
  says all three. Across: X is another's. Each word has the same say, however common it is.
- Speakers told by units: how often naive Bayes on the counts of an utterance's deduplicated units names its speaker, learned from all
  other utterances. Chance: always naming the most frequent one. What the speakers read leaks with their voices.
- Units and bits a second: of deduplicated units; bits by how often each occurs, without its context.

Intervals are 95 %, over utterances. Figures of a table of counts (PNMI, purities, bits) are biased by how little there is of it: compare
them over the same speech only, and more units with fewer units with care.

Legend: N utterances, T frames, P phones, U units, S speakers.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinywave_core.evals.figures import Figures, Measured
from tinywave_core.evals.intervals import bootstrap_interval, plug_in_interval
from tinywave_core.evals.word_errors import distance

SILENCES = frozenset({"", "sil", "sp", "spn", "nsn", "<eps>", "h#", "pau", "epi"})
MOST_PER_WORD = 20  # triples of one word

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """A phone or a word, with its time in the utterance."""

    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Spoken:
    """An utterance in units."""

    utterance_id: str
    speaker: str | None
    units_T: Counts
    """One per frame, not deduplicated."""
    hz: float
    """Frames per second."""
    phones: Sequence[Span] = ()
    words: Sequence[Span] = ()


class PhoneFigures(Figures):
    """Units against phones."""

    pnmi: Measured
    """What a unit tells of its phone, as a share of what there is to tell: 0 nothing, 1 all."""
    phone_purity: Measured
    """Share of frames whose phone is the most frequent one of their unit."""
    cluster_purity: Measured
    """Share of frames whose unit is the most frequent one of their phone."""
    frames: int
    phones: int
    utterances: int


class ToldApart(Figures):
    """Words told apart by their units; 0.5 is chance."""

    share: Measured
    triples: int
    words: int
    utterances: int
    """Of the X."""


class Leakage(Figures):
    """Speakers told by units."""

    accuracy: Measured
    chance: float
    speakers: int
    utterances: int


class UnitFigures(Figures):
    """All of it; None is what there was nothing to measure with."""

    utterances: int
    seconds: float
    clusters: int
    used: int
    """Units that occur."""
    units_per_s: Measured
    bits_per_s: Measured
    phones: PhoneFigures | None
    words_within: ToldApart | None
    words_across: ToldApart | None
    leakage: Leakage | None


def unit_figures(spoken: Sequence[Spoken], clusters: int, seed: int, triples: int = 2000) -> UnitFigures:
    """The figures of these utterances; at least one."""
    runs = [run_units(each.units_T) for each in spoken]
    seconds = [len(each.units_T) / each.hz for each in spoken]
    counts_NU = np.stack([np.bincount(run, minlength=clusters) for run in runs])
    lengths_N = counts_NU.sum(axis=1)
    return UnitFigures(
        utterances=len(spoken),
        seconds=float(sum(seconds)),
        clusters=clusters,
        used=int((counts_NU.sum(axis=0) > 0).sum()),
        units_per_s=Measured(
            value=float(lengths_N.sum() / sum(seconds)), interval=bootstrap_interval(lengths_N, seconds, seed)
        ),
        bits_per_s=_bits(counts_NU, np.asarray(seconds), seed),
        phones=phone_figures(spoken, clusters, seed),
        words_within=told_apart(spoken, seed, triples, across=False),
        words_across=told_apart(spoken, seed, triples, across=True),
        leakage=leakage(counts_NU, [each.speaker for each in spoken], seed),
    )


def run_units(units_T: Counts) -> Counts:
    """The units of a stream without repeats of the one before."""
    return units_T[np.flatnonzero(np.diff(units_T, prepend=-1))]


def entropy(counts: npt.NDArray[np.floating] | Counts) -> float:
    """Bits of one drawing from a table of counts."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def _bits(counts_NU: Counts, seconds_N: npt.NDArray[np.float64], seed: int) -> Measured:
    def bits(weights_N: npt.NDArray[np.float64]) -> float:
        table_U = weights_N @ counts_NU
        return entropy(table_U) * float(table_U.sum() / (weights_N @ seconds_N))

    return _measured(bits, len(seconds_N), seed)


def _measured(statistic: Callable[[npt.NDArray[np.float64]], float], items: int, seed: int) -> Measured:
    return Measured(value=statistic(np.ones(items)), interval=plug_in_interval(statistic, items, seed))


# Phones ----------------------------------------------------------------------------------------------------------


def frame_labels(spans: Sequence[Span], frames: int, hz: float) -> list[str | None]:
    """What lies in the middle of each frame; None in silence, and where nothing does."""
    labels: list[str | None] = [None] * frames
    for span in spans:
        if span.label.lower() not in SILENCES:
            inside = range(frames)[_inside(span, hz)]
            labels[inside.start : inside.stop] = [span.label] * len(inside)
    return labels


def _inside(span: Span, hz: float) -> slice:
    """The frames whose middle lies in a span: t with start <= (t + 0.5) / hz < end."""
    first, last = (max(0, int(np.ceil(second * hz - 0.5))) for second in (span.start_s, span.end_s))
    return slice(first, last)


def phone_figures(spoken: Sequence[Spoken], clusters: int, seed: int) -> PhoneFigures | None:
    """Units against phones; None where no frame has a phone."""
    owners, labels, units = list[int](), list[str](), list[int]()
    for number, each in enumerate(spoken):
        for label, unit in zip(frame_labels(each.phones, len(each.units_T), each.hz), each.units_T, strict=True):
            if label is not None:
                owners.append(number)
                labels.append(label)
                units.append(int(unit))
    if not labels:
        return None
    names, phone_F = np.unique(labels, return_inverse=True)
    _, owner_F = np.unique(owners, return_inverse=True)
    cells_F = phone_F * clusters + np.asarray(units)

    def table(weights_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        flat = np.bincount(cells_F, weights_N[owner_F], minlength=len(names) * clusters)
        return np.asarray(flat, np.float64).reshape(len(names), clusters)

    items = int(owner_F.max()) + 1
    return PhoneFigures(
        pnmi=_measured(lambda w: pnmi(table(w)), items, seed),
        phone_purity=_measured(lambda w: purity(table(w), axis=0), items, seed),
        cluster_purity=_measured(lambda w: purity(table(w), axis=1), items, seed),
        frames=len(labels),
        phones=len(names),
        utterances=items,
    )


def pnmi(counts_PU: npt.NDArray[np.float64]) -> float:
    """Mutual information of phone and unit over the entropy of the phone; 0 where there is one phone only."""
    phones, units = entropy(counts_PU.sum(axis=1)), entropy(counts_PU.sum(axis=0))
    return (phones + units - entropy(counts_PU.ravel())) / phones if phones > 0 else 0.0


def purity(counts_PU: npt.NDArray[np.float64], axis: int) -> float:
    """Share of the largest cell along an axis: 0 for the phone of each unit, 1 for the unit of each phone."""
    return float(counts_PU.max(axis=axis).sum() / counts_PU.sum())


# Words -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Said:
    """A word as it was said once."""

    word: str
    speaker: str
    utterance: int
    units: tuple[int, ...]


def told_apart(spoken: Sequence[Spoken], seed: int, triples: int, *, across: bool) -> ToldApart | None:
    """Words told apart within speakers or across them; None where no word was said often enough."""
    said = _said(spoken)
    by_word, by_speaker = defaultdict[str, list[_Said]](list), defaultdict[str, list[_Said]](list)
    for each in said:
        by_word[each.word].append(each)
        by_speaker[each.speaker].append(each)
    random = np.random.default_rng([seed, across])
    drawn = [triple for word in sorted(by_word) for triple in _triples(by_word[word], by_speaker, random, across)]
    kept = sorted(random.permutation(len(drawn))[:triples])
    credits = defaultdict[int, list[float]](list)
    words = set()
    for a, b, x in (drawn[i] for i in kept):
        words.add(x.word)
        near, far = unit_distance(a.units, x.units), unit_distance(b.units, x.units)
        credits[x.utterance].append(1.0 if near < far else 0.5 if near == far else 0.0)
    if not credits:
        return None
    sums, counts = [sum(own) for own in credits.values()], [len(own) for own in credits.values()]
    share = Measured(value=sum(sums) / sum(counts), interval=bootstrap_interval(sums, counts, seed))
    return ToldApart(share=share, triples=sum(counts), words=len(words), utterances=len(counts))


def _said(spoken: Sequence[Spoken]) -> list[_Said]:
    """Every word that has a unit and a speaker."""
    found = []
    for number, each in enumerate(spoken):
        for span in each.words:
            units = run_units(each.units_T[_inside(span, each.hz)])
            if len(units) and each.speaker is not None:
                found.append(_Said(span.label.lower(), each.speaker, number, tuple(units.tolist())))
    return found


def _triples(
    same: Sequence[_Said], by_speaker: dict[str, list[_Said]], random: np.random.Generator, across: bool
) -> list[tuple[_Said, _Said, _Said]]:
    """Some A, B, X of one word, with a B drawn for each pair."""
    pairs = [(a, x) for a in same for x in same if a is not x and (a.speaker != x.speaker) == across]
    triples = []
    for i in sorted(random.permutation(len(pairs))[:MOST_PER_WORD]):
        a, x = pairs[i]
        others = [b for b in by_speaker[a.speaker] if b.word != a.word]
        if others:
            triples.append((a, others[random.integers(len(others))], x))
    return triples


def unit_distance(one: Sequence[int], other: Sequence[int]) -> float:
    """Edits between two strings of units over the length of the longer one."""
    return distance(one, other) / max(len(one), len(other), 1)


# Speakers --------------------------------------------------------------------------------------------------------


def leakage(counts_NU: Counts, speakers: Sequence[str | None], seed: int) -> Leakage | None:
    """Naive Bayes, each utterance left out in turn; None without two speakers of two utterances each."""
    known = [s for s in sorted({s for s in speakers if s is not None}) if list(speakers).count(s) > 1]
    if len(known) < 2:
        return None
    rows = [i for i, speaker in enumerate(speakers) if speaker in known]
    own_N = np.array([known.index(str(speakers[i])) for i in rows])
    right_N = named_by_bayes(counts_NU[rows], own_N) == own_N
    accuracy = Measured(
        value=float(right_N.mean()), interval=bootstrap_interval(right_N.astype(float), np.ones(len(rows)), seed)
    )
    chance = float(np.bincount(own_N).max() / len(rows))
    return Leakage(accuracy=accuracy, chance=chance, speakers=len(known), utterances=len(rows))


def named_by_bayes(counts_NU: Counts, own_N: Counts) -> Counts:
    """The speaker that each utterance's counts name, learned from all others; one count is added to every unit of each speaker."""
    speakers = int(own_N.max()) + 1
    table_SU = np.zeros((speakers, counts_NU.shape[1]))
    np.add.at(table_SU, own_N, counts_NU)
    scores_NS = counts_NU @ _log_shares(table_SU).T
    without_NU = table_SU[own_N] - counts_NU
    scores_NS[np.arange(len(own_N)), own_N] = (counts_NU * _log_shares(without_NU)).sum(axis=1)
    return np.asarray(scores_NS.argmax(axis=1))


def _log_shares(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    smoothed = counts + 1
    return np.log(smoothed / smoothed.sum(axis=1, keepdims=True))

"""Token pairs -> scores under a model -> accuracies. Right is 1, wrong 0, a tie 1/2; chance is 0.5.

What a score is differs between papers by more than their results do, so it is spelled out in a `Definition` that goes with
every result. slamkit's and SALMon's default is the mean over all tokens.

Legend: L tokens of one sequence, V ids of the vocabulary, G items (groups of pairs), N pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from transformers import LlamaForCausalLM

from tinywave_core.errors import ConfigError
from tinywave_core.evals.intervals import McNemar, bootstrap_interval, mcnemar, wilson_interval
from tinywave_core.evals.pair_tokens import TokenPair, Tokens
from tinywave_core.evals.scoring import token_log_probabilities
from tinywave_core.evals.suites.base import MACRO, WHOLE
from tinywave_core.progress import Progress, no_progress
from tinywave_core.tokenizers.vocabulary import EOS_ID, KINDS, Vocabulary

_SEED, _DRAWS = 0, 2000
_NO_CLASS, _TEXT, _MARKER, _SPEECH = range(4)

_Floats = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Definition:
    """What the score of a sequence is, in natural logarithms. Markers and what opens a sequence never count."""

    reduction: Literal["sum", "mean"] = "mean"
    """Over the counted tokens."""
    over: Literal["all", "continuation"] = "all"
    """Whether tokens of the prompt count."""
    streams: Literal["all", "hubert"] = "all"
    """Whether pitch and style count; the model reads them either way. Text always counts."""
    vocabulary: Literal["all", "own"] = "all"
    """Whether a token competes with all others, or with those of its own modality only (slamkit's used_token_modality)."""

    def __str__(self) -> str:
        vocabulary = "the whole vocabulary" if self.vocabulary == "all" else "its own modality"
        streams = "" if self.streams == "all" else " of HuBERT and text"
        return f"{self.reduction} over {self.over} tokens{streams}, {vocabulary}"

    @property
    def slug(self) -> str:
        """For file names."""
        return "-".join(asdict(self).values())


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its 95 % interval."""

    value: float
    """Share of right answers, 0 to 1; a tie is half a one."""
    interval: tuple[float, float]
    """95 %, low and high."""
    items: int
    """Groups of pairs; a pair without a group is one of its own."""
    pairs: int
    """That were scored."""


def score_pairs(
    model: LlamaForCausalLM,
    vocabulary: Vocabulary,
    pairs: Sequence[TokenPair],
    definition: Definition,
    progress: Progress = no_progress,
) -> pa.Table:
    """Per pair: id, group, subset, voice, positive_score, negative_score, credit, and a reason where there are none."""
    usable = [tokenized for tokenized in pairs if tokenized.positive is not None and tokenized.negative is not None]
    if definition.over == "continuation" and usable and all(tokenized.pair.prompt is None for tokenized in usable):
        raise ConfigError(
            "no pair of the suite has a prompt of its own, so nothing says where a continuation begins: take --over all"
        )
    versions = [
        version for tokenized in usable for version in (tokenized.positive, tokenized.negative) if version is not None
    ]
    scores = iter(score_tokens(model, vocabulary, versions, definition, progress))
    rows = [
        _row(tokenized, *((next(scores), next(scores)) if tokenized.positive else (None, None))) for tokenized in pairs
    ]
    return pa.Table.from_pylist(rows, _SCHEMA)


_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "group", "subset", "voice")]
    + [(name, pa.float64()) for name in ("positive_score", "negative_score", "credit")]
    + [("reason", pa.string())]
)


def score_tokens(
    model: LlamaForCausalLM,
    vocabulary: Vocabulary,
    sequences: Sequence[Tokens],
    definition: Definition,
    progress: Progress = no_progress,
) -> list[float | None]:
    """The score of every sequence; None where nothing counts. Equal sequences get equal scores, so that ties are ties."""
    classes = modality_classes(vocabulary) if definition.vocabulary == "own" else None
    at: dict[bytes, int] = {}
    numbers = [at.setdefault(tokens.ids.tobytes(), len(at)) for tokens in sequences]
    unique = {number: tokens.ids for number, tokens in zip(numbers, sequences, strict=True)}
    scores = token_log_probabilities(model, [unique[number] for number in range(len(at))], progress, classes)
    return [
        _reduced(scores[number], counted(tokens, vocabulary, definition), definition)
        for number, tokens in zip(numbers, sequences, strict=True)
    ]


def counted(tokens: Tokens, vocabulary: Vocabulary, definition: Definition) -> _Bools:
    """Which tokens of a sequence count: [L]."""
    chosen = tokens.predicted.copy()
    if definition.over == "continuation":
        chosen[: tokens.prompt_length] = False
    if definition.streams == "hubert":
        kinds = vocabulary.kinds(tokens.ids)
        chosen &= (kinds != KINDS.index("pitch")) & (kinds != KINDS.index("style"))
    return chosen


def modality_classes(vocabulary: Vocabulary) -> npt.NDArray[np.int8]:
    """Text, marker, speech or nothing for every row of the model's head: [V]."""
    ids = np.arange(vocabulary.rows)
    bounds = [EOS_ID + 1, vocabulary.text, vocabulary.first["hubert"], vocabulary.tokens]
    classes = np.array([_NO_CLASS, _TEXT, _MARKER, _SPEECH, _NO_CLASS], np.int8)
    return classes[np.searchsorted(bounds, ids, side="right")]


def _reduced(log_p: npt.NDArray[np.float32], chosen: _Bools, definition: Definition) -> float | None:
    values = log_p[chosen[1:]].astype(np.float64)
    if not len(values):
        return None
    return float(values.sum() if definition.reduction == "sum" else values.mean())


def _row(tokenized: TokenPair, positive: float | None, negative: float | None) -> dict[str, object]:
    pair = tokenized.pair
    row: dict[str, object] = {"id": pair.id, "group": pair.group or pair.id, "subset": pair.subset, "voice": pair.voice}
    if positive is None or negative is None:
        return row | {"reason": tokenized.reason or "no token of it counts"}
    credit = float(np.sign(positive - negative) + 1) / 2
    return row | {"positive_score": positive, "negative_score": negative, "credit": credit}


# Figures -------------------------------------------------------------------------------------------------------------


def accuracies(table: pa.Table, subsets: Mapping[str, Sequence[str]]) -> dict[str, Accuracy]:
    """Accuracy of `all` pairs, of every subset, and of the mean over the plain subsets (`macro`).

    Items count the same whatever the number of their pairs. Intervals: Wilson's where every item is one pair, else bootstrap
    over items; bootstrap over items, whatever subsets they are in, for the macro mean.
    """
    scored = _scored(table)
    if not scored:
        return {}
    groups, names, credit = _columns(scored)
    by_subset = {WHOLE: _accuracy(groups, credit)}
    for name, parts in subsets.items():
        inside = np.isin(names, parts)
        if inside.any():
            by_subset[name] = _accuracy(groups[inside], credit[inside])
    plain = list(dict.fromkeys(names))
    if len(plain) > 1:
        by_subset[MACRO] = _macro(groups, names, credit)
    return by_subset


def differences(table: pa.Table, other: pa.Table, subsets: Mapping[str, Sequence[str]]) -> dict[str, Accuracy]:
    """Accuracy of one table minus that of another on the pairs that both scored, with bootstrap intervals over items."""
    gaps = _gaps(table, other)
    if not gaps:
        return {}
    groups, names, gap = _columns(gaps)
    by_subset: dict[str, Accuracy] = {}
    for name, parts in {WHOLE: tuple(dict.fromkeys(names)), **subsets}.items():
        inside = np.isin(names, parts)
        if inside.any():
            means = _item_means(groups[inside], gap[inside])
            interval = bootstrap_interval(means, np.ones(len(means)), _SEED)
            by_subset[name] = Accuracy(float(means.mean()), interval, len(means), int(inside.sum()))
    if len(dict.fromkeys(names)) > 1:
        by_subset[MACRO] = _macro(groups, names, gap)
    return by_subset


def paired_tests(table: pa.Table, other: pa.Table, subsets: Mapping[str, Sequence[str]]) -> dict[str, McNemar]:
    """McNemar's exact test on the items that both scored, of `all` and of every subset; an item of several pairs is won by the
    model with more of them. The macro mean is no share of items, and has none."""
    gaps = _gaps(table, other)
    if not gaps:
        return {}
    groups, names, gap = _columns(gaps)
    parts = {WHOLE: tuple(dict.fromkeys(names)), **subsets}
    inside = {name: np.isin(names, of) for name, of in parts.items()}
    means = {name: _item_means(groups[mask], gap[mask]) for name, mask in inside.items() if mask.any()}
    return {name: mcnemar(gaps_of_items, np.zeros(len(gaps_of_items))) for name, gaps_of_items in means.items()}


def _gaps(table: pa.Table, other: pa.Table) -> list[dict[str, Any]]:
    """Rows that both tables scored, with the difference of their credits."""
    theirs = {(row["id"], row["subset"]): row["credit"] for row in _scored(other)}
    both = [row for row in _scored(table) if (row["id"], row["subset"]) in theirs]
    return [row | {"credit": row["credit"] - theirs[row["id"], row["subset"]]} for row in both]


def _scored(table: pa.Table) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if row["credit"] is not None]


def _columns(rows: Sequence[Mapping[str, object]]) -> tuple[npt.NDArray, npt.NDArray, _Floats]:
    groups, names = (np.array([row[name] for row in rows], dtype=object) for name in ("group", "subset"))
    return groups, names, np.array([row["credit"] for row in rows], np.float64)


def _item_means(groups: npt.NDArray, values: _Floats) -> _Floats:
    """Mean of each group: [G]."""
    _, at = np.unique(groups, return_inverse=True)
    return np.bincount(at, weights=values) / np.bincount(at)


def _accuracy(groups: npt.NDArray, credit: _Floats) -> Accuracy:
    means = _item_means(groups, credit)
    alone = len(means) == len(credit)
    interval = (
        wilson_interval(float(means.sum()), len(means))
        if alone
        else bootstrap_interval(means, np.ones(len(means)), _SEED)
    )
    return Accuracy(float(means.mean()), interval, len(means), len(credit))


def _macro(groups: npt.NDArray, names: npt.NDArray, credit: _Floats) -> Accuracy:
    """Mean over subsets; an item that is in several of them (a story in four directions) is drawn with all its parts."""
    items, item_at = np.unique(groups, return_inverse=True)
    subsets, subset_at = np.unique(names, return_inverse=True)
    cells = item_at * len(subsets) + subset_at
    size = len(items) * len(subsets)
    pairs = np.bincount(cells, minlength=size).reshape(len(items), len(subsets))
    sums = np.bincount(cells, weights=credit, minlength=size).reshape(len(items), len(subsets))
    present = (pairs > 0).astype(np.float64)
    means = np.divide(sums, pairs, out=np.zeros_like(sums), where=pairs > 0)
    random = np.random.default_rng(_SEED)
    drawn: list[float] = []
    for _ in range(_DRAWS):
        times = np.bincount(random.integers(0, len(items), len(items)), minlength=len(items))
        there = times @ present
        drawn.append(float(np.mean((times @ means)[there > 0] / there[there > 0])))
    low, high = np.percentile(drawn, [2.5, 97.5])
    value = float(np.mean(means.sum(axis=0) / present.sum(axis=0)))
    return Accuracy(value, (float(low), float(high)), len(items), len(credit))

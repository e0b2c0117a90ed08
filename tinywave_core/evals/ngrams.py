"""Training sequences -> tables of counts of 1 to 4 tokens, and the likelihood that they give to others: what any model has to beat.

Interpolated n-gram models with absolute discounting (Ney, Essen and Kneser 1994; one fixed discount, no Kneser-Ney counts): from
every count of tokens after a context a discount is taken, and what was taken in all goes to the model of one token less, down to
the uniform distribution over all ids. So every id has a likelihood, and those of all ids sum to 1.

Counts cross no sequence boundary. As of a model, the first token of a sequence is given and never predicted; the next ones have
shorter contexts than the order asks for, and are predicted by the order that their context allows.

Legend: L tokens of a sequence, of which L - 1 are predicted; G n-grams of one order, C contexts of theirs. An n-gram is one
number, 16 bits per id, the latest id lowest: its context is what is above them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinywave_core.sequences.table import SequenceTable, TokenSequence

ORDERS = 4  # as many ids of 16 bits as a 64-bit number holds
DISCOUNT = 0.75
MOST_TOKENS = 10_000_000
"""More change the floor little. Counting so many takes seconds and 1 GB; a corpus of thousands of hours has many times more."""
_BITS = np.uint64(16)

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ngrams:
    """Counts of all orders, and the likelihood of tokens by them."""

    tokens: int
    """Ids of the vocabulary."""
    discount: float
    tables: "tuple[_Table, ...]"
    """Of order 1, 2, …"""

    @classmethod
    def count(
        cls, sequences: Iterable[npt.ArrayLike], tokens: int, orders: int = ORDERS, discount: float = DISCOUNT
    ) -> "Ngrams":
        """From sequences of ids below `tokens`, in any order."""
        assert 1 <= orders <= ORDERS, orders
        assert 0 < discount < 1, discount
        pieces = [np.asarray(ids, dtype=np.uint16) for ids in sequences]
        lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
        ids = np.concatenate([np.empty(0, dtype=np.uint16), *pieces])
        assert not len(ids) or ids.max() < tokens, f"id {ids.max()} in a vocabulary of {tokens}"
        positions = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        tables, keys = [], np.zeros(len(ids), dtype=np.uint64)
        for order in range(1, orders + 1):
            keys = _longer(keys, ids)
            tables.append(_Table.of(keys[positions >= max(order - 1, 1)]))
        return cls(tokens, discount, tuple(tables))

    def log_probabilities(self, ids: npt.ArrayLike, order: int) -> Floats:
        """Natural logarithms of the likelihood of tokens 1 … L - 1, each after up to `order` - 1 tokens before it: [L - 1]."""
        assert 1 <= order <= len(self.tables), order
        return np.asarray(self.by_order(ids)[order])

    def by_order(self, ids: npt.ArrayLike) -> Floats:
        """The same by all orders, [orders + 1, L - 1]; order 0 guesses: every id is as likely as any other."""
        ids = np.asarray(ids, dtype=np.uint16)
        likely, keys = [np.full(len(ids), 1 / self.tokens)], np.zeros(len(ids), dtype=np.uint64)
        for order, table in enumerate(self.tables, start=1):
            keys, first = _longer(keys, ids), max(order - 1, 1)
            lower = likely[-1]
            mixed = table.interpolated(keys[first:], lower[first:], self.discount)
            likely.append(np.concatenate([lower[:first], mixed]))
        return np.asarray(np.log(np.stack(likely)[:, 1:]))


def _longer(keys: Keys, ids: npt.NDArray[np.uint16]) -> Keys:
    """The n-grams that end at every token, from those of one token less; those that would begin before the first token are
    cut short, and no one may use them."""
    longer = ids.astype(np.uint64)
    longer[1:] |= keys[:-1] << _BITS
    return longer


@dataclass(frozen=True)
class _Table:
    """How often every n-gram of one order occurs, and what follows every context."""

    grams: Keys
    """Sorted: [G]."""
    counts: Floats
    """[G]."""
    contexts: Keys
    """Sorted: [C]."""
    totals: Floats
    """How often each was followed by anything: [C]."""
    followers: Floats
    """By how many different tokens: [C]."""

    @classmethod
    def of(cls, keys: Keys) -> "_Table":
        grams, counts = np.unique(keys, return_counts=True)
        contexts, starts, followers = np.unique(grams >> _BITS, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, starts) if len(starts) else np.empty(0)
        return cls(grams, _floats(counts), contexts, _floats(totals), _floats(followers))

    def interpolated(self, keys: Keys, lower: Floats, discount: float) -> Floats:
        """Likelihood of the last token of every n-gram, from that by one token less; the same where the context is new."""
        counts, at = _looked_up(self.grams, self.counts, keys), keys >> _BITS
        totals, followers = (_looked_up(self.contexts, values, at) for values in (self.totals, self.followers))
        taken = discount * followers  # every follower gives one discount
        mixed = (np.maximum(counts - discount, 0.0) + taken * lower) / np.maximum(totals, 1.0)
        return np.asarray(np.where(totals > 0, mixed, lower))


def _floats(values: npt.NDArray) -> Floats:
    return values.astype(np.float64)


def _looked_up(names: Keys, values: Floats, wanted: Keys) -> Floats:
    """The values of the wanted names, which are sorted; 0 where there is no such name."""
    if not len(names):
        return np.zeros(len(wanted))
    at = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
    return np.asarray(np.where(names[at] == wanted, values[at], 0.0))


def counted(sequences: Sequence[TokenSequence], most_tokens: int = MOST_TOKENS) -> SequenceTable:
    """The sequences whose tokens are counted: an utterance in its first drawing, and as many as `most_tokens` allow.

    They are taken in the order of their ids, which are hashes of what they hold: neither speakers nor folders come first.
    """
    table = SequenceTable.of(sequences)
    first = table.take(table.variants <= 0)
    first = first.take(np.argsort(first.ids, kind="stable"))
    fit = np.cumsum(first.lengths, dtype=np.int64) <= most_tokens
    return first[: int(fit.sum())]

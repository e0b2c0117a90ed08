"""Tables of counts: a proper distribution after any context, the textbook's numbers, and nothing across sequences."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from tests.fixtures.sequence_ids import id_of
from tinywave_core.evals.ngrams import Ngrams, counted
from tinywave_core.sequences.table import EVERY_EPOCH, TokenSequence


def slowly(sequences: Sequence[Sequence[int]], tokens: int, order: int, discount: float, text: Sequence[int]) -> float:
    """Likelihood of the last token of a text after up to `order` - 1 tokens before it, by dictionaries."""
    context = tuple(text[max(0, len(text) - order) : -1])
    likely = 1 / tokens
    for n in range(len(context) + 1):
        after = context[len(context) - n :]
        follows: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for sequence in sequences:
            for i in range(max(n, 1), len(sequence)):
                follows[tuple(sequence[i - n : i])][sequence[i]] += 1
        if seen := follows[after]:
            own = max(seen[text[-1]] - discount, 0)
            likely = (own + discount * len(seen) * likely) / sum(seen.values())
    return likely


def drawn(seed: int, tokens: int, *lengths: int) -> list[npt.NDArray]:
    """Sequences in which some tokens are frequent."""
    random = np.random.default_rng(seed)
    return [np.minimum(random.geometric(0.3, size=length) - 1, tokens - 1) for length in lengths]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("discount", [0.75, 0.4])
def test_likelihoods_are_those_of_plain_counting(order: int, discount: float):
    train, (text,) = drawn(0, 7, 1, 2, 3, 30, 41), drawn(1, 7, 25)
    found = Ngrams.count(train, 7, discount=discount).log_probabilities(text, order)
    sequences = [s.tolist() for s in train]
    expected = [slowly(sequences, 7, order, discount, text[: i + 1].tolist()) for i in range(1, len(text))]
    assert found == pytest.approx(np.log(expected), abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_all_ids_together_have_likelihood_one_after_any_context(order: int, seed: int):
    tokens = 11
    model = Ngrams.count(drawn(seed, tokens, 40, 3, 25), tokens)
    for context in np.random.default_rng(seed).integers(0, tokens, size=(20, 5)):
        total = sum(math.exp(model.log_probabilities([*context, i], order)[-1]) for i in range(tokens))
        assert total == pytest.approx(1, abs=1e-12)


def test_counts_worked_out_by_hand():
    # Of [5, 6, 7] and [5, 6, 6], the tokens 6, 7, 6, 6 are predicted: 6 three times, 7 once. After 6 come 7 and 6, once each.
    model = Ngrams.count([[5, 6, 7], [5, 6, 6]], tokens=8)
    sixes, sevens = (2.25 + 1.5 / 8) / 4, (0.25 + 1.5 / 8) / 4
    assert np.exp(model.log_probabilities([6, 7], 1)) == pytest.approx([sevens])
    assert np.exp(model.log_probabilities([6, 7], 2)) == pytest.approx([(0.25 + 1.5 * sevens) / 2])
    assert np.exp(model.log_probabilities([5, 6], 2)) == pytest.approx([(1.25 + 0.75 * sixes) / 2])
    # Nothing was seen after 7: what a single token tells is all there is.
    assert np.exp(model.log_probabilities([7, 6], 2)) == pytest.approx([sixes])


def test_counts_cross_no_boundary_of_sequences():
    model = Ngrams.count([[1, 2], [3, 4]], tokens=5)
    assert model.log_probabilities([2, 3], 2) == model.log_probabilities([2, 3], 1)
    assert model.log_probabilities([1, 2], 2) > model.log_probabilities([1, 2], 1)


def test_a_first_token_is_given_and_not_counted():
    assert np.exp(Ngrams.count([[3, 1], [3, 1]], tokens=4).log_probabilities([0, 3], 1)) == pytest.approx(
        [0.75 / 2 / 4]
    )


def test_the_start_of_a_sequence_uses_what_context_there_is():
    model = Ngrams.count(drawn(2, 6, 60), 6)
    text = drawn(3, 6, 8)[0]
    assert model.log_probabilities(text, 4)[0] == model.log_probabilities(text, 2)[0]
    assert model.log_probabilities(text, 4)[1] == model.log_probabilities(text, 3)[1]


def test_the_order_of_sequences_changes_nothing():
    train, (text,) = drawn(4, 9, 20, 30, 5, 17), drawn(5, 9, 40)
    forward, backward = Ngrams.count(train, 9), Ngrams.count(train[::-1], 9)
    assert (forward.log_probabilities(text, 4) == backward.log_probabilities(text, 4)).all()


def test_the_largest_ids_are_told_apart():
    high = (1 << 16) - 1
    model = Ngrams.count([[high, high - 1, high - 2, high - 3, high]] * 3, tokens=1 << 16)
    likely = np.exp(model.log_probabilities([high, high - 1, high - 2, high - 3, high], 4))
    assert (likely > 0.5).all()
    assert math.exp(model.log_probabilities([high, high - 1, high - 2, high - 3, 0], 4)[-1]) < 1e-4


def test_without_anything_counted_it_guesses():
    for nothing in ([], [[3]]):
        assert Ngrams.count(nothing, tokens=5).log_probabilities([1, 2, 3], 4) == pytest.approx([-math.log(5)] * 2)


def sequence(name: str, length: int, variant: int = 0) -> TokenSequence:
    return TokenSequence(id_of(name), name, name, None, np.zeros(length, dtype=np.uint16), 1.0, variant)


def test_an_utterance_is_counted_in_its_first_drawing_alone_and_text_once():
    drawings = [sequence("a", 5, 0), sequence("b", 5, 1), sequence("c", 5, 2), sequence("d", 5, EVERY_EPOCH)]
    assert [s.id for s in counted(drawings)] == [id_of("a"), id_of("d")]


def test_so_many_tokens_are_counted_as_are_allowed_in_the_order_of_ids():
    sequences = [sequence(name, 5) for name in "dacb"]
    assert [s.id for s in counted(sequences, most_tokens=14)] == [id_of(name) for name in "ab"]
    assert [s.id for s in counted(sequences, most_tokens=20)] == [id_of(name) for name in "abcd"]

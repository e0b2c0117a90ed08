"""Scores of sequences: right, and the same whatever they are batched with."""

import math

import numpy as np
import pytest

from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.errors import TrainingError
from tinywave_core.evals.scoring import by_name, mean_nll, token_log_probabilities
from tinywave_core.models.llama import fresh_llama

pytestmark = pytest.mark.arithmetic


@pytest.fixture(scope="module")
def model():
    return fresh_llama(FreshTeacherConfig(layers=2, width=32, heads=2, intermediate=64), 40, 128, seed=0).eval()


def test_a_uniform_model_scores_minus_log_v(model):
    zero = fresh_llama(FreshTeacherConfig(layers=2, width=32, heads=2, intermediate=64), 40, 128, seed=0).eval()
    zero.lm_head.weight.data.zero_()
    (scores,) = token_log_probabilities(zero, [np.arange(5)])
    assert scores == pytest.approx([-math.log(40)] * 4)
    assert mean_nll([scores]) == pytest.approx(math.log(40))


def test_a_model_that_diverged_beyond_numbers_is_refused():
    broken = fresh_llama(FreshTeacherConfig(layers=2, width=32, heads=2, intermediate=64), 40, 128, seed=0).eval()
    broken.lm_head.weight.data[7] = math.inf
    with pytest.raises(
        TrainingError, match="4 of 4 tokens .* not a finite number: its training diverged.*lower learning rate"
    ):
        token_log_probabilities(broken, [np.arange(5)])


def test_scores_do_not_depend_on_the_batch(model):
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 40, n).astype(np.uint16) for n in (3, 90, 17, 40, 2, 61)]
    together = token_log_probabilities(model, sequences)
    for sequence, scores in zip(sequences, together, strict=True):
        assert scores == pytest.approx(token_log_probabilities(model, [sequence])[0], abs=1e-5)
        assert len(scores) == len(sequence) - 1


def test_scores_go_back_to_the_names_of_their_texts_in_order():
    ids, scores = np.arange(3), [np.full(2, -n, np.float32) for n in range(4)]
    pieces = by_name([("right", ids), ("wrong", ids), ("right", ids), ("wrong", ids)], scores)
    assert [score[0] for score in pieces["right"]] == [0, -2] and [score[0] for score in pieces["wrong"]] == [-1, -3]
    assert pieces["no such text"] == []

"""Likelihood per token, per second and over the teacher's: numbers worked out by hand."""

import math

import numpy as np
import pytest

from tinywave_core.evals.perplexity import after_prompt, against_teacher, nll_ratio, per_second, per_token, sums

pytestmark = pytest.mark.arithmetic

NLL = np.array([2.0, 6.0])
TOKENS = np.array([1.0, 3.0])


def test_sums_take_the_chosen_tokens_of_each_sequence():
    values = [np.array([1.0, 2.0, 4.0]), np.array([8.0])]
    chosen = [np.array([True, False, True]), np.array([False])]
    assert sums(values, chosen).tolist() == [5.0, 0.0]


def test_a_prompt_of_three_tokens_leaves_what_follows_it_without_the_end_of_speech():
    # <s> [Speech] a | b c </s>: tokens 1 … 5 are predicted, b and c are the continuation
    assert after_prompt(3, 6, ended=True).tolist() == [False, False, True, True, False]
    assert after_prompt(3, 6, ended=False).tolist() == [False, False, True, True, True]


def test_a_prompt_that_is_all_leaves_nothing():
    assert not after_prompt(5, 6, ended=True).any()


def test_nll_is_over_all_tokens_and_not_over_sequences():
    found = per_token(NLL, TOKENS, seed=0)
    assert found.nll == 2.0 and found.perplexity == pytest.approx(math.e**2)
    assert found.nll_interval == (2.0, 2.0)  # both sequences have 2 nats per token


def test_a_diverged_model_has_an_nll_and_no_perplexity():
    """exp of more than 709 is no float64: `math.exp` raises there."""
    found = per_token(np.array([800.0, 1500.0]), np.array([1.0, 2.0]), seed=0)
    assert found.nll == pytest.approx(2300 / 3)
    assert found.perplexity is None and found.perplexity_interval is None
    assert against_teacher(np.array([800.0]), np.array([1.0]), np.array([1.0]), seed=0).perplexity is None


def test_a_perplexity_whose_interval_is_too_large_is_not_told():
    found = per_token(np.array([1.0, 1400.0]), np.array([1.0, 1.0]), seed=0)
    assert found.nll == pytest.approx(700.5) and found.perplexity is None


def test_bits_per_second_are_nats_over_ln_2_and_seconds():
    found = per_second(NLL * math.log(2), np.array([0.5, 1.5]), seed=0)
    assert found.bits_per_second == pytest.approx(4.0)
    assert found.bits_per_second_interval == (pytest.approx(4.0), pytest.approx(4.0))


def test_a_model_is_as_good_as_itself():
    found = against_teacher(NLL, NLL, TOKENS, seed=0)
    assert (found.nll, found.perplexity) == (1.0, 1.0)
    assert found.nll_interval == found.perplexity_interval == (1.0, 1.0)


def test_ratio_of_perplexities_is_the_exponential_of_the_gap():
    found = against_teacher(NLL * 1.5, NLL, TOKENS, seed=0)  # 12 nats against 8, over 4 tokens
    assert found.nll == 1.5
    assert found.perplexity == pytest.approx(math.e)


def test_intervals_are_paired_so_that_a_constant_ratio_is_certain():
    of_teacher = np.array([1.0, 50.0, 3.0, 700.0])
    found = nll_ratio(of_teacher * 1.25, of_teacher, 0)
    assert found.nll_interval == (pytest.approx(1.25), pytest.approx(1.25))


def test_a_sequence_without_the_stream_does_not_count():
    with_it = nll_ratio(np.array([2.0, 0.0, 3.0]), np.array([1.0, 0.0, 4.0]), 0)
    assert with_it == nll_ratio(np.array([2.0, 3.0]), np.array([1.0, 4.0]), 0)


def test_a_teacher_that_is_certain_has_no_ratio():
    assert nll_ratio(np.array([1.0]), np.array([0.0]), 0).nll is None

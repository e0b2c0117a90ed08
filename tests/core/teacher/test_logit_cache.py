"""Sparse teacher targets: exactly K, exact head, unbiased, independent of batch and order, small."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinywave_core.teacher.logit_cache import decode, encode, sample_offsets, sparse_targets


def peaky(rows: int, vocabulary: int, scale: float = 2.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.softmax(torch.randn(rows, vocabulary, dtype=torch.float64, generator=generator) * scale, -1)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 24), st.floats(0, 0.9999), st.floats(0.0, 60.0))
def test_there_are_exactly_k_different_entries_that_sum_to_one(entries, offset, scale):
    p = peaky(4, 200, scale)
    ids, weights = sparse_targets(p, entries, torch.full((4,), offset, dtype=torch.float64))
    assert all(len(set(row)) == entries for row in ids.tolist())
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, dtype=torch.float64))


def test_the_head_is_kept_as_it_is():
    p = peaky(8, 300)
    ids, weights = sparse_targets(p, 12, torch.rand(8, dtype=torch.float64))
    assert torch.equal(ids[:, 0], p.argmax(-1))
    assert torch.equal(weights[:, 0], p.max(-1).values)


def test_the_estimate_is_unbiased_within_monte_carlo_error():
    """A renormalised top-k misses its own tail by construction; this must not."""
    p, draws = peaky(1, 300), 4000
    generator = torch.Generator().manual_seed(2)
    ids, weights = sparse_targets(p.expand(draws, -1), 12, torch.rand(draws, dtype=torch.float64, generator=generator))
    sums = torch.zeros(300, dtype=torch.float64).index_add_(0, ids.flatten(), weights.flatten())
    threshold = weights[0, -1]
    error = (p[0] * (threshold - p[0]).clamp(min=0) / draws).sqrt()  # of a value c drawn with probability p / c
    assert ((sums / draws - p[0]).abs() <= 5 * error + 1e-9).all()
    top = p[0].topk(12)
    assert 1 - top.values.sum() > 0.1  # there is a tail to be missed


def test_one_certain_token_is_not_divided_by_zero():
    ids, weights = sparse_targets(torch.eye(50, dtype=torch.float64)[:1], 12, torch.tensor([0.5], dtype=torch.float64))
    assert ids[0, 0] == 0 and weights[0, 0] == 1 and torch.isfinite(weights).all()


def test_the_sampler_depends_on_sequence_and_position_only():
    assert np.array_equal(sample_offsets(7, "abc", 10)[:5], sample_offsets(7, "abc", 5))
    assert not np.array_equal(sample_offsets(7, "abc", 5), sample_offsets(7, "abd", 5))
    assert not np.array_equal(sample_offsets(7, "abc", 5), sample_offsets(8, "abc", 5))


@pytest.mark.parametrize("entries", [8, 12, 16])
def test_coding_keeps_ids_and_weights_within_three_percent_at_three_bytes_an_entry(entries):
    ids, weights = sparse_targets(peaky(20, 500), entries, torch.rand(20, dtype=torch.float64))
    row = encode(ids, weights) | {
        "entropy": np.zeros(20, "<f2").tobytes(),
        "target_logp": np.zeros(20, "<f2").tobytes(),
    }
    found = decode(row, 20)
    assert np.array_equal(found.ids, ids.numpy())
    np.testing.assert_allclose(found.weights, weights.numpy(), rtol=0.03)
    assert sum(len(row[name]) for name in ("ids", "logw", "head")) == 20 * (2 * entries + entries - 1 + 4)

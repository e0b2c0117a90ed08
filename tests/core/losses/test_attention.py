"""Attention rows read beside SDPA: equal to eager maps, and the model's own output untouched."""

import math
import threading

import pytest
import torch

from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.losses.attention import IMPLEMENTATION, attention_loss, sample_tap, tapping
from tinywave_core.models.attention import dense_mask
from tinywave_core.models.llama import fresh_llama

pytestmark = pytest.mark.arithmetic


@pytest.fixture
def model():
    return fresh_llama(FreshTeacherConfig(layers=2, width=32, heads=4, intermediate=64), 50, 64, seed=0).eval()


IDS = torch.arange(24).reshape(2, 12) % 50
DOCUMENTS = torch.tensor([[1] * 7 + [2] * 5, [1] * 9 + [0] * 3])


@torch.no_grad()
def run(model, implementation, tap=None, **options):
    model.set_attn_implementation(implementation)
    with tapping(tap if tap is not None else sample_tap(12, 4, 12, 4, set(), 0)):
        return model(input_ids=IDS, attention_mask=dense_mask(DOCUMENTS), use_cache=False, **options)


def test_logits_with_the_tap_are_bit_identical_to_plain_sdpa(model):
    tap = sample_tap(12, heads=2, rows=5, num_heads=4, layers={0, 1}, seed=3)
    assert torch.equal(run(model, IMPLEMENTATION, tap).logits, run(model, "sdpa").logits)


def test_tapped_rows_equal_eager_attention_maps(model):
    tap = sample_tap(12, heads=3, rows=6, num_heads=4, layers={0, 1}, seed=3)
    run(model, IMPLEMENTATION, tap)
    mask = torch.zeros(2, 1, 12, 12).masked_fill(~dense_mask(DOCUMENTS), torch.finfo(torch.float32).min)
    model.set_attn_implementation("eager")
    eager = model(input_ids=IDS, attention_mask=mask, use_cache=False, output_attentions=True).attentions
    for layer in (0, 1):
        expected = eager[layer][:, tap.heads_h][:, :, tap.positions_r]
        torch.testing.assert_close(tap.log_maps[layer].exp(), expected, atol=1e-6, rtol=1e-5)


def test_the_same_seed_taps_the_same_rows_and_another_step_others():
    first, again, other = (sample_tap(512, 4, 32, 8, {0}, seed) for seed in (1, 1, 2))
    assert torch.equal(first.positions_r, again.positions_r)
    assert not torch.equal(first.positions_r, other.positions_r)


def test_equal_maps_cost_nothing_and_masked_positions_do_not_count():
    log_map = torch.log_softmax(torch.tensor([[[[0.3, 1.0, float("-inf")]]]]), -1)
    assert attention_loss(log_map, log_map, torch.ones(1, 1, dtype=torch.bool)).item() == 0


def test_kl_of_two_rows_by_hand():
    """Teacher (1/2, 1/2), student (1/4, 3/4): KL = 1/2 ln 2 + 1/2 ln(2/3)."""
    teacher, student = (
        torch.tensor([0.5, 0.5]).log().reshape(1, 1, 1, 2),
        torch.tensor([0.25, 0.75]).log().reshape(1, 1, 1, 2),
    )
    kl = attention_loss(student, teacher, torch.ones(1, 1, dtype=torch.bool))
    assert kl.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)


def test_two_threads_do_not_read_each_others_rows(model):
    taps = [sample_tap(12, 4, 12, 4, {layer}, 0) for layer in (0, 1)]
    start = threading.Barrier(2)

    def use(tap):
        with tapping(tap):
            start.wait()
            model.set_attn_implementation(IMPLEMENTATION)
            model(input_ids=IDS, attention_mask=dense_mask(DOCUMENTS), use_cache=False)
            start.wait()

    threads = [threading.Thread(target=use, args=(tap,)) for tap in taps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [set(tap.log_maps) for tap in taps] == [{0}, {1}]

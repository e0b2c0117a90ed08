"""What a plan promises, against counts worked out by hand and the measured demo."""

import pytest

from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.config.load import load_config
from tinywave_core.estimates import estimate, llama_parameters, logit_bytes, vocabulary_rows


def test_the_released_shapes_have_their_published_numbers_of_parameters():
    shape = FreshTeacherConfig(layers=32, width=4096, heads=32, intermediate=11008)
    assert llama_parameters(shape, 10, 32_512) == 2_290_176_000
    assert llama_parameters(shape, 10, 32_768) == 2_292_273_152


def test_the_demo_models_are_as_large_as_the_demo_makes_them():
    config = load_config("demo", {})
    assert vocabulary_rows(config) == 409
    assert llama_parameters(config.adaptation.fresh, 6, 409) == 1_310_592
    assert llama_parameters(config.adaptation.fresh, 2, 409) == 506_752


def test_cached_logits_cost_45_bytes_a_token_for_base_and_57_for_expressive():
    assert (logit_bytes(12), logit_bytes(16)) == (45, 57)


@pytest.mark.parametrize("preset", ["base-2b", "expressive-2b", "interleaved-2b"])
def test_the_2b_presets_can_be_estimated(preset):
    costs = estimate(load_config(preset, {}), hours=50_000, device="cuda")
    assert costs["export"].bytes == pytest.approx(4.58e9, rel=0.01)  # 2.29 B in bfloat16
    assert all(cost.seconds > 0 for cost in costs.values())

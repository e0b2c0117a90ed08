"""Regimes of distillation: which steps are live, and settings that contradict each other are refused."""

import pytest
from pydantic import ValidationError

from tinywave_core.config.base import TrainingConfig
from tinywave_core.config.distillation import DistillationConfig, LossWeightsConfig, OnPolicyConfig

STEPS = TrainingConfig(steps=400)
NO_LAYERS = LossWeightsConfig(hidden=0.0, attention=0.0)


def live(**settings) -> list[int]:
    config = DistillationConfig(training=STEPS, **settings)
    assert config.live_until == max((step + 1 for step in config.live_steps), default=0)
    return list(config.live_steps)


def test_the_default_runs_the_teacher_in_every_step_and_reads_the_cache():
    assert live() == list(range(400))
    assert DistillationConfig().needs_cache


def test_a_warm_up_is_15_percent_of_the_steps_and_at_least_one():
    assert live(regime="aligned-warmup") == list(range(60))
    assert live(regime="aligned-warmup", aligned_share=1e-6) == [0]


def test_every_nth_step_is_live():
    assert live(aligned_every=150) == [0, 150, 300]
    assert live(regime="aligned-warmup", aligned_every=25) == [0, 25, 50]


def test_no_step_after_the_last_planned_one_is_live():
    stopped = TrainingConfig(steps=400, batch_tokens=512, sequence_length=512, stop_after_tokens=5_000)  # 10 steps
    assert list(DistillationConfig(training=stopped).live_steps) == list(range(10))
    assert list(DistillationConfig(training=stopped, aligned_every=4).live_steps) == [0, 4, 8]
    warm = DistillationConfig(training=stopped, regime="aligned-warmup", aligned_share=0.005)
    assert list(warm.live_steps) == [0, 1]  # a share of `steps`, as the learning rate


def test_without_terms_that_need_it_the_teacher_never_runs():
    assert live(regime="cached", weights=NO_LAYERS) == live(weights=NO_LAYERS) == []


def test_only_live_logits_in_every_step_need_no_cache():
    assert not DistillationConfig(logit_signal="live").needs_cache
    assert DistillationConfig(logit_signal="live", aligned_every=2).needs_cache
    assert DistillationConfig(logit_signal="live", regime="aligned-warmup").needs_cache


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"regime": "cached"}, "weights.hidden and weights.attention would need it"),
        ({"regime": "cached", "weights": NO_LAYERS, "logit_signal": "live"}, "logit_signal = live would need it"),
        ({"regime": "aligned-warmup", "weights": NO_LAYERS}, "no term needs the teacher"),
        (
            {"aligned_every": 2, "weights": LossWeightsConfig(language_model=0.0, logits=0.0)},
            "nothing to learn from: give weights.language_model",
        ),
        ({"regime": "on_policy", "on_policy": {"prompt_tokens": 400, "new_tokens": 113}}, "longer than a row .* 512"),
        ({"regime": "on_policy", "aligned_every": 2}, "aligned_every is 2: leave it at 1"),
        ({"on_policy": {"share": 1.01}}, "less than or equal to 1"),
        ({"on_policy": {"share": 0}}, "greater than 0"),
        ({"on_policy": {"form": "sampled"}}, "take divergence reverse, temperature 1 and drawn_every 1"),
        ({"layer_map": "explicit"}, "which needs the pairs"),
        ({"layer_pairs": "0:4"}, "belong to layer_map = explicit"),
        ({"copied_blocks": "4"}, "belong to layer_map = explicit"),
        ({"layer_map": "explicit", "layer_pairs": "0-4"}, "should match pattern"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(settings, says):
    with pytest.raises(ValidationError, match=says):
        DistillationConfig(**settings)


def test_how_the_teacher_signals_does_not_change_the_control():
    settings = {"regime": "aligned-warmup", "logit_signal": "live", "hidden_form": "mse", "attention_rows": 7}
    assert DistillationConfig(**settings).control() == DistillationConfig().control()
    assert DistillationConfig(layers=3).control() != DistillationConfig().control()


def test_a_prompt_may_fill_all_of_a_row_that_its_continuation_leaves():
    DistillationConfig(regime="on_policy", on_policy=OnPolicyConfig(prompt_tokens=400, new_tokens=112))


def test_on_policy_the_teacher_runs_in_every_step_and_a_student_without_data_needs_no_cache():
    assert live(regime="on_policy", weights=NO_LAYERS) == list(range(400))
    assert DistillationConfig(regime="on_policy", weights=NO_LAYERS).needs_cache
    assert not DistillationConfig(regime="on_policy", weights=NO_LAYERS, logit_signal="live").needs_cache
    assert not DistillationConfig(regime="on_policy", on_policy=OnPolicyConfig(share=1.0)).needs_cache


def test_other_regimes_and_the_control_are_written_as_before_there_were_own_continuations():
    other = OnPolicyConfig(share=0.9)
    assert "on_policy" not in DistillationConfig(on_policy=other).model_dump()
    assert DistillationConfig(regime="on_policy", on_policy=other).model_dump()["on_policy"]["share"] == 0.9
    assert DistillationConfig(regime="on_policy", on_policy=other).control() == DistillationConfig().control()

"""What the amount of speech decides: steps by passes, warm-up with them, dropout by a measured table."""

import pytest

from tests.fixtures.training import CONFIG, sequences
from tinywave_core.config.base import TrainingConfig
from tinywave_core.training.recipe import dropout_for, settle
from tinywave_core.training.trainer import make_dataset

DATASET = make_dataset(sequences(), CONFIG)  # 306 tokens in 6 rows of 64, 2 rows a batch: 3 steps a pass


def test_passes_bound_the_steps_and_the_warm_up_shrinks_with_them():
    config = CONFIG.model_copy(update={"steps": 60, "warmup_steps": 20, "passes": 4})
    settled = settle(config, DATASET)
    assert len(DATASET.rows_of_pass(0)) == 6
    assert (settled.steps, settled.warmup_steps) == (12, 4)


def test_steps_bound_the_passes():
    assert settle(CONFIG.model_copy(update={"passes": 100}), DATASET).steps == CONFIG.steps
    assert settle(CONFIG, DATASET).steps == CONFIG.steps


def test_one_step_is_taken_however_few_the_passes():
    assert settle(CONFIG.model_copy(update={"passes": 0.01}), DATASET).steps == 1


def test_dropout_that_is_given_stays():
    assert settle(CONFIG.model_copy(update={"dropout": 0.0}), DATASET).dropout == 0.0
    assert settle(CONFIG, DATASET).dropout == dropout_for(306) > 0


def test_more_speech_needs_no_more_dropout():
    shares = [dropout_for(10**n) for n in range(2, 9)]
    assert shares == sorted(shares, reverse=True) and shares[-1] == 0


@pytest.mark.parametrize("passes", [2.0, 7.5])
def test_a_plan_counts_the_steps_that_follow_from_passes(passes):
    config = TrainingConfig(steps=1000, batch_tokens=1024, sequence_length=512, passes=passes)
    assert config.for_tokens(10_240).planned_tokens == pytest.approx(passes * 10_240, rel=0.1)
    assert config.for_tokens(10**9) == config

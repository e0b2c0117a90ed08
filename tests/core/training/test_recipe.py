"""What the amount of speech decides: steps by passes, warm-up with them, dropout by a measured table."""

from dataclasses import replace

import pytest

from tests.fixtures.training import CONFIG, sequences
from tinywave_core.config.base import TrainingConfig
from tinywave_core.sequences.table import EVERY_EPOCH, SequenceTable
from tinywave_core.training.recipe import Start, dropout_for, settle, tokens_of
from tinywave_core.training.trainer import make_dataset

DATASET = make_dataset(sequences(), CONFIG)  # 306 tokens in 6 rows of 64, 2 rows a batch: 3 steps a pass


def settled_by(config: TrainingConfig, tokens: int = 306, start: Start = "random weights") -> TrainingConfig:
    return settle(config, DATASET, tokens, start)


def test_passes_bound_the_steps_and_the_warm_up_shrinks_with_them():
    config = CONFIG.model_copy(update={"steps": 60, "warmup_steps": 20, "passes": 10})
    settled = settled_by(config)
    assert len(DATASET.rows_of_pass(0)) == 6
    assert (settled.steps, settled.warmup_steps) == (30, 3)
    # Whatever the cap that was not reached.
    assert settled_by(config.model_copy(update={"steps": 10_000})).warmup_steps == 3


def test_steps_bound_the_passes():
    assert settled_by(CONFIG.model_copy(update={"passes": 100})).steps == CONFIG.steps
    assert settled_by(CONFIG).steps == CONFIG.steps


def test_one_step_is_taken_however_few_the_passes():
    assert settled_by(CONFIG.model_copy(update={"passes": 0.01})).steps == 1


def test_what_is_given_stays():
    given = settled_by(CONFIG.model_copy(update={"dropout": 0.0, "weight_decay": 0.0}))
    assert (given.dropout, given.weight_decay) == (0.0, 0.0)
    assert settled_by(CONFIG).dropout == dropout_for(306) > 0


def test_random_weights_decay_more_than_those_that_know_something():
    assert settled_by(CONFIG).weight_decay == 1.0
    assert settled_by(CONFIG, start="teacher's blocks").weight_decay == 0.1
    assert settled_by(CONFIG, start="checkpoint").weight_decay == 0.1


def test_a_checkpoint_is_not_dropped_out_and_the_blocks_of_a_teacher_are():
    assert settled_by(CONFIG, start="checkpoint").dropout == 0.0
    assert settled_by(CONFIG, start="teacher's blocks").dropout == dropout_for(306)


def test_one_drawing_of_speech_and_all_text_are_the_training_tokens():
    drawn = [replace(s, variant=v) for s in sequences() for v in (0, 1, EVERY_EPOCH)]
    assert tokens_of(SequenceTable.of(drawn)) == 2 * sum(len(s.ids) for s in sequences())


def test_more_speech_needs_no_more_dropout():
    shares = [dropout_for(10**n) for n in range(2, 9)]
    assert shares == sorted(shares, reverse=True) and shares[-1] == 0


@pytest.mark.parametrize("passes", [2.0, 7.5])
def test_a_plan_counts_the_steps_that_follow_from_passes(passes):
    config = TrainingConfig(steps=1000, batch_tokens=1024, sequence_length=512, passes=passes)
    assert config.for_tokens(10_240).planned_tokens == pytest.approx(passes * 10_240, rel=0.1)
    assert config.for_tokens(10**9) == config

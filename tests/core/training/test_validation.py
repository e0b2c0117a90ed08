"""Validation: the best weights are kept, training stops when there is no hope, and both survive a stop to the bit."""

from dataclasses import replace

import pytest
import torch

from tests.fixtures.training import CHECKS, CONFIG, RUNTIME, Stop, fresh, others, run, sequences, stop_at, validation
from tinywave_core.config.validation import ValidationConfig
from tinywave_core.evals.scoring import mean_nll, token_log_probabilities
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.training.checkpoint import Best
from tinywave_core.training.validation import Validation


def nll_of(weights: dict[str, torch.Tensor], sequences: list[TokenSequence]) -> float:
    model = fresh()
    model.load_state_dict(weights)
    return mean_nll(token_log_probabilities(model.eval(), [s.ids for s in sequences]))


def test_the_weights_that_are_kept_are_those_of_the_lowest_validation_nll(tmp_path):
    # So many steps at such a rate that training speech is learned by heart.
    config = CONFIG.model_copy(update={"learning_rate": 0.05, "steps": 60})
    curve, weights = run(tmp_path, config, validation=validation(config=CHECKS.model_copy(update={"patience": 60})))
    checked = [record["validation"] for record in curve if record["validation"] is not None]
    assert len(curve) == 60 and min(checked) < checked[-1]
    assert nll_of(weights, others()) == pytest.approx(min(checked), rel=1e-5)


def test_a_check_is_the_nll_of_whole_sequences_as_evaluation_scores_them(tmp_path):
    curve, weights = run(tmp_path, CONFIG.model_copy(update={"steps": 1}), validation=validation())
    assert curve[0]["validation"] == pytest.approx(nll_of(weights, others()), rel=1e-5)


def test_validation_alone_changes_no_step(tmp_path):
    plain, _ = run(tmp_path / "a")
    checked, _ = run(tmp_path / "b", validation=validation())
    assert [r["loss"] for r in plain] == [r["loss"] for r in checked]
    assert "validation" not in plain[0]


def test_speech_that_only_gets_worse_stops_training_after_the_patience_and_keeps_the_start(tmp_path):
    config = CONFIG.model_copy(update={"learning_rate": 0.3})
    curve, weights = run(tmp_path, config, validation=validation(like=False))
    assert len(curve) == 3
    assert all(torch.equal(weights[name], p) for name, p in fresh().named_parameters())


def test_patience_counts_checks_since_the_best_one():
    checks = validation(config=ValidationConfig(checks=10, patience=2))
    best = Best(30, 1.0, {})
    assert [step for step in range(30, 71) if checks.is_over(step, 100, best)] == [50, 60, 70]
    assert not checks.is_over(100, 100, None)


@pytest.mark.parametrize(("until", "ends"), [(0, [50, 60, 70]), (30, [50, 60, 70]), (40, [60, 70]), (80, [])])
def test_no_check_counts_against_a_training_before_what_is_to_change_it_begins(until: int, ends: list[int]):
    checks = replace(validation(config=ValidationConfig(checks=10, patience=2)), patient_until=until)
    assert [step for step in range(30, 71) if checks.is_over(step, 100, Best(30, 1.0, {}))] == ends


def test_checks_are_at_equal_distances_and_at_the_end():
    checks = validation(config=ValidationConfig(checks=4, patience=2))
    assert [step for step in range(1, 11) if checks.is_due(step, 10)] == [3, 6, 9, 10]
    assert [step for step in range(1, 4) if checks.is_due(step, 3)] == [1, 2, 3]


@pytest.mark.parametrize("step", [1, 4, 8])
@pytest.mark.parametrize("like", [True, False])
def test_a_run_that_was_stopped_keeps_the_same_weights_to_the_bit(tmp_path, step, like):
    config = CONFIG.model_copy(update={"learning_rate": 0.05, "dropout": 0.1})
    patient = CHECKS.model_copy(update={"patience": 8})
    curve, weights = run(tmp_path / "whole", config, validation=validation(like, patient))
    with pytest.raises(Stop):
        run(tmp_path / "cut", config, validation=validation(like, patient), on_step=stop_at(step))
    again, resumed = run(tmp_path / "cut", config, validation=validation(like, patient))
    assert again == curve
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_a_damaged_best_file_makes_the_checkpoint_a_damaged_one(tmp_path):
    curve, weights = run(tmp_path / "whole", validation=validation())
    with pytest.raises(Stop):
        run(tmp_path / "cut", validation=validation(), on_step=stop_at(7))
    newest = sorted(tmp_path.glob("cut/step-*"))[-1] / "best.safetensors"
    raw = bytearray(newest.read_bytes())
    raw[-3] ^= 1
    newest.write_bytes(raw)
    again, resumed = run(tmp_path / "cut", validation=validation())
    assert again == curve and all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_rows_are_filled_up_so_that_processes_share_them_equally():
    checks = validation()
    rows = len(checks.dataset.rows_of_pass(0))
    for processes in (1, 2, 3):
        batches = list(checks.batches(2 * processes, processes))
        assert all(len(batch.rows) % processes == 0 for batch in batches)
        assert sum(batch.targets for batch in batches) == sum(len(s.ids) - 1 for s in others())
        assert rows <= sum(len(batch.rows) for batch in batches) < rows + processes


def test_micro_batches_change_rounding_only(tmp_path):
    one, _ = run(tmp_path / "a", validation=validation())
    parts, _ = run(tmp_path / "b", runtime=RUNTIME.model_copy(update={"micro_batch_rows": 1}), validation=validation())
    assert [p["validation"] for p in parts] == pytest.approx([w["validation"] for w in one], rel=1e-4)


def test_without_speech_nothing_validates():
    assert Validation.on([], 64, CHECKS) is None
    assert sequences()  # which are trained on all the same

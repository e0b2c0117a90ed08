"""Pairs as rows, log-probabilities of continuations alone, and a training that goes on exactly where it was killed."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from tests.fixtures.training import RUNTIME, fresh
from tinywave_core.config.base import TrainingConfig
from tinywave_core.config.preference import PreferenceConfig
from tinywave_core.config.validation import ValidationConfig
from tinywave_core.progress import Progress, no_progress
from tinywave_core.sequences.dataset import IGNORED
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.training.preference import PairDataset, PreferenceObjective, log_probabilities, reference_of
from tinywave_core.training.trainer import Trained, train
from tinywave_core.training.validation import Validation

CONFIG = PreferenceConfig(share=1.0, prompt_tokens=6, new_tokens=10, batch_pairs=4, beta=0.5)
TRAINING = TrainingConfig(
    steps=8, batch_tokens=4 * 32, sequence_length=32, learning_rate=5e-3, warmup_steps=1, weight_decay=0, dropout=0
)
CPU = torch.device("cpu")


def pair(number: int) -> TokenSequence:
    """After the same prompt: rising ids are better than the same ids in disorder."""
    rng = np.random.default_rng(number)
    prompt, rising = rng.integers(2, 40, 6), np.arange(10) + rng.integers(2, 29)
    ids = np.concatenate([prompt, rising, prompt, rng.permutation(rising)])
    return TokenSequence(f"{number:032x}", f"u{number}", f"r{number}", None, ids.astype(np.uint16), 0.0)


def dataset(numbers: range, model: LlamaForCausalLM, config: PreferenceConfig = CONFIG) -> PairDataset:
    made = PairDataset([pair(number) for number in numbers], config, config.batch_pairs)
    made.reference_P2 = reference_of(model, made, 3, CPU)
    return made


def tuned(
    folder: Path, progress: Progress = no_progress, config: PreferenceConfig = CONFIG
) -> tuple[Trained, LlamaForCausalLM]:
    model = fresh()
    checks = Validation(dataset(range(100, 120), model), ValidationConfig(checks=4, patience=9))
    pairs = dataset(range(40), model)
    run = train(model, pairs, PreferenceObjective(config), TRAINING, RUNTIME, folder, progress, validation=checks)
    return run, model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, LlamaForCausalLM]:
    return tuned(tmp_path_factory.mktemp("whole"))


def test_a_row_is_both_continuations_and_only_their_tokens_are_predicted():
    made = PairDataset([pair(3)], CONFIG, 1)
    batch, ids = made.batch(0), pair(3).ids
    assert batch.input_ids[0].tolist() == ids.tolist()
    assert batch.positions[0].tolist() == [*range(16), *range(16)]
    assert batch.documents[0].tolist() == [1] * 16 + [2] * 16
    assert np.flatnonzero(batch.labels[0] != IGNORED).tolist() == [*range(5, 15), *range(21, 31)]
    assert batch.labels[0, 5:15].tolist() == ids[6:16].tolist()
    assert batch.labels[0, 21:31].tolist() == ids[22:].tolist()
    assert (batch.step_targets, batch.targets, batch.row_targets) == (20, 20, (20,))


def test_a_row_of_padding_has_nothing_to_learn():
    batch = PairDataset([pair(3)], CONFIG, 1).collate([[0], []])
    assert not batch.input_ids[1].any() and not batch.documents[1].any() and (batch.labels[1] == IGNORED).all()


def test_log_probabilities_are_those_of_each_continuation_on_its_own():
    model, pairs = fresh().eval(), [pair(1), pair(2)]
    batch = PairDataset(pairs, CONFIG, 2).collate([[0], [1]])
    expected = []
    for each in pairs:
        for half in (each.ids[:16], each.ids[16:]):
            ids = torch.tensor(half.astype(np.int64))[None]
            logp = model(ids).logits.detach()[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            expected.append(float(logp[5:].sum()))  # the first of ten new tokens is predicted at the sixth
    assert log_probabilities(model, batch).flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_the_objective_is_a_mean_over_pairs_with_the_likelihood_beside_it():
    model, config = fresh(), CONFIG.model_copy(update={"likelihood_weight": 0.25})
    pairs = dataset(range(3), model, config)
    batch = pairs.collate([[0], [1], [2]])
    logp = log_probabilities(model, batch)
    found = PreferenceObjective(config)(model, batch, 0)
    nll = -float(logp[:, 0].detach().mean()) / 10
    assert found.total.item() / batch.targets == pytest.approx(math.log(2) + 0.25 * nll, rel=1e-5)
    assert float(found.terms["better_nll"]) / batch.targets == pytest.approx(nll, rel=1e-5)
    # The reference is what the rows bring: had the model gained 2 nats in the better ones, the margin would be beta * 2.
    assert pairs.reference_P2 is not None
    pairs.reference_P2 -= np.array([2.0, 0.0])
    moved = PreferenceObjective(config)(model, pairs.collate([[2], [0]]), 0)
    assert float(moved.terms["margin"]) / 40 == pytest.approx(1.0, abs=1e-4)
    assert float(moved.terms["preference"]) / 40 == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-4)


def test_training_begins_at_log_2_and_learns_pairs_it_never_saw(whole: tuple[Trained, LlamaForCausalLM]):
    run = whole[0]
    assert run.curves[0]["preference"] == pytest.approx(math.log(2), abs=1e-6)
    assert run.curves[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert run.best is not None and run.best.step > 0
    checked = run.curves[run.best.step - 1]
    assert run.best.nll == checked["validation"] == checked["validation_preference"] < 0.6
    assert (checked["validation_accuracy"] or 0) >= 0.9  # of 20 pairs: chance would be so right once in 5,000


def test_a_run_that_was_killed_goes_on_to_the_same_weights(whole: tuple[Trained, LlamaForCausalLM], tmp_path: Path):
    def kill(step: int, _: int, __: str = "") -> None:
        if step == 5:  # the last checkpoint is that of step 4
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        tuned(tmp_path, kill)
    run, model = tuned(tmp_path)
    assert run.curves == whole[0].curves
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole[1].parameters(), strict=True))

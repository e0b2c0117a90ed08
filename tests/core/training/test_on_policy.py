"""A student that learns from its own continuations: what it says, which tokens count, and that a resumed run says the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.fixtures.on_policy import OWN, TOKENS_ONLY, own_of, prepared, settings, train_on_policy
from tests.fixtures.training import CONFIG, RUNTIME, Stop, fresh, numbers, sequences, stop_at
from tinywave_core.config.base import TrainingConfig
from tinywave_core.config.distillation import OnPolicyConfig
from tinywave_core.errors import TrainingError
from tinywave_core.models.forward import forward
from tinywave_core.sequences.dataset import IGNORED
from tinywave_core.teacher.layer_map import layer_map
from tinywave_core.training import on_policy
from tinywave_core.training.module import trained_module
from tinywave_core.training.objective import DistillationObjective
from tinywave_core.training.on_policy import Drawn, draw, spoken
from tinywave_core.training.trainer import make_dataset

pytestmark = pytest.mark.arithmetic

CPU = torch.device("cpu")


def batch_of(own: OnPolicyConfig = OWN, number: int = 0, model=None, training: TrainingConfig = CONFIG):
    """A batch with what a model says in it, and what was drawn."""
    model = model or fresh()
    made = own_of(own, training)
    module = trained_module(model, None, RUNTIME, CPU)
    drawn = draw(made, module, number, RUNTIME.micro_batch_rows, CPU)
    return made.added(make_dataset(sequences(), training).batch(number), number, drawn), drawn


# What is said ------------------------------------------------------------------------------------------------------


def test_the_student_says_what_a_plain_loop_over_whole_forward_passes_says():
    """Kept keys and values, many prompts at once: against one prompt at a time, read anew for every token."""
    model = fresh().eval()
    asked = own_of().speaking(0, 3)
    said = spoken(model, asked).tolist()
    for prompt, uniform, new in zip(asked.prompts_CP, asked.uniform_CN, said, strict=True):
        ids = prompt.tolist()
        for wanted, drawn in zip(uniform, new, strict=False):
            with torch.no_grad():
                p = F.softmax(model(torch.tensor([ids])).logits[0, -1, 2:].double(), -1).numpy()
            assert drawn == 2 + int(np.sum(np.cumsum(p) <= wanted))
            if drawn == 2:
                break
            ids.append(drawn)


def test_tokens_are_drawn_as_often_as_the_softmax_at_the_temperature_says():
    scores = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    at = (torch.arange(20_000) + 0.5) / 20_000
    drawn = on_policy._by_uniform((scores / 0.7).expand(20_000, 4), at.double())
    shares = torch.bincount(drawn, minlength=4) / 20_000
    torch.testing.assert_close(shares, F.softmax(scores[0] / 0.7, -1), atol=1e-4, rtol=0)


def test_only_ids_that_may_be_said_are_said():
    asked = replace(own_of().speaking(0, 3), allowed_A=np.array([2, 11, 17]))
    assert set(spoken(fresh().eval(), asked).flatten().tolist()) <= {2, 11, 17}


def test_the_end_is_the_last_token_that_a_continuation_has():
    own = own_of()
    own.allowed = np.array([2, 11, 17, 23, 29])
    said = draw(own, trained_module(fresh(), None, RUNTIME, CPU), 0, 8, CPU).new
    assert {len(new) for new in said if 2 not in new} == {10}
    ended = [new for new in said if 2 in new]
    assert ended and all(new.index(2) == len(new) - 1 for new in ended)


def test_a_prompt_is_the_beginning_of_a_training_sequence_and_all_of_them_get_their_turn():
    beginnings = {tuple(s.ids[:6].tolist()) for s in sequences()}
    seen = {tuple(prompt) for number in range(40) for prompt in own_of().prompts(number).tolist()}
    assert seen == beginnings


def test_prompts_and_random_numbers_are_those_of_seed_and_batch_number_alone():
    whole, part = own_of().speaking(0, 3), own_of().speaking(2, 3)
    assert (whole.prompts_CP[-len(part.prompts_CP) :] == part.prompts_CP).all()
    assert (whole.uniform_CN[-len(part.uniform_CN) :] == part.uniform_CN).all()
    other = own_of(seed=1).speaking(0, 3)
    assert (other.uniform_CN != whole.uniform_CN).all() and (other.prompts_CP != whole.prompts_CP).any()


def test_sequences_no_longer_than_the_prompt_are_none_and_without_longer_ones_training_stops():
    longest = max(len(s.ids) for s in sequences())
    only = own_of(replace_of(prompt_tokens=longest - 1))
    assert len(only._prompts) == 1
    with pytest.raises(TrainingError, match=rf"has {longest} tokens.*prompt of {longest}: lower"):
        own_of(replace_of(prompt_tokens=longest))


def replace_of(**values) -> OnPolicyConfig:
    return OnPolicyConfig.model_validate(OWN.model_dump() | values)


def test_the_student_speaks_without_dropout_and_is_in_training_again_afterwards():
    module = trained_module(fresh(), None, RUNTIME, CPU, dropout=0.5)
    said = draw(own_of(), module, 0, 8, CPU)
    assert module.training
    assert said == batch_of()[1]


# Where it stands in the batch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("never", [{"share": 0.001}, {"after_share": 0.99}])
def test_a_training_in_which_the_student_says_nothing_is_refused(never: dict[str, float]):
    with pytest.raises(TrainingError, match="in 9 steps of 2 rows no row is the student's own: raise"):
        own_of(OWN.model_copy(update=never))


@pytest.mark.parametrize(("share", "rows"), [(0.3, 2), (0.5, 2), (0.25, 8), (1 / 3, 3), (1.0, 4)])
def test_the_share_of_rows_is_kept_over_the_steps(share, rows):
    training = CONFIG.model_copy(update={"batch_tokens": rows * CONFIG.sequence_length})
    own = own_of(OWN.model_copy(update={"share": share}), training)
    counts = [len(own.own_rows(number)) for number in range(60)]
    assert sum(counts) == round(60 * share * rows)
    assert max(counts) - min(counts) <= 1


def test_before_its_time_the_student_does_not_speak():
    own = own_of(OWN.model_copy(update={"after_share": 0.5}), CONFIG.model_copy(update={"steps": 10}))
    assert [len(own.own_rows(number)) for number in range(8)] == [0] * 5 + [1] * 3


def test_a_row_holds_as_many_continuations_as_fit_each_a_document_of_its_own():
    batch, drawn = batch_of()
    own = own_of()
    (row,) = own.own_rows(0)
    assert batch.own.tolist() == [False, True] and row == 1
    new = drawn.new[:4]  # 64 // (6 + 10)
    whole = [prompt + said for prompt, said in zip(own.prompts(0).tolist(), new, strict=True)]
    used = sum(map(len, whole))
    assert batch.input_ids[1, :used].tolist() == [i for ids in whole for i in ids]
    assert batch.positions[1, :used].tolist() == [n for ids in whole for n in range(len(ids))]
    assert batch.documents[1, :used].tolist() == [d for d, ids in enumerate(whole, 1) for _ in ids]
    assert not batch.documents[1, used:].any() and (batch.labels[1, used:] == IGNORED).all()


def test_what_was_said_is_learned_from_and_the_prompt_is_not():
    batch, drawn = batch_of()
    labels, start = batch.labels[1], 0
    for said in drawn.new[:4]:
        own = labels[start : start + 6 + len(said)].tolist()
        assert own == [IGNORED] * 5 + said + [IGNORED]
        start += 6 + len(said)


def test_a_continuation_ends_with_the_end_that_it_said():
    batch, _ = batch_of()
    own = own_of()
    ended = own.added(make_dataset(sequences(), CONFIG).batch(0), 0, Drawn(0, 1, [[7, 2], [9, 2], [5], [6, 8, 2]]))
    assert ended.own_targets == 8 and batch.own_targets > 8
    assert sum(ended.labels[1] == 2) == 3


def test_the_rows_of_data_are_those_of_the_other_regimes_and_the_targets_add_up():
    plain, (batch, drawn) = make_dataset(sequences(), CONFIG).batch(0), batch_of()
    assert (batch.input_ids[0] == plain.input_ids[0]).all() and (batch.labels[0] == plain.labels[0]).all()
    assert batch.own_targets == sum(map(len, drawn.new[:4])) == batch.own_speech.targets
    assert batch.step_targets == batch.own_targets + (plain.labels[0] != IGNORED).sum() == batch.targets
    assert batch.data.targets + batch.own_speech.targets == batch.targets


def test_processes_have_the_rows_of_the_whole_batch_between_them():
    training = CONFIG.model_copy(update={"batch_tokens": 256})
    dataset, (whole, drawn) = make_dataset(sequences(), training), batch_of(training=training)
    own = own_of(training=training)
    parts = [own.added(dataset.batch(0, rows), 0, drawn) for rows in (slice(0, 2), slice(2, 4))]
    assert (np.concatenate([part.input_ids for part in parts]) == whole.input_ids).all()
    assert (np.concatenate([part.labels for part in parts]) == whole.labels).all()
    assert {part.step_targets for part in parts} == {whole.step_targets}
    assert [part.own.tolist() for part in parts] == [[False, True], [False, True]]


# The loss ----------------------------------------------------------------------------------------------------------


def expected_reverse(student, teacher, batch) -> float:
    """Mean reverse KL over the labelled positions of the rows of its own, written out in float64."""
    with torch.no_grad():
        log_q, log_p = (
            torch.log_softmax((forward(m, batch).last_BTD.double() @ m.lm_head.weight.double().T)[1], -1)
            for m in (student, teacher)
        )
    at = torch.from_numpy(batch.labels[1] != IGNORED)
    return float((log_q.exp() * (log_q - log_p)).sum(-1)[at].mean())


def test_the_term_is_the_mean_divergence_over_what_was_said_and_the_loss_the_mean_over_all_targets():
    own = OWN.model_copy(update={"weight": 0.4})
    student, objective = prepared(settings(own))
    batch, _ = batch_of()
    loss = objective(student, batch, 0)
    shown = {name: value / batch.step_targets for name, value in numbers(loss).items()}
    assert shown["on_policy"] == pytest.approx(expected_reverse(student, objective.teacher, batch), rel=1e-4)
    data = batch.step_targets - batch.own_targets
    alone, _ = prepared(settings())
    plain = make_dataset(sequences(), CONFIG).batch(0).split(1)[0]
    language_model = numbers(
        DistillationObjective(settings().control(), layer_map("paper", 4, 2), 1.0, None)(alone, plain, 0)
    )
    assert shown["language_model"] == pytest.approx(language_model["language_model"] / data, rel=1e-5)
    whole = data * shown["language_model"] + 0.4 * batch.own_targets * shown["on_policy"]
    assert loss.total.item() == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("name", ["hidden", "attention"])
def test_terms_of_data_see_nothing_of_the_rows_of_its_own(name):
    weights = TOKENS_ONLY.model_copy(update={name: 1.0})
    _, drawn = batch_of()
    values = []
    for new in (drawn.new, [[5] * 10] * 12):
        student, objective = prepared(settings(weights=weights, attention_rows=64))
        other = own_of().added(make_dataset(sequences(), CONFIG).batch(0), 0, replace(drawn, new=new))
        values.append(numbers(objective(student, other, 0))[name] / other.step_targets)
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert values[0] > 0


def test_a_batch_all_of_its_own_shows_no_term_of_data_and_a_batch_without_is_that_of_aligned():
    all_own = OWN.model_copy(update={"share": 1.0})
    student, objective = prepared(settings(all_own))
    batch, _ = batch_of(all_own)
    assert set(objective(student, batch, 0).terms) == {"on_policy"}
    plain = make_dataset(sequences(), CONFIG).batch(0)
    aligned = DistillationObjective(
        settings(regime="aligned", logit_signal="live"), layer_map("paper", 4, 2), 1.0, objective.teacher
    )
    assert torch.equal(objective(student, plain, 0).total, aligned(student, plain, 0).total)


# Training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [2, 5, 7])
def test_a_run_that_was_stopped_goes_on_with_what_was_drawn_to_bit_equal_curves_and_weights(tmp_path, step):
    """A checkpoint every second step, speech in every third: at 4 and 8 some of it is still to be learned from."""
    curve, weights = train_on_policy(tmp_path / "whole")
    with pytest.raises(Stop):
        train_on_policy(tmp_path / "cut", on_step=stop_at(step))
    resumed_curve, resumed = train_on_policy(tmp_path / "cut")
    assert resumed_curve == curve
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_the_student_speaks_in_every_third_step_as_it_is_then(tmp_path, monkeypatch):
    asked: list[int] = []
    drawn: list[Drawn] = []
    real = on_policy.draw

    def noted(own, module, number, *others):
        asked.append(number)
        drawn.append(real(own, module, number, *others))
        return drawn[-1]

    monkeypatch.setattr("tinywave_core.training.trainer.draw", noted)
    train_on_policy(tmp_path, training=CONFIG.model_copy(update={"steps": 7}))
    assert asked == [0, 3, 6]
    assert [(d.first, d.end) for d in drawn] == [(0, 3), (3, 6), (6, 9)]
    student, _ = prepared(settings())
    at_start = draw(own_of(), trained_module(student, None, RUNTIME, CPU), 3, 8, CPU)
    assert at_start.new != drawn[1].new


def test_micro_batches_change_rounding_only(tmp_path):
    four = CONFIG.model_copy(update={"batch_tokens": 256, "steps": 3})
    whole, _ = train_on_policy(tmp_path / "a", training=four)
    parts, _ = train_on_policy(
        tmp_path / "b", training=four, runtime=RUNTIME.model_copy(update={"micro_batch_rows": 1})
    )
    for name in ("loss", "language_model", "on_policy"):
        assert [p[name] for p in parts] == pytest.approx([w[name] for w in whole], rel=1e-3)


@pytest.mark.parametrize(
    ("divergence", "form"), [("forward", "full"), ("jensen_shannon", "full"), ("reverse", "sampled")]
)
def test_the_student_comes_nearer_to_the_teacher_on_what_it_says(tmp_path, divergence, form):
    own = replace_of(divergence=divergence, form=form, share=1.0, drawn_every=1)
    training = CONFIG.model_copy(update={"steps": 16, "learning_rate": 5e-3})
    curve, _ = train_on_policy(tmp_path, own, training)
    values = [record["on_policy"] for record in curve]
    assert np.mean(values[-4:]) < 0.8 * np.mean(values[:4])

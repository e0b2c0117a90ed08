"""How the terms of the loss pull: norms and cosines equal those of each term's own gradient, and training does not notice."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.core.training.test_objective import BATCH, prepared, teacher  # noqa: F401
from tests.fixtures import on_policy, small_run
from tests.fixtures.training import CONFIG, RUNTIME, Stop, distilled, fresh, make_dataset, run, sequences, stop_at
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.config.distillation import DistillationConfig, LossWeightsConfig
from tinywave_core.losses.attention import tapping
from tinywave_core.losses.terms import attention_maps, hidden_states
from tinywave_core.models.forward import forward
from tinywave_core.reporting.page import render_report
from tinywave_core.stages.distillation.pull import advice, pulls
from tinywave_core.stages.distillation.stage import facts
from tinywave_core.storage.shards import write_table
from tinywave_core.training import gradients, trainer
from tinywave_core.training.gradients import report
from tinywave_core.training.module import trained_module
from tinywave_core.training.objective import DistillationObjective
from tinywave_core.training.on_policy import draw

CPU = torch.device("cpu")
EVERY_2 = RUNTIME.model_copy(update={"gradient_report_every": 2})


def reported(student, objective, batch, runtime=RUNTIME, **options):
    module = trained_module(student, objective, runtime, CPU, **options)
    return report(module, batch, 0, runtime, CPU)


def by_hand(student, objective, batch) -> dict[str, torch.Tensor]:
    """Gradient of each term with respect to the blocks, from the plain formulas over whole distributions, as one vector each."""
    views = objective._views(student, batch, 0, [], live=True)
    student_tap, teacher_tap = objective._taps(student, batch, 0, maps=True)
    with tapping(student_tap):
        own = forward(student, batch, hidden=True)
    with torch.no_grad(), tapping(teacher_tap):
        goal = forward(objective.teacher, batch, hidden=True)
    views = replace(views, student=own, teacher=goal, student_tap=student_tap, teacher_tap=teacher_tap)
    labels = torch.from_numpy(batch.labels).flatten()
    log_q = torch.log_softmax(student.lm_head(own.last_BTD).flatten(0, 1), -1)[labels >= 0]
    log_p = torch.log_softmax(objective.teacher.lm_head(goal.last_BTD).flatten(0, 1), -1)[labels >= 0]
    losses = {
        "language_model": -log_q.gather(-1, labels[labels >= 0][:, None]).sum(),
        "logits": (log_p.exp() * (log_p - log_q)).sum(),
        "hidden": hidden_states(views),
        "attention": attention_maps(views),
    }
    blocks = list(student.model.layers.parameters())
    found = {}
    for name, loss in losses.items():
        parts = torch.autograd.grad(loss / batch.step_targets, blocks, retain_graph=True, allow_unused=True)
        flat = [torch.zeros_like(b) if g is None else g for g, b in zip(parts, blocks, strict=True)]
        found[name] = torch.cat([g.flatten() for g in flat])
    return found


def test_norms_and_cosines_are_those_of_each_terms_own_gradient(teacher):  # noqa: F811
    weights = LossWeightsConfig(language_model=0.25, logits=0.75, hidden=2.0, attention=0.5)
    config = DistillationConfig(layers=2, weights=weights, logit_signal="live")
    student, objective = prepared(teacher.double(), config)
    student.double()
    row = reported(student, objective, BATCH)
    expected = by_hand(student, objective, BATCH)
    for name, gradient in expected.items():
        assert row[f"norm/{name}"] == pytest.approx(gradient.norm().item(), rel=1e-6)
        assert row[f"weighted/{name}"] == pytest.approx(getattr(weights, name) * gradient.norm().item(), rel=1e-6)
    pairs = [tuple(name.split("/")[1:]) for name in row if name.startswith("cosine/")]
    assert len(pairs) == 6
    for a, b in pairs:
        cosine = torch.nn.functional.cosine_similarity(expected[a], expected[b], dim=0)
        assert row[f"cosine/{a}/{b}"] == pytest.approx(cosine.item(), abs=1e-6)


def test_a_curve_and_its_weights_are_the_same_to_the_bit_with_and_without_reports(tmp_path):
    dropped = CONFIG.model_copy(update={"dropout": 0.3})
    curves, weights = [], []
    for name, runtime in (("without", RUNTIME), ("with", EVERY_2)):
        student, objective = distilled()
        curve, own = run(tmp_path / name, dropped, runtime, objective=objective, model=student)
        curves.append(curve)
        weights.append(own)
    assert curves[0] == curves[1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (tmp_path / "with" / "gradients.jsonl").is_file() and not (tmp_path / "without" / "gradients.jsonl").exists()


def trained(folder, on_step=None, runtime=EVERY_2):
    student, objective = distilled()
    dataset = make_dataset(sequences(), CONFIG)
    return trainer.train(student, dataset, objective, CONFIG, runtime, folder, lambda *_: None, on_step=on_step)


def test_a_run_that_was_stopped_has_each_report_once(tmp_path):
    whole = trained(tmp_path / "whole").gradients
    assert [row["step"] for row in whole] == [1, 3, 5, 7, 9]
    with pytest.raises(Stop):
        trained(tmp_path / "cut", stop_at(7))  # its last checkpoint is of step 6
    log = tmp_path / "cut" / "gradients.jsonl"
    log.write_bytes(log.read_bytes()[:-40])  # step 7's is cut short by a kill
    assert trained(tmp_path / "cut").gradients == whole


def test_micro_batches_and_the_whole_batch_are_reported_alike():
    config = CONFIG.model_copy(update={"batch_tokens": 256})
    batch = make_dataset(sequences(), config).batch(0)
    whole = reported(*distilled(), batch)
    parts = reported(*distilled(), batch, RUNTIME.model_copy(update={"micro_batch_rows": 1}))
    # Attention draws its rows per micro-batch alike, and the mean stands for all.
    for name in ("norm/language_model", "norm/hidden", "cosine/language_model/hidden"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-3)


def test_a_report_leaves_no_gradient_and_the_whole_objective_behind():
    student, objective = distilled()
    module = trained_module(student, objective, RUNTIME, CPU)
    report(module, BATCH, 0, RUNTIME, CPU)
    assert module.objective is objective and objective.teacher is not None
    assert all(p.grad is None for p in module.parameters())


def test_a_step_without_the_teacher_has_the_terms_that_it_takes():
    _, objective = distilled()
    objective.config = objective.config.model_copy(update={"aligned_every": 2})
    assert list(objective.alone(0, BATCH)) == ["language_model", "hidden", "attention"]
    assert list(objective.alone(1, BATCH)) == ["language_model"]


def test_of_a_trunk_that_is_too_large_the_first_block_is_looked_at(monkeypatch):
    trainable = dict(fresh(2).named_parameters())
    every = gradients.trunk_of(trainable)
    assert {name.split(".")[2] for name in every} == {"0", "1"} and len(every) == 18
    monkeypatch.setattr(gradients, "MOST_NUMBERS", sum(p.numel() for p in every.values()) - 1)
    assert set(gradients.trunk_of(trainable)) == {name for name in every if name.startswith("model.layers.0.")}


def test_several_processes_are_refused_and_say_why():
    with pytest.raises(ValueError, match="each with a part of the gradient"):
        RuntimeConfig(gradient_report_every=5, training_processes=2)


def columns(share: float, cosine: float) -> dict[str, list[float]]:
    """Two reports, of logits that pull at 2 and hidden states at a share of it; the cosine is under the other order."""
    return {
        "step": [1, 3, 5],
        "weighted/hidden": [2 * share, 2 * share, None],
        "weighted/logits": [2.0, 2.0, 9.0],
        "cosine/hidden/logits": [cosine, cosine, None],
    }


@pytest.mark.parametrize(
    ("share", "cosine", "said"),
    [
        (0.03, 0.9, "hidden pulls at 3 % of its size (cosine 0.90): hardly felt"),
        (0.3, 0.9, "the same way: it says little new"),
        (0.3, -0.5, "against it: lower its weight"),
        (
            0.3,
            0.2,
            "a way of its own: it says what the other does not, and whether that helps shows a student without it",
        ),
    ],
)
def test_each_term_gets_a_suggestion_with_its_reason(share, cosine, said):
    told = advice(columns(share, cosine))
    assert told.startswith("logits pulls strongest; ") and said in told


@pytest.mark.parametrize(("share", "terms"), [(0.5, {"language_model", "on_policy"}), (1.0, {"on_policy"})])
def test_of_own_continuations_the_terms_of_the_loss_are_reported_and_no_others(share: float, terms: set[str]):
    """Their gradients add up to that of the loss: no term is missing, none is there that does not count."""
    config = on_policy.settings(on_policy.OWN.model_copy(update={"share": share, "weight": 0.7}))
    student, objective = on_policy.prepared(config)
    own = on_policy.own_of(config.on_policy)
    batch = make_dataset(sequences(), CONFIG).batch(0)
    module = trained_module(student, objective, RUNTIME, CPU)
    batch = own.added(batch, 0, draw(own, module, 0, 2, CPU))
    found = objective.alone(0, batch)
    assert set(found) == terms
    blocks = list(student.model.layers.parameters())

    def gradient(of: DistillationObjective) -> torch.Tensor:
        parts = torch.autograd.grad(of(student, batch, 0).total, blocks)
        return torch.cat([part.flatten() for part in parts])

    total = sum(weight * gradient(of) for weight, of in found.values())
    assert torch.allclose(total, gradient(objective), rtol=1e-4, atol=1e-5)


def test_steps_without_a_term_do_not_count_for_it():
    _, (pull,) = pulls(columns(0.5, 0.25))
    assert (pull.term, pull.share, pull.cosine) == ("hidden", 0.5, 0.25)
    assert advice({}) == ""


def test_a_term_without_a_gradient_has_no_cosine():
    student, objective = distilled()
    objective.config = objective.config.model_copy(
        update={"weights": LossWeightsConfig(language_model=1.0, logits=0.0, hidden=0.0, attention=1.0)}
    )
    for model in (student, objective.teacher):
        model.model.layers.load_state_dict({k: torch.zeros_like(v) for k, v in model.model.layers.state_dict().items()})
    row = reported(student, objective, make_dataset(sequences(), CONFIG).batch(0))
    assert row["norm/attention"] == 0 and row["cosine/language_model/attention"] is None
    assert json.loads(json.dumps(row)) == row and pa.Table.from_pylist([row]) and np.isfinite(row["norm/attention"])


def test_the_report_shows_how_hard_each_term_pulls_and_what_to_do(tmp_path, monkeypatch):
    def write(step, output):
        write_table(pa.table(columns(0.03, 0.9)), output.folder / "gradients.parquet")
        return made_before(step, output)

    made_before = small_run._FILES["student"]
    without = render_report(*small_run.small_run(tmp_path / "without"))
    monkeypatch.setitem(small_run._FILES, "student", write)
    record, outputs = small_run.small_run(tmp_path / "with")
    html = render_report(record, outputs)
    said = "Logits pulls strongest; hidden pulls at 3 % of its size (cosine 0.90): hardly felt"
    assert said in html and html.count("<svg") == without.count("<svg") + 1 and "how hard each term" not in without
    assert dict(facts(outputs))["pull"].startswith("logits pulls strongest")

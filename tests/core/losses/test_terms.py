"""A term of the loss is told in three files: its weight, its arithmetic, its row. Everything else loops over terms."""

from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from tests.core.training.test_objective import BATCH
from tests.fixtures import small_run
from tests.fixtures.training import distilled, numbers
from tinywave_core.config.distillation import DistillationConfig, LearnsFrom, LossWeightsConfig
from tinywave_core.config.load import load_config
from tinywave_core.costs.estimates import live_operations
from tinywave_core.losses import terms
from tinywave_core.losses.terms import AT_HEAD, COMPUTATIONS, Computation, Views
from tinywave_core.stages.distillation.words import term_lines
from tinywave_core.teacher.layer_map import layer_map
from tinywave_core.training.objective import DistillationObjective


# File 1, config/distillation.py: the weight, and what the term learns from.
class Weights(LossWeightsConfig):
    mirror: Annotated[float, LearnsFrom("teacher")] = Field(0.3, ge=0)
    pull: Annotated[float, LearnsFrom("tokens")] = Field(0.0, ge=0)


# File 2, losses/mirror.py: the arithmetic.
def mirror(views: Views):
    assert views.teacher is not None
    return (views.student.last_BTD - views.teacher.last_BTD).square().sum()


def pull(views: Views):
    return views.student.last_BTD.square().sum()


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch):
    # File 3, losses/terms.py: the row.
    monkeypatch.setitem(terms.COMPUTATIONS, "mirror", Computation(mirror))
    monkeypatch.setitem(terms.COMPUTATIONS, "pull", Computation(pull))


def config(**weights: float) -> DistillationConfig:
    return DistillationConfig(layers=2, weights=Weights(**weights))


ALONE = {"language_model": 1.0, "logits": 0.0, "hidden": 0.0, "attention": 0.0}


def loss_of(settings: DistillationConfig, step: int = 0):
    student, objective = distilled()
    return DistillationObjective(settings, layer_map("paper", 4, 2), 1.0, objective.teacher)(student, BATCH, step)


def test_a_new_term_counts_in_the_loss_by_its_weight():
    loss = loss_of(config(**ALONE, mirror=0.7))
    terms = numbers(loss)
    assert loss.total.item() == pytest.approx(terms["language_model"] + 0.7 * terms["mirror"], rel=1e-6)
    assert terms["mirror"] > 0


def test_a_term_without_the_teacher_counts_in_every_step_and_needs_none():
    settings = DistillationConfig(layers=2, regime="cached", weights=Weights(**ALONE, mirror=0.0, pull=2.0))
    loss = loss_of(settings, step=7)
    terms = numbers(loss)
    assert loss.total.item() == pytest.approx(terms["language_model"] + 2 * terms["pull"], rel=1e-6)
    assert settings.live_terms == []


def test_a_new_term_with_a_weight_by_default_does_not_distil_the_control():
    control = config().control()
    assert control.weights.model_dump() == dict.fromkeys(Weights.model_fields, 0.0) | {"language_model": 1.0}
    assert control.live_terms == [] and not control.needs_cache


def test_a_new_term_of_the_teacher_is_refused_where_the_teacher_never_runs():
    with pytest.raises(ValidationError, match="weights.mirror would need it"):
        DistillationConfig(regime="cached", weights=Weights(**ALONE))
    with pytest.raises(
        ValidationError, match="nothing to learn from: give weights.language_model or weights.logits or"
    ):
        DistillationConfig(aligned_every=2, weights=Weights(**ALONE | {"language_model": 0.0}))


def test_a_new_term_of_the_teacher_costs_its_forward_passes():
    plan = load_config("base-2b", {})
    steps = plan.distillation.training
    alone = DistillationConfig(training=steps, aligned_every=2, weights=Weights(**ALONE))
    off = DistillationConfig(training=steps, weights=Weights(**ALONE, mirror=0.0))
    whole, half, none = (
        live_operations(plan.model_copy(update={"distillation": d})) for d in (plan.distillation, alone, off)
    )
    assert (half, none) == (whole / 2, 0)


def test_a_new_term_has_a_curve_and_a_name_in_the_report(tmp_path, monkeypatch):
    names = [term.name for term in Weights().terms]
    monkeypatch.setitem(small_run._FILES, "student", small_run._curves("loss", *names))
    _, outputs = small_run.small_run(tmp_path, student={"weights": Weights().model_dump()})
    lines = term_lines(outputs)
    assert [line.label for line in lines] == [
        "total, weighted",
        *("language model", "logits", "hidden", "attention", "mirror", "pull"),
    ]
    assert len({line.colour for line in lines[:6]}) == 6


def test_every_weight_has_what_computes_it():
    assert {*AT_HEAD, *COMPUTATIONS} - {"mirror", "pull"} == {term.name for term in LossWeightsConfig().terms}


def test_a_weight_that_does_not_say_what_it_learns_from_is_a_fault_at_once():
    class Silent(LossWeightsConfig):
        mirror: float = 0.3

    with pytest.raises(ValueError, match="not enough values to unpack"):
        Silent()

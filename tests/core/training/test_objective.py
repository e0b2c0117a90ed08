"""The terms of distillation: zero when student equals teacher, and refused when what they need is not there."""

import copy
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.fixtures.training import numbers
from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.config.base import TrainingConfig
from tinywave_core.config.distillation import DistillationConfig, LossWeightsConfig
from tinywave_core.errors import TrainingError
from tinywave_core.losses.attention import IMPLEMENTATION
from tinywave_core.models.forward import forward
from tinywave_core.models.llama import fresh_llama, student_from
from tinywave_core.sequences.dataset import Batch, CachedTargets, PackedDataset
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.teacher.layer_map import LayerMap, layer_map
from tinywave_core.training.objective import DistillationObjective, LanguageModelObjective

pytestmark = pytest.mark.arithmetic

SEQUENCES = [
    TokenSequence(f"{n:032x}", f"u{n}", f"r{n}", None, (np.arange(12 + n) * (n + 3) % 30).astype(np.uint16), 1.0)
    for n in range(4)
]
BATCH = PackedDataset(SEQUENCES, 32, 2, seed=0).batch(0)
LAYERS_ONLY = LossWeightsConfig(language_model=0.0, logits=0.0, hidden=1.0, attention=1.0)


@pytest.fixture
def teacher():
    shape = FreshTeacherConfig(layers=4, width=32, heads=4, intermediate=64)
    return fresh_llama(shape, 30, 64, seed=0).eval().requires_grad_(False)


def objective(teacher, layers, weights=LAYERS_ONLY) -> DistillationObjective:
    return DistillationObjective(DistillationConfig(layers=2, weights=weights), layers, 1.0, teacher)


def replace_signal(config: DistillationConfig, signal: str) -> DistillationConfig:
    return DistillationConfig.model_validate(config.model_dump() | {"logit_signal": signal})


def with_cache(batch: Batch, teacher, sequences=SEQUENCES) -> Batch:
    """The batch with the teacher's whole distribution as cached targets."""
    shape = batch.input_ids.shape
    cached = CachedTargets(np.zeros((*shape, 30), np.int64), np.zeros((*shape, 30), np.float32), np.zeros(shape, "f4"))
    for r, row in enumerate(batch.rows):
        start = 0
        for number in row:
            ids = torch.from_numpy(sequences[number].ids.astype(np.int64))
            log_p = torch.log_softmax(teacher(ids[None]).logits[0], -1)
            own = (r, slice(start, start := start + len(ids)))
            cached.ids[own], cached.weights[own] = np.arange(30), log_p.exp().numpy()
            cached.entropy[own] = -(log_p.exp() * log_p).sum(-1).numpy()
    return replace(batch, cached=cached)


class OnCachedBatches(DistillationObjective):
    """The objective on BATCH as it comes with the teacher's whole distribution."""

    batch: Batch

    def __call__(self, model, batch: Batch, step: int):
        return super().__call__(model, self.batch if batch is BATCH else batch, step)


def prepared(teacher, config: DistillationConfig, **options):
    """A student, and its objective with a cache of the whole distribution."""
    layers = layer_map("paper", 4, 2)
    student = student_from(teacher, layers)
    for model in (teacher, student):
        model.set_attn_implementation(IMPLEMENTATION)
    goal = OnCachedBatches(config, layers, 1.0, options.pop("live", teacher), **options)
    goal.batch = with_cache(BATCH, teacher)
    return student, goal


def test_layer_terms_are_zero_when_the_student_is_the_teacher(teacher):
    student = student_from(teacher, LayerMap((0, 1, 2, 3), ()))
    for model in (teacher, student):
        model.set_attn_implementation(IMPLEMENTATION)
    loss = objective(teacher, LayerMap((0, 1, 2, 3), ((0, 0), (3, 3))))(student, BATCH, step=0)
    assert loss.terms["hidden"] == pytest.approx(0, abs=1e-3) and loss.terms["attention"] == pytest.approx(0, abs=1e-4)


def test_a_shallower_student_has_something_to_learn_and_gets_a_gradient(teacher):
    layers = layer_map("paper", 4, 2)
    student = student_from(teacher, layers)
    for model in (teacher, student):
        model.set_attn_implementation(IMPLEMENTATION)
    loss = objective(teacher, layers)(student, BATCH, step=0)
    loss.total.backward()
    assert loss.terms["hidden"] > 0 and loss.terms["attention"] > 0
    assert student.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_attention_alignment_that_gets_no_maps_fails_instead_of_skipping(teacher):
    student = student_from(teacher, layer_map("paper", 4, 2))  # plain sdpa gives no rows
    with pytest.raises(TrainingError, match="no attention rows came"):
        objective(teacher, layer_map("paper", 4, 2))(student, BATCH, step=0)


def test_layer_terms_without_a_teacher_are_refused():
    with pytest.raises(TrainingError, match="need the teacher"):
        objective(None, layer_map("paper", 4, 2))


def test_logits_without_a_cache_are_refused(teacher):
    with pytest.raises(TrainingError, match="cached logits"):
        objective(teacher, layer_map("paper", 4, 2), LossWeightsConfig())(teacher, BATCH, step=0)


def test_packed_sequences_get_the_hidden_states_they_get_alone(teacher):
    packed = forward(teacher, BATCH).last_BTD
    row = BATCH.rows[0]
    start = 0
    for index in row:
        ids = SEQUENCES[index].ids
        alone = teacher.model(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state[0]
        torch.testing.assert_close(packed[0, start : start + len(ids)], alone, atol=1e-5, rtol=1e-4)
        start += len(ids)


def test_a_student_of_all_blocks_is_its_teacher(teacher):
    student = student_from(teacher, LayerMap((0, 1, 2, 3), ()))
    ids = torch.arange(10)[None]
    assert torch.equal(student(ids).logits, teacher(ids).logits)


STEPS = TrainingConfig(steps=20)
CACHED = LossWeightsConfig(hidden=0.0, attention=0.0)


def test_a_step_costs_the_same_with_live_logits_as_with_the_whole_distribution_cached(teacher):
    values = []
    for signal in ("cached", "live"):
        student, goal = prepared(teacher, DistillationConfig(layers=2, logit_signal=signal))
        values.append(numbers(goal(student, BATCH, step=0)))
    assert values[0] == pytest.approx(values[1], abs=2e-4)


def test_live_logits_in_every_step_need_no_cache(teacher):
    config = DistillationConfig(layers=2, logit_signal="live", weights=CACHED)
    goal = DistillationObjective(config, layer_map("paper", 4, 2), 1.0, teacher)
    student = student_from(teacher, layer_map("paper", 4, 2))
    assert goal(student, BATCH, step=0).terms["logits"] > 0


def test_live_logits_leave_out_the_padding_rows_of_the_teachers_head(teacher):
    config = DistillationConfig(layers=2, logit_signal="live", weights=CACHED)
    values = []
    for bias in (0.0, 30.0):
        changed = copy.deepcopy(teacher)
        student, goal = prepared(changed, config, vocabulary_rows=29)
        changed.lm_head.weight.data[29] += bias
        values.append(goal(student, BATCH, step=0).terms["logits"])
    assert values[0] == values[1]


KEPT = [0, 1, 2, *range(7, 30)]
"""The tokens of a student; 3 to 6 are taken for text."""


@pytest.mark.parametrize("signal", ["cached", "live"])
def test_a_student_of_some_tokens_learns_the_teachers_distribution_over_them(teacher, signal):
    """Against the same step with a teacher whose head has those rows only."""
    layers, config = layer_map("paper", 4, 2), DistillationConfig(layers=2, logit_signal=signal, weights=CACHED)
    new = {old: i for i, old in enumerate(KEPT)}
    speech = [
        replace(s, ids=np.array([i if i in new else 7 for i in s.ids.tolist()], dtype=np.uint16)) for s in SEQUENCES
    ]
    own = [replace(s, ids=np.array([new[i] for i in s.ids.tolist()], dtype=np.uint16)) for s in speech]
    batch = PackedDataset(own, 32, 2, seed=0).batch(0)
    cut = copy.deepcopy(teacher)  # the teacher that never had the other rows
    cut.resize_token_embeddings(len(KEPT))
    for module in ("model.embed_tokens", "lm_head"):
        cut.get_submodule(module).weight.data = teacher.get_submodule(module).weight.data[KEPT].clone()
    student, alone = student_from(cut, layers), student_from(cut, layers)
    want = DistillationObjective(replace_signal(config, "live"), layers, 1.0, cut)(student, batch, step=0)
    got = DistillationObjective(config, layers, 1.0, teacher, len(KEPT), KEPT)(
        alone, with_cache(batch, teacher, speech), step=0
    )
    found, expected = numbers(got), numbers(want)
    assert found["language_model"] == pytest.approx(expected["language_model"], rel=1e-5)
    if signal == "live":
        assert found["logits"] == pytest.approx(expected["logits"], rel=1e-4)
    want.total.backward()
    got.total.backward()
    pairs = [
        (p.grad.flatten(), q.grad.flatten()) for p, q in zip(student.parameters(), alone.parameters(), strict=True)
    ]
    cosine = torch.cosine_similarity(*(torch.cat(side) for side in zip(*pairs, strict=True)), dim=0)
    assert cosine > (
        0.99999 if signal == "live" else 0.99
    )  # cached: each token counts by its share of the student's tokens


def test_a_cached_run_holds_no_teacher_and_learns_from_tokens_and_logits(teacher):
    config = DistillationConfig(layers=2, regime="cached", weights=CACHED)
    student, goal = prepared(teacher, config)
    assert goal.teacher is None
    assert set(goal(student, BATCH, step=0).terms) == {"language_model", "logits"}


def test_a_warm_up_is_aligned_first_and_then_cached_and_the_teacher_is_gone(teacher):
    config = DistillationConfig(layers=2, regime="aligned-warmup", training=STEPS)
    live = copy.deepcopy(teacher)
    live.set_attn_implementation(IMPLEMENTATION)
    student, goal = prepared(teacher, config, live=live)
    gone = weakref.ref(live)
    del live
    terms = [set(goal(student, BATCH, step=step).terms) for step in range(3)]
    assert all(term == {"language_model", "logits", "hidden", "attention"} for term in terms)
    assert gone() is not None
    assert set(goal(student, BATCH, step=3).terms) == {"language_model", "logits"}
    assert gone() is None


def test_a_step_without_the_teacher_is_the_step_of_a_cached_run(teacher):
    warm = DistillationConfig(layers=2, regime="aligned-warmup", training=STEPS)
    cached = DistillationConfig(layers=2, regime="cached", weights=CACHED, training=STEPS)
    totals = []
    for config in (warm, cached):
        student, goal = prepared(teacher, config)
        totals.append(goal(student, BATCH, step=7).total)
    assert torch.equal(*totals)


def test_with_every_third_step_live_the_others_take_the_cache(teacher):
    config = DistillationConfig(layers=2, aligned_every=3, training=STEPS)
    student, goal = prepared(teacher, config)
    assert ["hidden" in goal(student, BATCH, step=step).terms for step in range(7)] == [s % 3 == 0 for s in range(7)]
    assert config.live_until == 19  # the last live step is 18


def test_both_forms_of_the_hidden_term_reach_the_student(teacher):
    for form in ("cosine", "mse"):
        only = LossWeightsConfig(language_model=0.0, logits=0.0, hidden=1.0, attention=0.0)
        student, goal = prepared(teacher, DistillationConfig(layers=2, hidden_form=form, weights=only))
        loss = goal(student, BATCH, step=0)
        loss.total.backward()
        assert loss.terms["hidden"] > 0 and student.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_padding_has_no_say_in_the_hidden_term(teacher):
    only = LossWeightsConfig(language_model=0.0, logits=0.0, hidden=1.0, attention=0.0)
    student, goal = prepared(teacher, DistillationConfig(layers=2, weights=only))
    other = copy.deepcopy(BATCH)
    other.input_ids[other.documents == 0] = 7
    assert (other.documents == 0).any()
    assert goal(student, other, step=0).terms == goal(student, BATCH, step=0).terms


def test_hidden_alignment_that_gets_no_states_fails_instead_of_skipping(teacher):
    student = student_from(teacher, layer_map("paper", 4, 2))
    for model in (teacher, student):
        model.set_attn_implementation(IMPLEMENTATION)
    with pytest.raises(TrainingError, match="no hidden states came"):
        objective(teacher, LayerMap((1, 3), ((0, 1), (1, 4))))(student, BATCH, step=0)


def test_a_map_without_pairs_is_refused_when_layer_terms_are_asked_for(teacher):
    with pytest.raises(TrainingError, match="pairs no blocks"):
        objective(teacher, layer_map("segment_end", 4, 1))


def test_a_narrower_teacher_is_refused(teacher):
    shape = FreshTeacherConfig(layers=4, width=16, heads=4, intermediate=64)
    only = LossWeightsConfig(language_model=0.0, logits=0.0, hidden=1.0, attention=0.0)
    student = student_from(teacher, layer_map("paper", 4, 2))
    with pytest.raises(TrainingError, match="use a student of the teacher's width"):
        objective(fresh_llama(shape, 30, 64, seed=0), layer_map("paper", 4, 2), only)(student, BATCH, step=0)


def test_a_cache_of_tokens_that_the_student_lacks_is_refused(teacher):
    config = DistillationConfig(layers=2, regime="cached", weights=CACHED)
    student, goal = prepared(teacher, config)
    goal.batch.cached.ids[0, 0, 0] = 31
    with pytest.raises(TrainingError, match="token 31, the student has 30 rows"):
        goal(student, BATCH, step=0)


def test_attention_rows_leave_the_step_of_the_student_bit_identical(teacher):
    plain = student_from(teacher, layer_map("paper", 4, 2))
    student, goal = prepared(teacher, DistillationConfig(layers=2))
    tapped = goal(student, BATCH, step=0)
    assert tapped.terms["language_model"] == prepared_language_model(plain)


def prepared_language_model(model) -> float:
    return numbers(LanguageModelObjective()(model, BATCH, 0))["language_model"]


@pytest.mark.parametrize("signal", ["cached", "live"])
def test_the_loss_is_the_sum_of_weight_times_term(teacher, signal):
    weights = LossWeightsConfig(language_model=0.3, logits=1.7, hidden=0.6, attention=2.5)
    config = DistillationConfig(layers=2, weights=weights, logit_signal=signal)
    student, goal = prepared(teacher, config)
    loss = goal(student, BATCH, step=0)
    terms = numbers(loss)
    parts = 0.3 * terms["language_model"] + 1.7 * terms["logits"] + 0.6 * terms["hidden"] + 2.5 * terms["attention"]
    assert loss.total.item() == pytest.approx(parts, rel=1e-6)
    assert set(terms) == {term.name for term in config.terms}


@pytest.mark.parametrize("term", ["language_model", "logits", "hidden", "attention"])
def test_twice_the_weight_is_twice_the_gradient(teacher, term):
    gradients = []
    for weight in (0.4, 0.8):
        alone = LossWeightsConfig.model_validate(dict.fromkeys(LossWeightsConfig.model_fields, 0.0) | {term: weight})
        student, goal = prepared(teacher, DistillationConfig(layers=2, weights=alone))
        goal(student, BATCH, step=0).total.backward()
        gradients.append(student.model.layers[0].self_attn.q_proj.weight.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[1], 2 * gradients[0])


GOLDEN = {
    "control": (3.8069964599609376, 0, {"regime": "cached", "weights": LossWeightsConfig().of_control()}),
    "cached": (1.2472640991210937, 0, {"regime": "cached", "weights": CACHED}),
    "aligned": (1.8290457153320312, 0, {}),
    "live logits": (1.8290457153320312, 0, {"logit_signal": "live"}),  # the cache here holds the whole distribution
    "squared distances": (2.218164367675781, 0, {"hidden_form": "mse"}),
    "warm-up": (1.8290457153320312, 2, {"regime": "aligned-warmup"}),
    "after the warm-up": (1.2472640991210937, 3, {"regime": "aligned-warmup"}),
}
"""Mean loss per target by regime, the step, and the settings; noted on 2026-11-26 before the terms became a list."""


@pytest.mark.parametrize("name", GOLDEN)
def test_the_loss_of_each_regime_is_what_it_was(teacher, name):
    """Whoever changes one of these changed a result: say so, and raise the stage's VERSION."""
    expected, step, settings = GOLDEN[name]
    student, goal = prepared(teacher, DistillationConfig(layers=2, training=STEPS, **settings))
    loss = goal(student, BATCH, step=step).total.detach()
    assert float(loss) / BATCH.targets == pytest.approx(expected, rel=1e-5)

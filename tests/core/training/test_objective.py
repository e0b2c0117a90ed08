"""The four terms of distillation: zero when student equals teacher, and refused when what they need is not there."""

import numpy as np
import pytest
import torch

from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.config.distillation import DistillationConfig, LossWeightsConfig
from tinywave_core.errors import TrainingError
from tinywave_core.losses.attention import IMPLEMENTATION
from tinywave_core.models.llama import fresh_llama, student_from
from tinywave_core.sequences.dataset import PackedDataset, TokenSequence
from tinywave_core.teacher.layer_map import LayerMap, layer_map
from tinywave_core.training.objective import DistillationObjective, forward

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
    return DistillationObjective(DistillationConfig(layers=2, weights=weights), layers, SEQUENCES, None, 1.0, teacher)


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
        objective(teacher, layer_map("paper", 4, 2), LossWeightsConfig())


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

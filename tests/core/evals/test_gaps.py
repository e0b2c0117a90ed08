"""Measures of the gap between student and teacher, by hand-worked numbers, and on models that are known to be equal."""

import numpy as np
import pytest
import torch

from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.config.evaluation import GapConfig
from tinywave_core.evals import gaps
from tinywave_core.evals.figures import TokenCost
from tinywave_core.evals.side_by_side import SideBySide
from tinywave_core.models.llama import fresh_llama, student_from
from tinywave_core.models.trim import trim
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.teacher.layer_map import layer_map
from tinywave_core.tokenizers.vocabulary import Vocabulary

pytestmark = pytest.mark.arithmetic

VOCABULARY = Vocabulary(text=10, hubert=8, pitch=4, style=3)
U, P, S = (VOCABULARY.first[kind] for kind in ("hubert", "pitch", "style"))
IDS = np.array([1, VOCABULARY.speech_marker, S, P + 1, U, U + 3, P + 2, U + 5, U + 7, 2])


def test_cosines_are_of_every_block_with_every_block_at_every_token():
    own = [torch.tensor([[1.0, 0.0], [0.0, 2.0]])]
    others = [torch.tensor([[3.0, 0.0], [0.0, -1.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])]
    assert gaps.cosines(own, others) == pytest.approx(np.array([[[1, -1], [0, 2**-0.5]]]))


def test_attention_divergence_counts_masked_positions_as_nothing():
    inf = float("inf")
    teacher = torch.tensor([[[0.0, -inf], [np.log(0.5), np.log(0.5)]]])
    student = torch.tensor([[[0.0, -inf], [np.log(0.25), np.log(0.75)]]])
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert gaps.map_divergence(student, teacher) == pytest.approx([0.0, expected], abs=1e-7)


def test_prediction_divergence_is_that_of_the_teacher_from_the_student():
    teacher, student = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    expected = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert gaps.prediction_divergence(student + 7, teacher - 3) == pytest.approx([expected])


def test_tokens_are_told_apart_by_stream_and_position():
    masks = gaps.kind_masks(IDS, VOCABULARY)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"all": 10, "hubert": 4, "pitch": 2, "style": 1}
    assert {name: int(mask.sum()) for name, mask in gaps.position_masks(20).items()} == {
        "position 0": 8,
        "position 8": 8,
        "position 16": 4,
    }


def test_speech_is_a_group_of_its_own_only_beside_text():
    mixed = np.array([1, VOCABULARY.text_marker, 5, 6, VOCABULARY.speech_marker, U, P])
    masks = gaps.kind_masks(mixed, VOCABULARY)
    assert (int(masks["speech"].sum()), int(masks["text"].sum())) == (2, 2)


def test_figures_are_means_over_tokens_with_intervals_over_utterances():
    tally = gaps.Tally()
    for utterance, values in (("a", [1.0, 3.0]), ("b", [8.0]), ("c", [])):
        tally.add(gaps.Cell("student", gaps.NLL, "all"), utterance, np.array(values))
    (figure,) = tally.figures(seed=0)
    assert (figure.value, figure.count) == (4.0, 3)
    assert figure.interval == (2.0, 8.0)  # all of a, all of b: nothing else is in the data


def test_closer_is_paired_and_turns_cosines_round():
    tally = gaps.Tally()
    for utterance in ("a", "b", "c"):
        for model, nats, cosine in (("student", 1.0, 0.9), ("control", 1.5, 0.7)):
            tally.add(gaps.Cell(model, gaps.DIVERGENCE, "all"), utterance, np.array([nats, nats]))
            tally.add(gaps.Cell(model, gaps.HIDDEN, "all", 0, 1), utterance, np.array([cosine]))
    divergence, hidden = tally.closer("student", "control", seed=0)
    assert (divergence.value, hidden.value) == pytest.approx((0.5, 0.2))
    assert divergence.interval == pytest.approx((0.5, 0.5))


def test_worst_leaves_out_short_sequences_and_costly_tokens_rare_ones():
    found = {"short": np.array([9.0]), "b": np.full(5, 1.0), "a": np.full(5, 1.0), "good": np.full(5, -1.0)}
    assert gaps.worst(found, items=2, min_tokens=3) == ["a", "b"]
    pairs = [(np.array([7, 7, 8, 9]), np.array([1.0, 2.0, 9.0, -5.0]))]
    assert gaps.costly_tokens(pairs, items=5, min_count=2) == [TokenCost(id=7, count=2, mean=1.5, total=3.0)]
    assert gaps.costly_tokens([], items=5, min_count=2) == []


@pytest.fixture(scope="module")
def teacher():
    shape = FreshTeacherConfig(layers=3, width=16, heads=2, intermediate=32)
    return fresh_llama(shape, VOCABULARY.rows, 64, seed=0)


def compared(teacher, students, pairs=((0, 0), (1, 1), (2, 2))) -> SideBySide:
    config = GapConfig(attention_rows=4, attention_heads=2)
    comparison = SideBySide(teacher, students, pairs, VOCABULARY, config, torch.device("cpu"))
    comparison.add(TokenSequence("s", "u", "r", None, IDS.astype(np.uint16), 1.0))
    return comparison


def value(comparison: SideBySide, model: str, measure: str, group: str = "all") -> float:
    figures = comparison.tally.figures(0)
    return next(f.value for f in figures if (f.model, f.measure, f.group) == (model, measure, group))


def test_a_student_that_is_its_teacher_has_no_gap(teacher):
    comparison = compared(teacher, {"student": teacher})
    expected = {gaps.HIDDEN: 1.0, gaps.ATTENTION: 0.0, gaps.DIVERGENCE: 0.0, gaps.NLL: 0.0}
    assert {measure: value(comparison, "student", measure) for measure in expected} == pytest.approx(expected, abs=1e-5)
    assert np.diag(comparison.mean_cosines("student")) == pytest.approx(1.0, abs=1e-5)


def test_a_shallower_student_has_one_and_its_first_block_none(teacher):
    student = student_from(teacher, layer_map("explicit", 3, 2, "0:0,1:2"))
    comparison = compared(teacher, {"student": student}, [(0, 0), (1, 2)])
    assert value(comparison, "student", gaps.DIVERGENCE) > 1e-3
    assert comparison.mean_cosines("student").shape == (2, 3)
    assert comparison.mean_cosines("student")[0, 0] == pytest.approx(1.0, abs=1e-5)
    assert comparison.mean_cosines("student")[1, 2] < 0.999
    ids, costs = comparison.gaps["s"]
    assert ids.tolist() == IDS[1:].tolist()
    assert float(costs.mean()) == pytest.approx(value(comparison, "student", gaps.NLL), abs=1e-6)


def test_a_student_without_text_is_compared_on_the_ids_that_it_has(teacher):
    trimmed, _, _ = trim(teacher, VOCABULARY)
    comparison = compared(teacher, {"student": trimmed})
    assert value(comparison, "student", gaps.DIVERGENCE) == pytest.approx(0.0, abs=1e-5)
    assert value(comparison, "student", gaps.HIDDEN) == pytest.approx(1.0, abs=1e-5)
    assert value(comparison, "student", gaps.NLL) < 0  # it has fewer tokens to spread its mass over

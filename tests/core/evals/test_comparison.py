"""Figures of teacher, student and control from log-probabilities written by hand."""

import math

import numpy as np
import pytest

from tinywave_core.config.evaluation import EvaluationConfig
from tinywave_core.evals.comparison import (
    TokenNll,
    by_recording,
    compare_in_direction,
    compare_models,
    continuation,
    kinds_of_tokens,
    paired_difference,
)
from tinywave_core.evals.continuation_cloze import ClozeItem
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.tokenizers.vocabulary import Vocabulary

pytestmark = pytest.mark.arithmetic

VOCABULARY = Vocabulary(text=10, hubert=8, pitch=4, style=3)
U, P = VOCABULARY.first["hubert"], VOCABULARY.first["pitch"]
SPEECH = np.array([1, VOCABULARY.speech_marker, U, P, 2], np.uint16)
TEXT = np.array([1, VOCABULARY.text_marker, 5, VOCABULARY.speech_marker, U, 2], np.uint16)
NLL = {"teacher": [1.0, 2.0, 4.0, 1.0], "student": [1.0, 3.0, 4.0, 1.0], "control": [1.0, 4.0, 6.0, 1.0]}
NO_CLOZE = dict.fromkeys(NLL, np.zeros(0))


def measured(ids: np.ndarray = SPEECH, copies: int = 2) -> TokenNll:
    """Equal sequences of 2 s each: intervals are points."""
    sequences = [TokenSequence(str(i), f"u{i}", f"r{i}", None, ids, 2.0) for i in range(copies)]
    of_one = {name: np.resize(-np.array(values, np.float32), len(ids) - 1) for name, values in NLL.items()}
    return TokenNll.of(sequences, {name: [log_p] * copies for name, log_p in of_one.items()}, VOCABULARY, seed=0)


def test_predicted_tokens_are_told_by_kind_and_switches_are_markers_within_and_what_follows():
    masks = {kind: of_text.tolist() for kind, (of_text,) in kinds_of_tokens([TEXT], VOCABULARY).items()}
    assert masks["text"] == [False, True, False, False, False]
    assert masks["hubert"] == [False, False, False, True, False]
    assert masks["switch"] == [False, False, True, True, False]


def test_figures_are_per_token_per_kind_and_per_second_of_each_stream():
    figures = measured().figures("student", np.zeros(0), parameters=7)
    assert figures.nll == pytest.approx(9 / 4) and figures.nll_interval == pytest.approx((9 / 4, 9 / 4))
    assert (figures.nll_by_kind["hubert"], figures.nll_by_kind["pitch"]) == (3.0, 4.0)
    assert figures.nll_by_modality["speech"] == 3.5
    assert figures.bits_per_second == pytest.approx(9 / math.log(2) / 2)
    assert figures.by_stream["pitch"].bits_per_second == pytest.approx(4 / math.log(2) / 2)
    assert (list(figures.by_stream), figures.parameters) == (["hubert", "pitch"], 7)


def test_what_is_not_measured_is_no_key_of_the_figures():
    without = measured().figures("student", np.zeros(0), 7).model_dump(exclude_unset=True)
    assert "cloze" not in without and "cloze_interval" not in without
    given = measured().figures("student", np.array([1.0, 0.0]), 7)
    assert given.cloze == 0.5 and given.cloze_interval and given.cloze_interval[0] < 0.5 < given.cloze_interval[1]


def test_seconds_say_nothing_of_sequences_with_text():
    figures = measured(TEXT).figures("student", np.zeros(0), 7)
    assert figures.model_dump(exclude_unset=True)["bits_per_second"] is None
    assert "bits_per_second_interval" not in figures.model_fields_set and figures.by_stream == {}


def test_ratios_are_over_the_teacher_by_stream_as_well():
    ratios = measured().ratios("control")
    assert ratios.nll == pytest.approx(12 / 8) and ratios.perplexity == pytest.approx(math.exp(1))
    assert (ratios.by_stream["hubert"].nll, ratios.by_stream["pitch"].nll) == (2.0, 1.5)


def test_distillation_closes_three_quarters_of_a_gap_of_four_nats():
    nll = measured()
    models = {name: nll.figures(name, NO_CLOZE[name], 1) for name in NLL}
    comparison = compare_models(nll, NO_CLOZE, models)
    assert comparison.distillation_gain_nll == pytest.approx(3 / 4)
    assert comparison.distillation_gain_nll_interval == pytest.approx((3 / 4, 3 / 4))
    assert comparison.distillation_helps and not comparison.student_is_better_than_teacher
    assert comparison.nll_gap_closed == pytest.approx(3 / 4)
    assert comparison.nll_gap_closed_interval == pytest.approx((3 / 4, 3 / 4))
    assert not {"cloze_retention", "cloze_gain_interval"} & comparison.model_fields_set


def test_cloze_is_kept_above_chance_and_gained_over_the_control():
    nll = measured()
    credits = {"teacher": np.ones(40), "student": np.arange(40) < 30, "control": np.arange(40) < 20}
    cloze = {name: won.astype(np.float64) for name, won in credits.items()}
    comparison = compare_models(nll, cloze, {name: nll.figures(name, cloze[name], 1) for name in NLL})
    assert comparison.cloze_retention and comparison.cloze_retention.above_chance == pytest.approx(0.5)
    assert comparison.cloze_gain_interval and 0 < comparison.cloze_gain_interval[0] < 0.25
    assert 0.25 < comparison.cloze_gain_interval[1] < 0.5


def test_a_gap_that_is_none_cannot_be_closed():
    nll = measured()
    same = TokenNll(nll.sequences, nll.by_model | {"control": nll.by_model["teacher"]}, nll.kinds, 0)
    comparison = compare_models(same, NO_CLOZE, {name: same.figures(name, NO_CLOZE[name], 1) for name in NLL})
    assert comparison.nll_gap_closed is None and comparison.nll_gap_closed_interval is None
    assert comparison.distillation_gain_nll < 0 and not comparison.distillation_helps


def test_a_continuation_is_what_was_chosen_of_the_sequences_that_have_it():
    nll, config = measured(), EvaluationConfig(continuation_prompt_s=0.5, continuation_min_s=1.0)
    chosen = [np.array([False, False, True, False]), np.zeros(4, bool)]
    after = continuation(nll, chosen, config)
    assert (after.utterances, after.tokens, after.seconds) == (1, 1, 1.5)
    assert (after.prompt_s, after.min_s) == (0.5, 1.0)
    assert after.models["control"].nll == 6.0
    assert after.models["control"].bits_per_second == pytest.approx(6 / math.log(2) / 1.5)
    assert after.ratios["control"].nll == 1.5 and "teacher" not in after.ratios


def test_no_long_utterance_no_model_in_the_continuation():
    after = continuation(measured(), [np.zeros(4, bool)] * 2, EvaluationConfig())
    assert (after.utterances, after.models, after.ratios, after.seconds) == (0, {}, {}, 0.0)


def test_a_direction_counts_the_items_whose_right_version_is_likelier():
    items = [ClozeItem("a", "b", 1, SPEECH, SPEECH)] * 4
    likely, unlikely = np.full(4, -1.0, np.float32), np.full(4, -2.0, np.float32)
    right = {"teacher": [likely] * 4, "student": [likely] * 3 + [unlikely], "control": [unlikely] * 4}
    wrong = {"teacher": [unlikely] * 4, "student": [unlikely] * 3 + [likely], "control": [likely] * 4}
    direction = compare_in_direction(items, right, wrong, seed=0)
    assert {name: of_model.accuracy for name, of_model in direction.models.items()} == {
        "teacher": 1.0,
        "student": 0.75,
        "control": 0.0,
    }
    assert direction.student.items == 4 and direction.gain_interval[1] == 1.0


def test_utterances_and_pieces_of_one_recording_are_drawn_together():
    """Two pieces of one utterance and another utterance of its recording: what they differ by is no width of an interval."""
    of = [("u0", "r0"), ("u0", "r0"), ("u1", "r0"), ("u2", "r1")]
    sequences = [TokenSequence(str(i), u, r, None, SPEECH, 2.0) for i, (u, r) in enumerate(of)]
    odd = [np.full(4, -nats) for nats in (1.0, 5.0, 3.0, 3.0)]
    nll = TokenNll.of(sequences, dict.fromkeys(NLL, odd), VOCABULARY, seed=0)
    figures = nll.figures("student", np.zeros(0), 1)
    assert figures.nll == 3.0 and figures.nll_interval == (3.0, 3.0)
    assert figures.bits_per_second_interval == pytest.approx((6 / math.log(2), 6 / math.log(2)))
    assert nll.seconds.tolist() == [6.0, 2.0] and nll.count(nll.all).tolist() == [12.0, 4.0]


def test_a_paired_difference_draws_recordings():
    gaps = by_recording(["a", "a", "b"], np.array([4.0, -4.0, 2.0]))
    tokens = by_recording(["a", "a", "b"], np.array([2.0, 2.0, 1.0]))
    difference, interval = paired_difference(gaps, tokens, seed=0)
    assert difference == 2 / 5
    assert interval == (0.0, 2.0)  # all of a, all of b: nothing else is in the data

"""Floors beside models: the best of the counts is chosen, differences have the right sign, and nothing is counted twice."""

import math

import numpy as np
import pytest

from tests.fixtures.sequence_ids import id_of
from tinywave_core.evals.comparison import TokenNll
from tinywave_core.evals.figures import AboveFloor
from tinywave_core.evals.floors import COUNTS, GUESSING, compare_with_floors, floor_scores, lowest_nll
from tinywave_core.evals.ngrams import Ngrams
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.tokenizers.vocabulary import EOS_ID, Vocabulary

VOCABULARY = Vocabulary(text=10, hubert=8)
FIRST = VOCABULARY.first["hubert"]


def spoken(name: str, *units: int, variant: int = 0) -> TokenSequence:
    ids = np.array([1, VOCABULARY.speech_marker, *(FIRST + u for u in units), EOS_ID], np.uint16)
    return TokenSequence(id_of(name), name, name, None, ids, 2.0, variant)


def mixed(name: str, variant: int = 0) -> TokenSequence:
    """A word of text, then speech."""
    ids = [1, VOCABULARY.text_marker, 5, 6, VOCABULARY.speech_marker, FIRST, FIRST + 1, EOS_ID]
    return TokenSequence(id_of(name), name, name, None, np.array(ids, np.uint16), 2.0, variant)


def measured(train: list[TokenSequence], held_out: list[TokenSequence], **nats: float) -> TokenNll:
    """Models that spend so many nats on every token, beside the floors."""
    models = {
        name: [np.full(len(s.ids) - 1, -nats.get(name, 1.0), np.float32) for s in held_out]
        for name in ("teacher", "student", "control")
    }
    floors = floor_scores(train, held_out, VOCABULARY.tokens)
    return TokenNll.of(held_out, {**models, **floors}, VOCABULARY, seed=0)


# What follows a pair of units is certain, what follows one is not.
TURNS = [spoken("a", *[0, 1, 2, 0, 2, 1] * 8)]
HELD_OUT = [spoken("b", 0, 1, 2, 0, 2, 1), spoken("c", 2, 0, 2, 1, 0, 1)]
MANY = [spoken(f"{s.utterance_id}{i}", *(int(u) - FIRST for u in s.ids[2:-1])) for s in HELD_OUT for i in range(6)]


def test_the_floor_is_the_order_with_the_lowest_nll_on_held_out_speech():
    floors = compare_with_floors(measured(TURNS, HELD_OUT), TURNS)
    by_order = [figures.nll for figures in floors.counts]
    assert floors.order == 3 and floors.floor.nll == min(by_order) < by_order[1] < by_order[0]
    assert floors.floor.nll == pytest.approx(lowest_nll(TURNS, HELD_OUT, VOCABULARY.tokens))


def test_single_tokens_are_the_floor_where_order_tells_nothing():
    random = np.random.default_rng(0)
    train = [spoken("a", *random.integers(0, 8, 60))]
    held_out = [spoken(name, *random.integers(0, 8, 60)) for name in "bc"]
    assert compare_with_floors(measured(train, held_out), train).order == 1


def test_counts_are_those_of_the_ngrams_and_guessing_is_the_logarithm_of_the_vocabulary():
    scores = floor_scores(TURNS, HELD_OUT, VOCABULARY.tokens)
    ngrams = Ngrams.count([s.ids for s in TURNS], VOCABULARY.tokens)
    for order, name in enumerate(COUNTS, start=1):
        assert (scores[name][1] == ngrams.log_probabilities(HELD_OUT[1].ids, order)).all()
    floors = compare_with_floors(measured(TURNS, HELD_OUT), TURNS)
    assert floors.guessing.nll == pytest.approx(math.log(20)) and len(scores[GUESSING]) == 2
    assert floors.guessing.bits_per_second == pytest.approx(8 * math.log2(20) / 2)


def test_a_model_above_a_floor_is_worse_and_below_it_better():
    floors = compare_with_floors(measured(TURNS, MANY, teacher=0.01, student=2.9, control=3.5), TURNS)
    teacher, student, control = (floors.above_counts[name] for name in ("teacher", "student", "control"))
    assert student.nll == pytest.approx(2.9 - floors.floor.nll) and student.nll > 0
    assert teacher.is_better and not teacher.is_worse
    assert student.is_worse and not student.is_better
    assert control.nll > student.nll
    assert floors.above_guessing["student"].is_better and floors.above_guessing["control"].is_worse


def test_the_interval_is_paired_over_recordings_whose_pieces_are_drawn_together():
    """The two utterances of one recording cancel out: alone they would seem to differ from the floor in both directions."""
    pieces = [TokenSequence(id_of(str(i)), f"u{i}", f"r{i // 2}", None, HELD_OUT[0].ids, 2.0) for i in range(20)]
    nll = measured(TURNS, pieces)
    floor = nll.by_model[COUNTS[compare_with_floors(nll, TURNS).order - 1]][0]
    odd = [floor + 1, floor - 1] * 10
    above = compare_with_floors(TokenNll(nll.sequences, nll.by_model | {"student": odd}, nll.kinds, 0), TURNS)
    assert above.recordings == 10
    assert above.above_counts["student"].interval == pytest.approx((0, 0), abs=1e-12)


def below_the_floor(by: list[float]) -> AboveFloor:
    """A student that is so many nats per token below the floor, on an utterance each."""
    held_out = [spoken(f"b{i}", 0, 1, 2, 0, 2, 1) for i in range(len(by))]
    nll = measured(TURNS, held_out)
    floor = nll.by_model[COUNTS[compare_with_floors(nll, TURNS).order - 1]]
    student = [of_one - below for of_one, below in zip(floor, by, strict=True)]
    models = nll.by_model | {"student": student}
    return compare_with_floors(TokenNll(nll.sequences, models, nll.kinds, 0), TURNS).above_counts["student"]


def test_of_few_recordings_the_interval_is_students():
    """Mean 2 and standard deviation 1 of three: 4.303 / sqrt(3) to each side."""
    above = below_the_floor([1.0, 2.0, 3.0])
    assert above.nll == pytest.approx(-2.0)
    assert above.interval == pytest.approx((-2 - 4.303 / 3**0.5, -2 + 4.303 / 3**0.5), rel=1e-4)
    assert not above.is_better  # drawn anew, three that are all below 0 would show it


@pytest.mark.parametrize(
    ("by", "is_better"), [([3.0], False), ([2.9, 3.0], True), ([0.1, 3.0], False), ([0.5] * 9 + [0.6], True)]
)
def test_one_recording_shows_nothing_and_few_what_they_agree_on(by, is_better):
    assert below_the_floor(by).is_better is is_better


def test_an_interval_that_holds_the_floor_shows_neither():
    nll = measured(TURNS, HELD_OUT)
    floor = nll.by_model["counts of 3"]
    student = [floor[0] + 0.5, floor[1] - 0.5]  # once worse, once better
    above = compare_with_floors(TokenNll(nll.sequences, nll.by_model | {"student": student}, nll.kinds, 0), TURNS)
    student_above = above.above_counts["student"]
    assert not student_above.is_better and not student_above.is_worse


def test_interleaved_text_is_counted_and_told_apart_and_has_no_seconds():
    train, held_out = [mixed("a"), spoken("b", 0, 1)], [mixed("c")]
    floors = compare_with_floors(measured(train, held_out), train)
    assert set(floors.floor.nll_by_modality) == {"speech", "text"} and "switch" in floors.floor.nll_by_kind
    assert floors.floor.nll_by_modality["text"] < floors.guessing.nll_by_modality["text"]
    assert floors.floor.bits_per_second is None and floors.floor.by_stream == {}


def test_more_drawings_of_an_utterance_change_no_floor():
    once, held_out = [mixed("a"), spoken("b", 0, 1)], [mixed("c")]
    drawn = [*once, mixed("d", variant=1), mixed("e", variant=2)]
    assert compare_with_floors(measured(drawn, held_out), drawn) == compare_with_floors(measured(once, held_out), once)


def test_what_is_counted_is_told():
    floors = compare_with_floors(measured(TURNS, HELD_OUT), TURNS)
    assert floors.counted_tokens == floors.training_tokens == len(TURNS[0].ids)

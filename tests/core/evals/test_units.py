"""Figures of units, by hand."""

import math

import numpy as np
import pytest

from tinywave_core.evals.units import (
    Span,
    Spoken,
    entropy,
    frame_labels,
    leakage,
    named_by_bayes,
    phone_figures,
    pnmi,
    purity,
    run_units,
    told_apart,
    unit_distance,
    unit_figures,
)

COUNTS = np.array([[6.0, 0.0, 2.0], [0.0, 4.0, 4.0]])  # two phones, three units


def test_pnmi_is_what_a_unit_tells_of_its_phone_over_what_there_is_to_tell():
    # H(phone) is 1 bit; of the 16 frames 6 tell a, 4 tell b, and 6 leave 2 of a to 4 of b.
    left = 6 / 16 * -(1 / 3 * math.log2(1 / 3) + 2 / 3 * math.log2(2 / 3))
    assert pnmi(COUNTS) == pytest.approx(1 - left)
    assert pnmi(np.eye(3)) == pytest.approx(1) and pnmi(np.ones((3, 4))) == pytest.approx(0)
    assert pnmi(np.ones((1, 4))) == 0


def test_purities_are_shares_of_the_most_frequent_cell():
    assert purity(COUNTS, axis=0) == (6 + 4 + 4) / 16  # the phone of each unit
    assert purity(COUNTS, axis=1) == (6 + 4) / 16  # the unit of each phone


def test_entropy_is_in_bits():
    assert entropy(np.array([1, 1, 2, 0])) == 1.5


def test_a_frame_has_the_phone_in_its_middle_and_silence_is_none():
    spans = [Span("AA", 0.0, 0.05), Span("SIL", 0.05, 0.10), Span("B", 0.10, 0.139), Span("sp", 0.139, 1)]
    assert frame_labels(spans, 5, 25.0) == ["AA", None, "B", None, None]  # middles at 0.02, 0.06, 0.10, 0.14, 0.18
    assert frame_labels([Span("AA", -1, 0.03), Span("B", 0.15, 9)], 5, 25.0) == ["AA", None, None, None, "B"]


def test_runs_are_one_unit():
    assert run_units(np.array([3, 3, 0, 0, 0, 3])).tolist() == [3, 0, 3]
    assert run_units(np.array([], int)).tolist() == []


def spoken(number: int, speaker: str | None, units: list[int], phones: str = "", words: str = "") -> Spoken:
    """A letter of `phones` lasts a frame of 0.1 s, a letter of `words` two; - is nothing."""
    spans = [Span(p, i / 10, (i + 1) / 10) for i, p in enumerate(phones) if p != "-"]
    said = [Span(w, i / 5, (i + 1) / 5) for i, w in enumerate(words) if w != "-"]
    return Spoken(f"u{number}", speaker, np.array(units), 10.0, spans, said)


def test_phones_are_counted_over_all_utterances():
    found = phone_figures(
        [spoken(0, "a", [0, 0, 1], "ppq"), spoken(1, "a", [1, 1, 0], "q-q"), spoken(2, "a", [2])], 3, 0
    )
    assert found is not None
    assert (found.frames, found.phones, found.utterances) == (5, 2, 2)
    table = np.array([[2.0, 0.0], [1.0, 2.0]])
    assert found.pnmi.value == pytest.approx(pnmi(table))
    assert (found.phone_purity.value, found.cluster_purity.value) == (0.8, 0.8)
    assert found.phone_purity.interval[0] <= 0.8 <= found.phone_purity.interval[1]
    assert phone_figures([spoken(0, "a", [0, 1])], 3, 0) is None


def test_the_interval_of_a_table_of_counts_lies_around_the_figure():
    random = np.random.default_rng(0)
    many = [spoken(n, "a", random.integers(0, 30, 20).tolist(), "abcdefghij" * 2) for n in range(20)]
    found = phone_figures(many, 30, 0)
    assert found is not None
    assert found.pnmi.interval[0] < found.pnmi.value < found.pnmi.interval[1]  # its plain percentiles all lie above


def test_edits_are_over_the_longer_string():
    assert unit_distance((1, 2, 3), (1, 3)) == pytest.approx(1 / 3)
    assert unit_distance((1,), (2, 3)) == 1 and unit_distance((), ()) == 0


def test_words_are_told_apart_where_the_same_word_has_nearer_units():
    clear = [
        spoken(0, "a", [1, 2, 8, 9, 1, 2, 8, 9], words="xyxy"),
        spoken(1, "b", [1, 2, 8, 9], words="xy"),
    ]
    within, across = (told_apart(clear, 0, 100, across=across) for across in (False, True))
    assert within is not None and (within.share.value, within.words, within.utterances) == (1.0, 2, 1)
    assert across is not None and (across.share.value, across.utterances) == (1.0, 2)
    # All words alike: every triple is a tie.
    alike = told_apart([spoken(0, "a", [1, 2, 1, 2, 1, 2, 1, 2], words="xyxy")], 0, 100, across=False)
    assert alike is not None and alike.share.value == 0.5
    # With x as 12 and as 56, and y as 13: for X = 56 a tie, for X = 12 the other word is nearer.
    wrong = told_apart([spoken(0, "a", [1, 2, 1, 3, 5, 6], words="xyx")], 0, 100, across=False)
    assert wrong is not None and wrong.share.value == 0.25
    assert told_apart([spoken(0, "a", [1, 2, 8, 9], words="xy")], 0, 100, across=False) is None
    assert told_apart([spoken(0, None, [1, 2, 1, 2, 8, 9], words="xxy")], 0, 100, across=False) is None


def test_speakers_are_named_by_counts_of_all_other_utterances():
    counts = np.array([[9, 1], [8, 2], [1, 9], [2, 8]])
    assert named_by_bayes(counts, np.array([0, 0, 1, 1])).tolist() == [0, 0, 1, 1]
    # An utterance's own counts are not among those that name it: alone it would be its speaker's only mark.
    odd = np.array([[9, 1, 0], [0, 0, 9], [8, 2, 0], [9, 0, 1]])
    assert named_by_bayes(odd, np.array([0, 0, 1, 1]))[1] == 1


def test_leakage_stands_beside_chance():
    counts = np.array([[9, 1], [8, 2], [7, 3], [1, 9], [2, 8], [5, 5]])
    found = leakage(counts, ["a", "a", "a", "b", "b", "once"], 0)
    assert found is not None
    assert (found.accuracy.value, found.chance, found.speakers, found.utterances) == (1.0, 0.6, 2, 5)
    assert leakage(counts, ["a", "a", None, "b", "c", "d"], 0) is None


def test_units_and_bits_a_second_are_of_the_stream_without_repeats():
    found = unit_figures([spoken(0, None, [0, 0, 1, 1, 1, 0, 0, 0, 1, 1]), spoken(1, None, [2] * 10)], 5, 0)
    assert (found.utterances, found.seconds, found.clusters, found.used) == (2, 2.0, 5, 3)
    assert found.units_per_s.value == 2.5  # 4 and 1 in 2 s
    assert found.bits_per_s.value == pytest.approx(2.5 * entropy(np.array([2, 2, 1])))
    assert found.phones is None and found.leakage is None and found.words_within is None

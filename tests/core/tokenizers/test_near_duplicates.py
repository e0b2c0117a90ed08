"""Near-duplicates among runs of units: copies, excerpts, jingles, and which one is kept."""

import numpy as np
import numpy.typing as npt
import pytest

from tinywave_core.tokenizers import near_duplicates
from tinywave_core.tokenizers.near_duplicates import (
    MOST_OWNERS,
    Pair,
    RunSets,
    count_pairs,
    find_candidates,
    heard_held_out,
    left_out,
)
from tinywave_core.unit_runs import all_runs

LIMIT = 0.2


def units(seed: int, length: int = 200) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 100, length)


def pairs_of(speech: list[npt.NDArray[np.int64]], held_out: int = 0) -> list[Pair]:
    """Pairs of utterances in the order of keeping, of which the first are held out."""
    runs = [all_runs([each]) for each in speech]
    side = np.arange(len(runs)) < held_out
    sets = RunSets.of(runs).sketch()
    known = dict(enumerate(runs))
    return count_pairs(find_candidates(sets, sets, side, LIMIT), known, known, side, LIMIT)


def by_hand(speech: list[npt.NDArray[np.int64]]) -> set[tuple[int, int]]:
    """Ordered pairs of utterances of which the first has the limit of its runs of seven in the second, by sets of tuples."""
    runs = [{tuple(each[i : i + 7]) for i in range(len(each) - 6)} for each in speech]
    numbers = range(len(runs))
    return {(a, b) for a in numbers for b in numbers if a != b and len(runs[a] & runs[b]) >= LIMIT * len(runs[a])}


def no_repeats(seed: int) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.random.default_rng(seed).integers(1, 99, 199))]) % 100


def test_a_copy_is_told_once_from_the_end_that_is_not_kept():
    assert pairs_of([units(1), units(2), units(1)]) == [Pair(2, 0, 1.0, "copy")]


def test_two_that_have_much_of_each_other_are_a_copy_and_told_once():
    assert [(p.utterance, p.of, p.kind) for p in pairs_of([units(1), units(1)[:150]])] == [(1, 0, "copy")]
    longer_last = pairs_of([units(1)[:150], units(1)])
    assert [(p.utterance, p.of, p.kind) for p in longer_last] == [(1, 0, "copy")]
    assert longer_last[0].share < 0.8


def test_an_excerpt_is_found_however_small_its_part_of_the_whole():
    whole = units(1, 2000)
    (pair,) = pairs_of([whole, units(2), whole[700:800]])
    assert (pair.utterance, pair.of, pair.kind) == (2, 0, "excerpt")
    assert pair.share > 0.95  # of 2000 units it has a twentieth: by the union of both it would be no pair


def test_strangers_and_utterances_too_short_to_tell_are_no_pair():
    short = units(3, 17)
    assert pairs_of([units(1), units(2), short, short]) == []


def test_pairs_are_those_of_a_plain_count():
    speech = [no_repeats(seed) for seed in range(6)]
    mixed = [
        np.concatenate([speech[a][:part], speech[b][part:]]) for a, b, part in [(0, 1, 100), (2, 3, 170), (4, 5, 20)]
    ]
    expected = {frozenset(pair) for pair in by_hand(speech + mixed)}
    assert {frozenset((pair.utterance, pair.of)) for pair in pairs_of(speech + mixed)} == expected
    assert len(expected) == 4  # of utterance 3 and of utterance 4, too little is in the mixtures


@pytest.mark.parametrize("many", [MOST_OWNERS + 8, 200])
def test_a_jingle_gives_rows_in_proportion_to_those_that_have_it(many: int):
    jingle = units(1)
    pairs = pairs_of([jingle] * many, held_out=2)
    assert {pair.kind for pair in pairs if pair.utterance >= 2} == {"repeated"}
    assert len(pairs) <= 2 * many
    assert not [pair for pair in pairs if pair.utterance == pair.of]
    sets = RunSets.of([all_runs([jingle])] * many).sketch()
    assert len(find_candidates(sets, sets, np.arange(many) < 2, LIMIT).pairs) <= many * (MOST_OWNERS + 2)
    assert heard_held_out(pairs, np.arange(many) < 2) == {0, 1}
    assert sorted(left_out(pairs, np.arange(many) < 2)) == list(range(2, many))


def test_the_copies_of_one_side_do_not_hide_the_other_side():
    side = np.arange(MOST_OWNERS + 10) < MOST_OWNERS + 5
    sets = RunSets.of([all_runs([units(1)])] * len(side)).sketch()
    found = find_candidates(sets, sets, side, LIMIT).pairs
    assert [0, MOST_OWNERS + 5] in found.tolist()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    speech = [units(seed % 5) for seed in range(23)]
    whole = pairs_of(speech, held_out=3)
    monkeypatch.setattr(near_duplicates, "_BLOCK", 4)
    assert pairs_of(speech, held_out=3) == whole


def test_held_out_speech_stays_and_the_training_copy_goes():
    side = np.array([True, True, False, False])
    copy, whole, excerpt = Pair(2, 0, 1.0, "copy"), Pair(1, 3, 1.0, "excerpt"), Pair(1, 0, 1.0, "copy")
    assert left_out([copy, whole, excerpt], side) == {2: copy, 3: whole}
    assert heard_held_out([copy, whole, excerpt], side) == {0, 1}
    assert heard_held_out([excerpt], side) == set()


def test_of_training_speech_the_longest_stays():
    side = np.zeros(3, bool)
    assert left_out([Pair(1, 0, 1.0, "excerpt")], side).keys() == {1}
    assert (
        left_out([Pair(0, 1, 0.5, "excerpt")], side) == {}
    )  # the longer one in the shorter: neither is all in the other
    chain = [Pair(1, 0, 0.5, "copy"), Pair(2, 1, 0.5, "copy")]
    assert left_out(chain, side).keys() == {1}  # 2 is like 1 only, which is gone


def test_run_sets_are_joined_and_taken():
    sets = RunSets.joined(
        [RunSets.of([np.array([4, 8], np.uint32)]), RunSets.of([np.zeros(0, np.uint32), np.array([3, 12], np.uint32)])]
    )
    taken = sets.take(np.array([2, 0, 1]))
    assert [taken[i].tolist() for i in range(3)] == [[3, 12], [4, 8], []]
    assert [taken.sketch()[i].tolist() for i in range(3)] == [[12], [4, 8], []]
    assert taken.owners().tolist() == [0, 0, 1, 1]

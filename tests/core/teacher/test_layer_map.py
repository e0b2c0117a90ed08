"""Which blocks are copied and aligned."""

import pytest

from tinywave_core.errors import ConfigError
from tinywave_core.teacher.layer_map import layer_map


def test_the_papers_map_is_3l_plus_4():
    assert layer_map("paper", 32, 10).copied == tuple(3 * l + 4 for l in range(10))


def test_the_demo_keeps_the_ratio_and_ends_at_the_last_block():
    assert layer_map("paper", 16, 5).copied == (3, 6, 9, 12, 15)


def test_a_student_block_learns_what_the_next_copied_block_expects():
    layers = layer_map("segment_end", 32, 10)
    assert layers.copied == (0, 3, 7, 10, 14, 17, 21, 24, 28, 31)
    assert layers.targets == tuple((i, layers.copied[i + 1] - 1) for i in range(9))


@pytest.mark.parametrize("kind", ["paper", "segment_end"])
@pytest.mark.parametrize("teacher", range(2, 40))
def test_every_map_copies_different_existing_blocks_in_order(kind, teacher):
    for student in range(1, teacher):
        copied = layer_map(kind, teacher, student).copied
        assert sorted(set(copied)) == list(copied) and copied[0] >= 0 and copied[-1] < teacher


def test_a_student_as_deep_as_its_teacher_is_refused():
    with pytest.raises(ConfigError, match="distillation.layers is 4.*at most 3"):
        layer_map("paper", 4, 4)


def test_minitrons_map_aligns_the_last_block_but_one_with_its_like_only():
    layers = layer_map("last-2", 32, 10)
    assert layers.targets == ((8, 30),)
    assert layers.copied == (0, 3, 7, 10, 14, 17, 21, 24, 28, 31)


def test_explicit_pairs_of_all_blocks_can_say_the_papers_map():
    pairs = "0:4,1:7,2:10,3:13,4:16,5:19,6:22,7:25,8:28,9:31"
    assert layer_map("explicit", 32, 10, pairs) == layer_map("paper", 32, 10)


def test_explicit_copies_can_differ_from_what_is_aligned():
    """distil-whisper's truncated spacing, and the two alignments of choice."""
    layers = layer_map("explicit", 32, 10, "3:12,9:31", "0,3,6,10,13,17,20,24,27,31")
    assert layers.targets == ((3, 12), (9, 31)) and layers.copied[2] == 6


@pytest.mark.parametrize(
    ("pairs", "copied", "says"),
    [
        ("0:1,2:3", "", "student blocks go from 0 to 1"),
        ("0:4,1:3", "", "teacher blocks from 0 to 3"),
        ("0:1", "", "each of the student's 2 blocks once"),
        ("1:3,0:1", "", "each of the student's 2 blocks once"),
        ("0:1", "2,1", "ascending order"),
        ("0:1", "1,2,3", "expected 2 different ones"),
        ("0:1", "1,4", "from 0 to 3"),
        ("0:1,0:1", "0,3", "names a pair twice"),
        ("0:1,one:3", "", "expected pairs"),
    ],
)
def test_explicit_maps_that_fit_no_student_are_refused(pairs, copied, says):
    with pytest.raises(ConfigError, match=says):
        layer_map("explicit", 4, 2, pairs, copied)


@pytest.mark.parametrize("pair", ["1:2", "0:3"])
def test_the_normalised_last_output_is_compared_with_its_like_only(pair):
    with pytest.raises(ConfigError, match=rf"{pair}.*its like \(1:3\)"):
        layer_map("explicit", 4, 2, pair, "0,3")


@pytest.mark.parametrize("kind", ["paper", "segment_end", "last-2"])
@pytest.mark.parametrize("teacher", [2, 3, 6, 16, 32])
def test_no_map_pairs_a_normalised_output_with_another(kind, teacher):
    for student in range(1, teacher):
        for s, t in layer_map(kind, teacher, student).targets:
            assert (s == student - 1) == (t == teacher - 1)

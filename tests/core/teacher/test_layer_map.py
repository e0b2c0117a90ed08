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

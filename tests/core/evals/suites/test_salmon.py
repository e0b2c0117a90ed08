"""SALMon's folders: j = 0 is right, another j wrong, and a sample of any other shape is refused."""

import pytest

from tinywave_core.errors import SourceError
from tinywave_core.evals.suites.opening import open_suite
from tinywave_core.evals.suites.salmon import ALIGNMENT, CONSISTENCY, PARTS


def test_all_eight_parts_are_subsets_and_their_two_families_are_reported_too(place):
    suite = open_suite(
        "salmon", place([f"{part}/sample_{i}_{j}.wav" for part in PARTS for i in (0, 1) for j in (0, 1)])
    )
    assert len(suite.pairs) == 16 and list(suite.subsets) == [*PARTS, "consistency", "alignment"]
    assert suite.subsets["consistency"] == CONSISTENCY and len(CONSISTENCY) == 6
    assert suite.subsets["alignment"] == ALIGNMENT == ("bg_alignment", "sentiment_alignment")


def test_the_version_numbered_0_is_right_in_the_order_of_numbers(place):
    folder = place([f"bg_alignment/sample_{i}_{j}.wav" for i in (10, 9) for j in (3, 0)]) / "bg_alignment"
    suite = open_suite(None, folder)
    assert [(p.id, p.positive.name, p.negative.name) for p in suite.pairs] == [
        ("bg_alignment/9", "sample_9_0.wav", "sample_9_3.wav"),
        ("bg_alignment/10", "sample_10_0.wav", "sample_10_3.wav"),
    ]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["sample_1_0", "sample_1_1", "sample_1_2"],
            r"sample 1 has sample_1_0.wav, sample_1_1.wav, sample_1_2.wav; expec",
        ),
        (["sample_1_0"], r"sample 1 has sample_1_0.wav; expected sample_1_0 and one other"),
        (["sample_1_1", "sample_1_2"], r"sample 1 has sample_1_1.wav, sample_1_2.wav; expected sample_1_0"),
        (["sample_1_0", "sample_01_0"], r"sample 1 has sample_01_0.wav, sample_1_0.wav; expected"),
        (["sample_1"], r"sample_1.wav is not named sample_<i>_<j>"),
    ],
)
def test_a_sample_that_is_no_pair_is_refused(place, names, said):
    with pytest.raises(SourceError, match=said):
        open_suite("salmon", place([f"rir_consistency/{name}.wav" for name in names]))


def test_a_folder_without_parts_says_what_it_has(place):
    with pytest.raises(SourceError, match="has no part of SALMon, but other; expected some of bg_all_consistency"):
        open_suite("salmon", place(["other/sample_0_0.wav"]))

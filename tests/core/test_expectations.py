"""What a plan says that so much speech gives: measured points, a line between them, and a warning where it is too little."""

import pytest

from tinywave_core.costs.expectations import MEASURED, expectation, expected


@pytest.mark.parametrize("start", ["fresh", "base"])
def test_measured_points_are_told_as_they_were_measured(start: str):
    for minutes, figures in MEASURED[start].items():
        told = expected(start, minutes / 60)
        assert told and (told.teacher, told.student) == pytest.approx((figures.teacher, figures.student))


def test_between_two_points_a_doubling_counts_the_same_everywhere():
    """Of 2 and 5 minutes the middle is the square root of 10."""
    low, high, middle = MEASURED["base"][2], MEASURED["base"][5], expected("base", 10**0.5 / 60)
    assert middle and middle.student == pytest.approx((low.student + high.student) / 2)


def test_beyond_what_was_measured_the_nearest_point_is_told():
    assert expected("base", 100.0) == expected("base", max(MEASURED["base"]) / 60)
    assert expected("base", 0.001) == expected("base", min(MEASURED["base"]) / 60)


def test_too_little_speech_is_said_with_what_to_do():
    assert "no better than a table of counts" in str(expectation("fresh", 2 / 60))
    assert "start from the base" in str(expectation("fresh", 2 / 60))
    assert "15 minutes of training speech gave a student 0.6 and a teacher 0.7 nats" in str(
        expectation("base", 15 / 60)
    )


def test_nothing_is_said_of_a_start_that_was_not_measured_or_of_no_speech():
    assert expectation("spiritlm", 1.0) is None
    assert expectation("base", 0.0) is None

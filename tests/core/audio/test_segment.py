"""Cutting: every utterance has a legal length, and no speech is lost or doubled."""

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from tinywave_core.audio.segment import utterance_bounds
from tinywave_core.audio.vad import WINDOW

SECOND = 16_000
NONE: npt.NDArray[np.float32] = np.zeros(0, np.float32)


@st.composite
def speech(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int]:
    """Disjoint regions in order, and the length of the recording."""
    position, regions = 0, []
    for pause, length in draw(
        st.lists(st.tuples(st.integers(160, 4 * SECOND), st.integers(4_000, 60 * SECOND)), max_size=12)
    ):
        regions.append((position + pause, position + pause + length))
        position += pause + length
    return regions, position + draw(st.integers(0, SECOND))


@settings(max_examples=200)
@given(speech(), st.integers(0, 9), st.sampled_from([(8_000, 30), (16_000, 2), (32_000, 10)]))
def test_utterances_are_in_bounds_in_order_and_lose_no_speech(
    found: tuple[list[tuple[int, int]], int], seed: int, limits: tuple[int, int]
) -> None:
    regions, total = found
    shortest, longest = limits[0], limits[1] * SECOND
    probabilities_W = np.random.default_rng(seed).random(-(-total // WINDOW), dtype=np.float32)
    bounds = utterance_bounds(regions, probabilities_W, total, shortest=shortest, longest=longest)
    covered = np.zeros(total, dtype=np.int8)
    for start, end in bounds:
        assert 0 <= start < end <= total
        assert shortest <= end - start <= longest
        covered[start:end] += 1
    assert covered.max(initial=0) <= 1
    for start, end in regions:
        if end - start >= shortest:
            assert covered[start:end].all()


def test_a_recording_that_is_not_too_long_stays_whole() -> None:
    assert utterance_bounds([(100, 200)], NONE, 30 * SECOND, shortest=8_000, longest=30 * SECOND) == [(0, 30 * SECOND)]


def test_a_recording_that_is_too_short_gives_nothing() -> None:
    assert utterance_bounds([(0, 7_999)], NONE, 7_999, shortest=8_000, longest=30 * SECOND) == []


def test_long_speech_is_cut_in_the_middle_of_its_longest_late_pause() -> None:
    regions = [(0, 4 * SECOND), (4 * SECOND + 8_000, 9 * SECOND), (9 * SECOND + 8_000, 12 * SECOND)]
    bounds = utterance_bounds(regions, np.ones(400, np.float32), 12 * SECOND, shortest=8_000, longest=10 * SECOND)
    assert bounds == [(0, 9 * SECOND + 4_000), (9 * SECOND + 4_000, 12 * SECOND)]


def test_speech_without_a_pause_is_cut_where_it_is_least_likely() -> None:
    probabilities_W = np.ones(375, np.float32)
    probabilities_W[250] = 0.6
    bounds = utterance_bounds([(0, 12 * SECOND)], probabilities_W, 12 * SECOND, shortest=8_000, longest=10 * SECOND)
    assert bounds == [(0, 250 * WINDOW), (250 * WINDOW, 12 * SECOND)]


def test_long_silence_is_left_out_but_for_a_tenth_of_a_second() -> None:
    regions = [(SECOND, 2 * SECOND), (50 * SECOND, 51 * SECOND)]
    bounds = utterance_bounds(regions, NONE, 60 * SECOND, shortest=8_000, longest=30 * SECOND)
    assert bounds == [(14_400, 33_600), (798_400, 817_600)]

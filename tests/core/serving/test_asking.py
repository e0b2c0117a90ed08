"""Settings and audio of a request."""

import numpy as np
import pytest

from tinywave_core.audio.pcm import from_pcm16, to_pcm16, wav_header
from tinywave_core.serving.asking import Settings, wav
from tinywave_core.serving.limits import Limits


def test_an_answer_is_as_long_as_there_is_room_unless_a_length_is_asked_for():
    assert [Settings().sampling(room).max_new_tokens for room in (1000, 40, 0)] == [300, 40, 300]
    assert Settings(max_new_tokens=50, min_new_tokens=90).sampling(40).max_new_tokens == 50
    assert Settings(max_new_tokens=50, min_new_tokens=90).sampling(40).min_new_tokens == 50


def test_seeds_are_drawn_where_none_is_given():
    assert len({Settings().sampling(100).seed for _ in range(20)}) > 1
    assert {Settings(seed=3).sampling(100).seed for _ in range(20)} == {3}


@pytest.mark.parametrize("length", [None, 3200])
def test_a_wav_with_and_without_its_length_is_read(length: int | None):
    samples = np.linspace(-0.5, 0.5, 1600, dtype=np.float32)
    head = wav_header(16_000) if length is None else wav_header(16_000, length)
    np.testing.assert_array_equal(wav(head + to_pcm16(samples), Limits()), from_pcm16(to_pcm16(samples)))


def test_what_is_too_loud_is_clipped():
    assert np.frombuffer(to_pcm16(np.array([-2, -1, 0, 1, 2], np.float32)), "<i2").tolist() == [
        -32768,
        -32767,
        0,
        32767,
        32767,
    ]

"""A signal in pieces is resampled as the whole is."""

import numpy as np
import pytest
import torch
import torchaudio

from tinywave_core.audio.stream_resampling import StreamResampler


@pytest.mark.parametrize(
    ("before", "after"),
    [(16_000, 24_000), (16_000, 8_000), (24_000, 16_000), (8_000, 16_000), (16_000, 48_000), (44_100, 16_000)],
)
@pytest.mark.parametrize("length", [0, 1, 50, 20_001])
def test_pieces_of_any_length_give_what_the_whole_gives(before: int, after: int, length: int):
    rng = np.random.default_rng(length)
    signal = rng.normal(0, 0.3, length).astype(np.float32)
    resampler, made, at = StreamResampler(before, after), [], 0
    while at < length:
        step = int(rng.choice([1, 7, 160, 1000, 5000]))
        made.append(resampler.push(signal[at : at + step]))
        at += step
    given = sum(map(len, made))
    made.append(resampler.end())
    whole = torchaudio.functional.resample(torch.from_numpy(signal), before, after).numpy() if length else signal
    assert len(np.concatenate(made)) == len(whole)
    # Sums of the same products in another order: the last bit.
    np.testing.assert_allclose(np.concatenate(made), whole, atol=5e-7)
    # Nothing is held back for longer than its filter looks ahead.
    assert given >= len(whole) - max(2, 40 * after // min(before, after), 2 * after // 100)


def test_the_same_rate_is_the_same_signal():
    signal = np.arange(10, dtype=np.float32)
    resampler = StreamResampler(16_000, 16_000)
    assert resampler.push(signal) is signal and len(resampler.end()) == 0

"""One resampler for all: exact for usual rates, and no rate costs a filter of gigabytes."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio

from tinywave_core.audio import resampling
from tinywave_core.audio.resampling import ratio, to_16k
from tinywave_core.audio.waveform import to_mono_16k
from tinywave_core.errors import SourceError

ODD = (4_001, 22_051, 44_056, 44_101, 47_952, 48_001, 191_999)


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000])
def test_usual_rates_are_torchaudios_own_result_to_the_last_bit(rate: int):
    samples = torch.from_numpy(np.random.default_rng(rate).normal(0, 0.1, (2, 4_000)).astype(np.float32))
    assert torch.equal(to_16k(samples, rate), torchaudio.functional.resample(samples, rate, 16_000))


def test_no_rate_needs_a_filter_of_gigabytes_or_is_off_by_half_a_per_mille():
    for rate in ODD:
        orig, new = ratio(rate)
        assert orig * new < 8_000_000
        assert orig / new == pytest.approx(rate / 16_000, rel=5e-4)
    assert ratio(22_050) == (441, 320)


@pytest.mark.parametrize("rate", ODD)
def test_an_odd_rate_keeps_length_and_pitch(rate: int):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    found = to_mono_16k(tone.astype(np.float32)[:, None], rate, "a.wav")
    assert len(found) == pytest.approx(16_000, rel=5e-4)
    assert np.abs(np.fft.rfft(found, 16_000)).argmax() == pytest.approx(440, abs=0.5)


@pytest.mark.parametrize("rate", [1, 3_999, 192_001, 2_000_000_000])
def test_what_is_no_rate_of_speech_is_refused(rate: int):
    with pytest.raises(SourceError, match=rf"a\.wav has a sample rate of {rate:,} Hz; expected 4,000 to 192,000 Hz"):
        to_mono_16k(np.zeros((100, 1), np.float32), rate, "a.wav")


def test_nothing_else_resamples():
    root = Path(resampling.__file__).parents[2]
    found = [
        str(path.relative_to(root))
        for folder in ("flows", "tasks", "tinywave_core", "infra")
        for path in (root / folder).rglob("*.py")
        if re.search(
            r"functional\.resample\(|transforms\.Resample|resample_poly|resampy|soxr|import librosa", path.read_text()
        )
    ]
    # In pieces, as it comes: held against the whole by tests of its own.
    assert sorted(found) == ["tinywave_core/audio/resampling.py", "tinywave_core/audio/stream_resampling.py"]

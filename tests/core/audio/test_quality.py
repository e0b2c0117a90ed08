"""Warnings: what is odd is told and kept, and what is natural is not called odd."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchaudio.functional

from tests.core.audio.conftest import EXAMPLES
from tinywave_core.audio.cutting import Cutter
from tinywave_core.audio.decode import Recording
from tinywave_core.audio.quality import WARNINGS, bandwidth_hz
from tinywave_core.config.ingestion import IngestionConfig

Decode = Callable[[Path], Recording]
Samples = npt.NDArray[np.float32]
Write = Callable[..., Path]


def row_of(path: Path, decode: Decode) -> dict[str, Any]:
    cutter = Cutter(IngestionConfig())
    file = {"sha256": path.name, "speaker": None, "transcript": None}
    list(cutter.cut(file, path.name, [], path.stat().st_size, decode(path)))
    return cutter.rows[0]


def telephone(samples_N: Samples, rate: int) -> Samples:
    """What is left of it at 8 kHz, at its own rate again."""
    narrow = torchaudio.functional.resample(torch.from_numpy(samples_N), rate, 8_000)
    return np.asarray(torchaudio.functional.resample(narrow, 8_000, rate).numpy(), np.float32)


ODD: dict[str, tuple[list[str], Callable[[Samples], Any]]] = {
    "as it is": ([], lambda s: s),
    "quiet": ([], lambda s: 0.02 * s),
    "stereo": ([], lambda s: np.stack([s, 0.8 * s], axis=1)),
    "clipped at full scale": (["clipped"], lambda s: np.clip(4 * s, -1, 1)),
    "clipped below it": (["clipped"], lambda s: 0.99 * np.clip(4 * s, -1, 1)),
    "antiphase": (["antiphase"], lambda s: np.stack([s, -s], axis=1)),
    "telephone": (["narrow_band"], lambda s: telephone(s, 22_050)),
    "telephone with noise": (
        ["narrow_band"],
        lambda s: telephone(s, 22_050)[: len(s)] + np.random.default_rng(0).normal(0, 4e-3, len(s)).astype(np.float32),
    ),
    "dialogue": (
        ["two_speakers"],
        lambda s: np.stack([np.concatenate([s, 0 * s]), np.concatenate([0 * s, s[::-1]])], axis=1),
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_odd_is_taken_with_its_warning(what: str, sentence: Samples, write: Write, decode: Decode) -> None:
    warnings, make = ODD[what]
    row = row_of(write("a.wav", make(sentence)), decode)
    assert (row["status"], row["warnings"] or []) == ("accepted", warnings)
    assert set(warnings) <= WARNINGS.keys()


def test_a_file_at_8_khz_is_narrow_too(sentence: Samples, write: Write, decode: Decode) -> None:
    narrow = torchaudio.functional.resample(torch.from_numpy(sentence), 22_050, 8_000).numpy()
    row = row_of(write("a.wav", narrow, 8_000), decode)
    assert row["warnings"] == ["narrow_band"] and row["bandwidth_hz"] <= 5_000


def test_the_bandwidth_of_speech_is_told_whatever_silence_lies_around_it(
    sentence: Samples, write: Write, decode: Decode
) -> None:
    samples_N = decode(write("a.wav", sentence)).samples_N
    assert samples_N is not None
    alone = bandwidth_hz(samples_N, [(0, len(samples_N))])
    padded = np.concatenate([np.zeros(1_600_000, np.int16), samples_N])
    assert alone == bandwidth_hz(padded, [(1_600_000, len(padded))]) == 8_000


def test_too_little_to_tell_has_no_bandwidth() -> None:
    assert bandwidth_hz(np.zeros(2_000, np.int16), [(0, 2_000)]) is None


def test_natural_recordings_have_no_warning(decode: Decode) -> None:
    paths = sorted((EXAMPLES / "LibriSpeech" / "test-other").rglob("*.opus"))[:20]
    paths += sorted((EXAMPLES / "LJSpeech" / "wavs").glob("*.mp3"))
    paths += sorted((EXAMPLES / "LibriSpeech" / "train-clean-100" / "412").rglob("*.opus"))  # its bass is turned up
    assert len(paths) > 20
    assert not {path.name: row["warnings"] for path in paths if (row := row_of(path, decode))["warnings"]}

"""Real recordings, damaged as they are drawn: what comes out is audio or a refusal with its reason, and the next file is read."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.audio.conftest import SENTENCE
from tinywave_core.audio.decode import Decoder
from tinywave_core.audio.waveform import read_waveform
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import SourceError

FORMATS: dict[str, tuple[int, dict[str, Any]]] = {
    "wav": (22_050, {"subtype": "PCM_16"}),
    "float.wav": (16_000, {"subtype": "FLOAT"}),
    "flac": (22_050, {}),
    "ogg": (22_050, {}),
    "opus": (16_000, {"format": "OGG", "subtype": "OPUS"}),
    "mp3": (22_050, {}),
    "aiff": (22_050, {}),
    "caf": (16_000, {}),
}
# What a damaged file can be refused as. Not among them: that the decoder crashed, or did not come to an end.
REASONS = {
    "bad_channels",
    "bad_sample_rate",
    "empty_file",
    "length_mismatch",
    "no_audio",
    "not_audio",
    "not_finite",
    "over_full_scale",
    "silent",
    "too_long",
    "undecodable",
    "needs_extra",
}
Damage = tuple[str, float, float, int]
Damaged = Callable[[str, list[Damage]], Path]

# Bytes flipped (most often where the headers are), cut away, doubled, or made zero; by shares of the length.
damage = st.tuples(
    st.sampled_from(["flip", "flip", "flip in head", "flip in head", "cut", "cut out", "double", "zero"]),
    st.floats(0, 1),
    st.floats(0, 0.3),
    st.integers(1, 255),
)
damages = st.lists(damage, min_size=1, max_size=5)


def applied(data: bytes, kind: str, share: float, length: float, mask: int) -> bytes:
    start = int(share * (min(len(data), 200) if kind == "flip in head" else len(data)))
    stop = start + 1 + int(length * len(data))
    match kind:
        case "cut":
            return data[:start]
        case "cut out":
            return data[:start] + data[stop:]
        case "double":
            return data[:stop] + data[start:]
        case "zero":
            return data[:start] + bytes(len(data[start:stop])) + data[stop:]
        case _:
            return data[:start] + bytes(byte ^ mask for byte in data[start : start + 1]) + data[start + 1 :]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    """`damaged(format, damages)`: a file of half a second of speech."""
    samples, _ = soundfile.read(SENTENCE, frames=11_025, dtype="float32")
    files = {}
    for name, (rate, options) in FORMATS.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, **({"format": name.rpartition(".")[2].upper()} | options))
        files[name] = buffer.getvalue()

    def make(name: str, drawn: list[Damage]) -> Path:
        data = files[name]
        for each in drawn:
            data = applied(data, *each)
        path = tmp_path_factory.getbasetemp() / f"damaged.{name}"
        path.write_bytes(data)
        return path

    return make


@pytest.fixture(scope="module")
def bounded() -> Iterator[Decoder]:
    """It may take 20 s for one file: on these it needs milliseconds, so that one which takes long is one that hangs."""
    with Decoder(RuntimeConfig(decode_timeout_s=20, decode_memory_mb=1024), max_recording_hours=0.1) as decoder:
        yield decoder


def check(path: Path, decoder: Decoder) -> None:
    found = decoder.decode(path)
    if found.samples_N is None:
        assert found.verdict.reason in REASONS, found.verdict
        assert found.verdict.detail
    else:
        assert found.verdict.reason is None
        assert found.samples_N.dtype == np.int16 and 0 < len(found.samples_N) <= 360 * 16_000


def check_waveform(path: Path) -> None:
    try:
        samples: npt.NDArray[np.float32] = read_waveform(path)
    except SourceError:
        return
    assert samples.dtype == np.float32 and samples.ndim == 1 and np.isfinite(samples).all()


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=50)
@given(drawn=damages)
def test_a_damaged_recording_is_audio_or_a_refusal(
    name: str, drawn: list[Damage], damaged: Damaged, bounded: Decoder
) -> None:
    path = damaged(name, drawn)
    check(path, bounded)
    check_waveform(path)


@pytest.mark.nightly
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=1_000)
@given(drawn=damages)
def test_each_of_many_damaged_recordings_is_audio_or_a_refusal(
    name: str, drawn: list[Damage], damaged: Damaged, bounded: Decoder
) -> None:
    path = damaged(name, drawn)
    check(path, bounded)
    check_waveform(path)


@pytest.mark.parametrize("name", FORMATS)
def test_without_damage_they_are_audio(name: str, damaged: Damaged, bounded: Decoder) -> None:
    assert bounded.decode(damaged(name, [])).verdict.reason is None

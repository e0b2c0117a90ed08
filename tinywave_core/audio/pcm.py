"""Samples <-> 16-bit PCM (mono, little-endian), and the header of a wav whose length is not known yet."""

import struct

import numpy as np
import numpy.typing as npt

UNKNOWN = 0xFFFFFFFF
"""Length in the header of a wav that is still being made, as ffmpeg and sox write it into pipes."""

Samples = npt.NDArray[np.float32]


def to_pcm16(samples: Samples) -> bytes:
    """Full scale is 1; what is louder is clipped."""
    return np.clip(np.rint(samples * 32767), -32768, 32767).astype("<i2").tobytes()


def from_pcm16(data: bytes | bytearray) -> Samples:
    """Samples of whole 16-bit values."""
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def wav_header(rate: int, data_bytes: int = UNKNOWN) -> bytes:
    """The 44 bytes before 16-bit mono samples."""
    riff = UNKNOWN if data_bytes == UNKNOWN else 36 + data_bytes
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", data_bytes
    )

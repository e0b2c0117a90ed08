"""The codes of telephones, against libsndfile's."""

import io

import numpy as np
import pytest
import soundfile

from tinywave_core.audio import g711

ALL = np.arange(-32768, 32768).astype(np.int16)


def by_libsndfile(data: bytes, subtype: str) -> np.ndarray:
    form = {"format": "RAW", "subtype": subtype, "channels": 1, "samplerate": 8000}
    return soundfile.read(io.BytesIO(data), dtype="int16", **form)[0]


@pytest.mark.parametrize(("law", "subtype"), [("mu", "ULAW"), ("a", "ALAW")])
def test_every_byte_is_its_level_and_every_sample_the_nearest_one(law: g711.Law, subtype: str):
    codes = bytes(range(256))
    np.testing.assert_array_equal(g711.decode(codes, law), by_libsndfile(codes, subtype))
    levels = by_libsndfile(codes, subtype).astype(np.int64)
    nearest = np.abs(ALL.astype(np.int64)[:, None] - levels[None]).min(axis=1)
    made = by_libsndfile(g711.encode(ALL, law), subtype).astype(np.int64)
    np.testing.assert_array_equal(np.abs(made - ALL), nearest)
    assert not (np.sign(made) * np.sign(ALL.astype(np.int64)) < 0)[np.abs(ALL.astype(np.int64)) > 8].any()


def test_silence_in_mu_law_is_the_byte_of_the_standard():
    assert g711.encode(np.zeros(2, np.int16), "mu") == b"\xff\xff"

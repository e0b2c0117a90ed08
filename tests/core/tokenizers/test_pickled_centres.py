"""Centres of scikit-learn's k-means, from files that joblib and pickle wrote (tests/fixtures/kmeans/README.md), without unpickling."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinywave_core.errors import CheckpointError
from tinywave_core.tokenizers.codebooks import read_codebook

FILES = Path(__file__).parents[2] / "fixtures" / "kmeans"
CENTRES = np.load(FILES / "centres.npy")
NAMES = ["joblib_1_0.bin", "joblib_1_6.bin", "pickle_0.bin", "pickle_2.bin", "pickle_5.bin"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", ["bin", "pt"])
def test_centres_are_those_that_scikit_learn_has(name: str, ending: str, tmp_path: Path):
    path = tmp_path / f"km.{ending}"
    path.write_bytes((FILES / name).read_bytes())
    found = read_codebook(path).centres
    assert found.dtype == np.float32 and found.tobytes() == CENTRES.tobytes()


class Ran(Exception):
    """Raised by what a pickle makes run."""


def run() -> None:
    raise Ran


class Hostile:
    def __reduce__(self) -> tuple:
        return run, ()


class KMeans:
    """With a state of our own, as pickle writes it."""

    def __init__(self, centres: object, before: object = None) -> None:
        self.before, self.cluster_centers_ = before, centres


def test_nothing_of_a_hostile_file_is_run(tmp_path: Path):
    path = tmp_path / "km.bin"
    path.write_bytes(pickle.dumps(KMeans(CENTRES, before=Hostile())))
    with pytest.raises(Ran):
        pickle.loads(path.read_bytes())
    assert read_codebook(path).centres.tobytes() == CENTRES.tobytes()
    path.write_bytes(pickle.dumps(KMeans(Hostile())))
    with pytest.raises(CheckpointError, match="cluster_centers_ is no array"):
        read_codebook(path)


@pytest.mark.parametrize(
    ("centres", "said"),
    [
        (np.asfortranarray(CENTRES), "in order 'F'"),
        (CENTRES.astype(">f4"), "no little-endian numbers"),
        (CENTRES.astype(np.int32), r"int32 \[4, 6\] in order 'C', expected float32 or float64"),
        (CENTRES.astype(np.float16), "float16"),
        (CENTRES[0], r"float32 \[6\]"),
        (np.array([[{}]]), "no little-endian numbers"),
        (np.full((4, 6), np.nan), "NaN or infinite"),
        ([[0.0]], "cluster_centers_ is no array"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_centres_are_refused_in_one_line(centres: object, said: str, protocol: int, tmp_path: Path):
    path = tmp_path / "km.bin"
    path.write_bytes(pickle.dumps(KMeans(centres), protocol))
    with pytest.raises(CheckpointError, match=said) as caught:
        read_codebook(path)
    assert "\n" not in str(caught.value)


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_codebook(path)
    return str(caught.value)


def test_what_is_no_kmeans_or_is_compressed_is_refused_with_the_way_out(tmp_path: Path):
    path = tmp_path / "km.bin"
    for content in (pickle.dumps({"cluster_centers_": 1}), (FILES / "compressed.bin").read_bytes(), b""):
        assert "joblib.load('km.bin').cluster_centers_" in refused(path, content)


def test_nested_keys_whose_hash_takes_for_ever_are_refused_at_once(tmp_path: Path):
    doubling = b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(100))
    path = tmp_path / "km.bin"
    assert "other keys than names" in refused(path, b"\x80\x02)q\x00" + doubling + b"}h\x64Ns.")


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(NAMES), data=st.data())
def test_a_file_cut_short_anywhere_is_refused(name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    content = (FILES / name).read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    refused(tmp_path_factory.getbasetemp() / "cut.bin", content[:cut])


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(NAMES), data=st.data())
def test_a_damaged_file_gives_centres_or_one_line(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    content = bytearray((FILES / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(bytes(content))
    told = ""
    try:
        assert read_codebook(path).centres.ndim == 2
    except CheckpointError as error:
        told = str(error)
    assert "\n" not in told

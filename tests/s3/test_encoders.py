"""An encoder and its codebook on S3: fetched once, known by their content, refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fixtures.encoders import WIDTH, save_encoder
from tests.fixtures.tiny import tiny_config
from tinywave_core.checkpoints.model_directory import model_digest
from tinywave_core.checkpoints.places import given_file, model_folder
from tinywave_core.errors import CheckpointError
from tinywave_core.storage.filesystem import open_url
from tinywave_core.tokenizers.embedded import choose, open_encoder

PREFIX = "s3://tiny-speech/models/whisper"
CODEBOOK = "s3://tiny-speech/models/centres.npy"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(s3: Any, tmp_path: Path) -> Path:
    """The encoder here, and there with a pickle and a codebook beside it."""
    folder = tmp_path / "whisper"
    save_encoder(folder, "whisper")
    upload(s3, folder)
    s3.put_object(Bucket="tiny-speech", Key="models/whisper/pytorch_model.bin", Body=b"a pickle")
    np.save(tmp_path / "centres.npy", np.eye(12, WIDTH, dtype=np.float32))
    s3.upload_file(str(tmp_path / "centres.npy"), "tiny-speech", "models/centres.npy")
    return folder


def upload(s3: Any, folder: Path) -> None:
    for path in folder.iterdir():
        s3.upload_file(str(path), "tiny-speech", f"models/whisper/{path.name}")


def test_an_encoder_there_is_the_one_here_in_fingerprints_and_frames(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def asked(encoder: str, codebook: str) -> Any:
        units = {"kind": "encoder", "encoder": encoder, "codebook": codebook, "layer": 2, "clusters": 12}
        return choose(tiny_config(tmp_path, tmp_path, tokenization={"tokens": "base", "units": units}))

    there, here = asked(PREFIX, CODEBOOK), asked(str(folder), str(tmp_path / "centres.npy"))
    there.check(None)
    assert (there.given(), there.settings()) == (here.given(), here.settings())
    assert there.seconds_per_hour("cpu") == here.seconds_per_hour("cpu")
    monkeypatch.setenv("TINYWAVE_ENCODER", f"{PREFIX}/")
    samples = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    digest = model_digest(folder)
    both = [open_encoder(place, 2, digest, "cpu")(samples).tobytes() for place in (None, str(folder))]
    assert both[0] == both[1]
    assert "pytorch_model.bin" not in [path.name for path in model_folder(PREFIX).iterdir()]


def test_files_are_fetched_once_and_again_where_they_changed(s3: Any, folder: Path, monkeypatch: pytest.MonkeyPatch):
    got: list[str] = []
    filesystem, _ = open_url(PREFIX)  # fsspec has one for all who ask
    original = filesystem.get_file

    def counted(place: str, target: str) -> None:
        got.append(Path(place).name)
        original(place, target)

    monkeypatch.setattr(filesystem, "get_file", counted)
    first = model_digest(model_folder(PREFIX))
    assert model_digest(model_folder(PREFIX)) == first and sorted(got) == ["config.json", "model.safetensors"]
    save_encoder(folder, "whisper", seed=1)
    upload(s3, folder)
    assert model_digest(model_folder(PREFIX)) == model_digest(folder) != first


def test_what_is_not_there_is_said_in_one_line(s3: Any, folder: Path):
    for place, said in (
        ("s3://tiny-speech/models/nowhere", r"nowhere/ has no config\.json: expected config\.json of the model there"),
        (
            "s3://not-a-bucket/models",
            r"s3://not-a-bucket/models cannot be read|not-a-bucket/models/ has no config\.json",
        ),
    ):
        with pytest.raises(CheckpointError, match=said) as caught:
            model_folder(place)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"models/ has no other\.npy"):
        given_file("s3://tiny-speech/models/other.npy")
    s3.delete_object(Bucket="tiny-speech", Key="models/whisper/model.safetensors")
    with pytest.raises(CheckpointError, match="whisper has no weights: expected model.safetensors"):
        model_folder(PREFIX)


def test_a_download_that_breaks_off_leaves_nothing_that_reads_as_whole(folder: Path, monkeypatch: pytest.MonkeyPatch):
    filesystem, _ = open_url(PREFIX)
    original = filesystem.get_file

    def half(place: str, target: str) -> None:
        original(place, target)
        Path(target).write_bytes(Path(target).read_bytes()[:-100])

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "get_file", half)
        with pytest.raises(CheckpointError, match=r"config\.json came with [\d,]+ of [\d,]+ bytes: try again"):
            model_folder(PREFIX)
    assert model_digest(model_folder(PREFIX)) == model_digest(folder)

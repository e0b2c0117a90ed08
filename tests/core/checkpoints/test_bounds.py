"""What a model directory claims is held against the bytes that lie there, before anything is built."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fixtures.judges import write_judges
from tinywave_core.alignment.ctc import CtcAligner
from tinywave_core.checkpoints.bounds import model_weights
from tinywave_core.checkpoints.weights import load_entries
from tinywave_core.errors import CheckpointError
from tinywave_core.evals.text_likelihood import TextModel
from tinywave_core.evals.transcription import load_recogniser
from tinywave_core.exporters.weights import Weights
from tinywave_core.models.llama import load_llama

LOADERS: dict[str, list[Callable[[Path], Any]]] = {
    "text": [load_llama, TextModel.load],
    "ctc": [CtcAligner.load],
    "whisper": [load_recogniser],
}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {name: Path(folder) for name, folder in write_judges(tmp_path / "judges").items()}


# Names -----------------------------------------------------------------------------------------------------------------


def shard(folder: Path, name: str) -> None:
    """The weights of `folder` become shards whose index gives that name to all."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(weights, name)}))


@pytest.mark.parametrize("form", ["../{}", "{root}/{}", "./../judges/../{}", "..\\{}", "a/{}", ".", "..", "", "{}\0"])
def test_index_reads_no_file_outside_its_folder(folders: dict[str, Path], form: str) -> None:
    folder = folders["text"]
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    save_file(load_file(folder.parent / "other.safetensors"), folder / "model.safetensors")
    shard(folder, form.format("other.safetensors", root=folder.parent))
    for load in (load_llama, TextModel.load, Weights, model_weights):
        with pytest.raises(CheckpointError, match=r"index\.json names .*expected the name of a file right beside it"):
            load(folder)


@pytest.mark.parametrize("is_sharded", [True, False])
def test_link_out_of_the_folder_is_not_followed(folders: dict[str, Path], is_sharded: bool) -> None:
    folder = folders["text"]
    outside = (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    (folder / "model.safetensors").symlink_to(outside)
    if is_sharded:
        shard(folder, "one.safetensors")
        (folder / "one.safetensors").symlink_to(outside)
    for load in (load_llama, TextModel.load, Weights, model_weights):
        with pytest.raises(CheckpointError, match=r"is a link to .*other\.safetensors, outside the folder"):
            load(folder)


def test_snapshot_in_the_cache_of_hugging_face_is_loaded_through_its_links(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "hub/blobs").mkdir(parents=True)
    (tmp_path / "hub/snapshots").mkdir()
    folder = folders["text"].rename(tmp_path / "hub/snapshots/0a1b")
    (folder / "model.safetensors").rename(tmp_path / "hub/blobs/ff00")
    (folder / "model.safetensors").symlink_to("../../blobs/ff00")
    assert load_llama(folder).config.vocab_size > 0


def test_adapter_leads_to_no_other_model(folders: dict[str, Path]) -> None:
    (folders["text"] / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(CheckpointError, match=r"adapter_config\.json, which leads to a model elsewhere"):
        load_llama(folders["text"])


# Sizes -----------------------------------------------------------------------------------------------------------------

ABSURD = {
    "layers": ("text", {"num_hidden_layers": 10_000_000}),
    "width": ("text", {"hidden_size": 10_000_000}),
    "feed-forward": ("text", {"intermediate_size": 10**12}),
    "vocabulary": ("text", {"vocab_size": 10**12}),
    "head": ("text", {"head_dim": 10**9}),
    "more digits than a machine's numbers": ("text", {"num_hidden_layers": 10**300}),
    "defaults of transformers": ("text", dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers"))),
    "convolution": ("ctc", {"conv_dim": [10**9] * 7}),
    "list of convolutions": ("ctc", {"conv_dim": [1] * 200_000, "conv_kernel": [1] * 200_000}),
    "position kernel": ("ctc", {"num_conv_pos_embeddings": 10**12}),
    "labels": ("ctc", {"num_labels": 10**12}),
    "encoder": ("whisper", {"encoder_layers": 10_000_000}),
    "positions": ("whisper", {"max_source_positions": 10**12}),
}


@pytest.mark.parametrize("name", ABSURD)
def test_config_that_promises_more_than_the_weights_hold_is_refused(folders: dict[str, Path], name: str) -> None:
    kind, sizes = ABSURD[name]
    path = folders[kind] / "config.json"
    about = json.loads(path.read_text()) | sizes
    path.write_text(json.dumps({key: value for key, value in about.items() if value is not None}))
    for load in LOADERS[kind]:
        with pytest.raises(CheckpointError, match=r"config\.json promises at least .* has room for"):
            load(folders[kind])


@pytest.mark.parametrize("kind", LOADERS)
def test_config_that_fits_its_weights_is_loaded(folders: dict[str, Path], kind: str) -> None:
    assert all(load(folders[kind]) is not None for load in LOADERS[kind])


def test_json_of_any_depth_or_size_is_named(folders: dict[str, Path]) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        path = folders["text"] / name
        whole = path.read_bytes()
        path.write_text("[" * 200_000)
        with pytest.raises(CheckpointError, match=name):
            load_llama(folders["text"])
        path.write_bytes(whole)
    with (folders["text"] / "tokenizer.json").open("r+b") as file:
        file.truncate(1 << 40)  # a hole: no byte of it is on the disk
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has 1,099,511,627,776 bytes"):
        load_llama(folders["text"])


def headed(header: object, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(8)


def tensor(shape: list[int], end: int = 8) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}


@pytest.mark.parametrize(
    "content",
    [
        headed(tensor([2]), length=2**63),
        headed(tensor([2]), length=10_000),
        headed(tensor([2**58], 2**60)),
        headed(tensor([2**32, 2**32, 2])),
        headed(tensor([3])),
        headed(tensor([-2])),
        headed(tensor([2], 4)),
    ],
)
def test_safetensors_that_claim_other_bytes_than_they_have_are_refused(
    folders: dict[str, Path], content: bytes
) -> None:
    path = folders["text"] / "model.safetensors"
    path.write_bytes(content)
    for load in (load_llama, TextModel.load, lambda folder: load_entries(folder / "model.safetensors")):
        with pytest.raises(CheckpointError, match=r"model\.safetensors .*cut short or not a file of weights"):
            load(folders["text"])


def rewritten(path: Path, change: Callable[[str, bytes], bytes], packing: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        records = {each.filename: archive.read(each) for each in archive.infolist()}
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))


def test_tensor_longer_than_its_record_does_not_read_the_memory_after_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.arange(6.0)}, path)
    rewritten(path, lambda _, data: data)  # without torch's padding
    count = int(1.5 * path.stat().st_size) // 4  # more bytes than the file has, and fewer than twice as many
    longer = b"M" + count.to_bytes(2, "little")  # in place of the pickled number 6, as length and as shape
    rewritten(path, lambda name, data: data.replace(b"K\x06", longer) if name.endswith(".pkl") else data)
    with pytest.raises(CheckpointError, match=r"model\.pt .* cannot be read"):
        load_entries(path)


def test_packed_records_are_not_unfolded(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1_000_000)}, path)
    rewritten(path, lambda _, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="claims more bytes than the file has"):
        load_entries(path)


def test_view_of_one_number_as_terabytes_is_refused_and_tied_weights_are_not(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1).expand(10**12)}, path)
    with pytest.raises(CheckpointError, match="its tensors claim 4,000,000,000,000 bytes"):
        load_entries(path)
    tied = torch.arange(5000.0)
    torch.save({"a": tied, "b": tied}, path)
    assert all(torch.equal(found, tied) for found in load_entries(path).values())

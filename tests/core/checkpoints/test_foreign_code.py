"""A model directory may bring pickles and code of its own: no loader runs any of it."""

import contextlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.fixtures.model_folders import KINDS
from tinywave_core.checkpoints.bounds import check_directory
from tinywave_core.errors import CheckpointError, TinyWaveError
from tinywave_core.tokenizers.directory import open_as_transformers

OWN = {
    "AutoConfig": "own.Own",
    "AutoModel": "own.Own",
    "AutoModelForCausalLM": "own.Own",
    "AutoTokenizer": ["own.Own"] * 2,
}


class Canary:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self.folder), 0o777, True)


def object_array(folder: Path, canary: Path) -> None:
    np.save(folder / "embeddings.npy", np.array([Canary(canary)], dtype=object), allow_pickle=True)


def distributed(folder: Path, canary: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(Canary(canary)))
    (folder / "__0_0.distcp").write_bytes(pickle.dumps(Canary(canary)))


def torch_files(folder: Path, canary: Path) -> None:
    for name in ("adapter_model.bin", "optimizer.pt", "training_args.bin"):
        torch.save({"x": Canary(canary)}, folder / name)


def pickled_tokenizers(folder: Path, canary: Path) -> None:
    for name in ("tokenizer.pkl", "tokenizer.bin", "vocab.pkl"):
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))


def own_code(folder: Path, canary: Path) -> None:
    """In whatever file the configs name, and those that transformers looks for by itself."""
    code = f"import os\nos.makedirs({str(canary)!r}, exist_ok=True)\nclass Own: pass\n"
    for name in ("own.py", "__init__.py", "generate.py", "conftest.py", "sitecustomize.py"):
        (folder / name).write_text(code)
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json"):
        about = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps(about | {"auto_map": OWN, "trust_remote_code": True}))


def own_generate(folder: Path, canary: Path) -> None:
    (folder / "custom_generate").mkdir()
    own_code(folder / "custom_generate", canary)


SOWN: dict[str, Callable[[Path, Path], None]] = {
    each.__name__: each for each in (object_array, distributed, torch_files, pickled_tokenizers, own_code)
}
OPENED_CARELESSLY: dict[str, Callable[[Path], Any]] = {
    "object_array": lambda folder: np.load(folder / "embeddings.npy", allow_pickle=True),
    "distributed": lambda folder: FileSystemReader(folder).read_metadata(),
    "torch_files": lambda folder: torch.load(folder / "adapter_model.bin", weights_only=False),
    "pickled_tokenizers": lambda folder: pickle.loads((folder / "tokenizer.pkl").read_bytes()),
    "own_code": lambda folder: AutoConfig.from_pretrained(folder, trust_remote_code=True),
    # Not even careless: this is what the documentation of transformers calls safe.
    "own_generate": lambda folder: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False),
}


@pytest.mark.parametrize("kind", OPENED_CARELESSLY)
def test_what_is_sown_runs_where_somebody_opens_it_carelessly(
    copy_of: Callable[[str], Path], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = copy_of("text")
    (SOWN | {"own_generate": own_generate})[kind](folder, tmp_path / "canary")
    with contextlib.suppress(AttributeError, TypeError, ValueError):  # the code ran; what it left is no config
        OPENED_CARELESSLY[kind](folder)
    assert (tmp_path / "canary").is_dir()


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_full_of_code_is_opened_without_it(copy_of: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    folder = copy_of(name)
    for sow in SOWN.values():
        sow(folder, tmp_path / "canary")
    assert KINDS[name].open(folder) is not None
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "name", ["language model", "fast tokenizer", "export", "text", "ctc", "whisper", "HubertModel", "style"]
)
def test_code_that_transformers_would_run_whatever_it_is_told_is_refused(
    copy_of: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = copy_of(name)
    own_generate(folder, tmp_path / "canary")
    with pytest.raises(CheckpointError, match=f"{name} has a custom_generate, code that transformers would run"):
        KINDS[name].open(folder)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", KINDS)
def test_no_file_of_a_folder_is_unpickled(copy_of: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    folder = copy_of(name)
    pickled = pickle.dumps(Canary(tmp_path / "canary"))
    for path in sorted(each for each in folder.iterdir() if each.is_file()):
        whole = path.read_bytes()
        path.write_bytes(pickled)
        with contextlib.suppress(TinyWaveError):
            KINDS[name].open(folder)
        path.write_bytes(whole)
    assert not (tmp_path / "canary").exists()
    assert KINDS[name].open(folder) is not None


@pytest.mark.parametrize("model_type", [None, "own"])
def test_a_model_that_only_its_own_code_knows_is_refused(
    copy_of: Callable[[str], Path], tmp_path: Path, model_type: str | None
) -> None:
    folder = copy_of("text")
    own_code(folder, tmp_path / "canary")
    for name, changes in (
        ("config.json", {"model_type": model_type}),
        ("tokenizer_config.json", {"tokenizer_class": "Own"}),
    ):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))
    with pytest.raises(CheckpointError, match="text"):
        KINDS["text"].open(folder)
    with pytest.raises(CheckpointError, match="text"):
        open_as_transformers(folder)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("within", [False, True])
def test_attention_whose_code_lies_elsewhere_is_refused(
    copy_of: Callable[[str], Path], name: str, within: bool
) -> None:
    path = copy_of("text") / "config.json"
    changes = {name: "somebody/kernel"}
    path.write_text(json.dumps(json.loads(path.read_text()) | ({"text_config": changes} if within else changes)))
    with pytest.raises(
        CheckpointError, match=rf"config\.json has {name} 'somebody/kernel', which may name code elsewhere"
    ):
        KINDS["text"].open(path.parent)


@pytest.mark.parametrize(
    "changes", [{"tokenizer_file": "/elsewhere.json"}, {"vocab_file": "../x"}, {"init_inputs": ["/x"]}]
)
def test_a_tokenizer_is_read_from_no_other_folder(copy_of: Callable[[str], Path], changes: dict[str, Any]) -> None:
    folder = copy_of("text")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    for load in (KINDS["text"].open, open_as_transformers, lambda folder: check_directory(folder, "model")):
        with pytest.raises(CheckpointError, match=rf"tokenizer_config\.json has {next(iter(changes))}"):
            load(folder)


def test_other_files_of_a_tokenizer_would_be_read(copy_of: Callable[[str], Path]) -> None:
    """Why they are refused: transformers follows the name out of the folder."""
    folder, other = copy_of("text"), copy_of("export")
    path = folder / "tokenizer_config.json"
    changes = {"tokenizer_file": str(other / "tokenizer.json")}
    own = len(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert len(AutoTokenizer.from_pretrained(folder, local_files_only=True)) > own

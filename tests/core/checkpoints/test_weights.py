"""Weight files: none of them can run code, and what is damaged or foreign is named."""

import contextlib
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.fixtures import release
from tinywave_core.checkpoints.weights import load_entries, load_strictly, state_dict, without_weight_norm
from tinywave_core.encoders.hubert import load_release, load_transformers
from tinywave_core.encoders.style import load_style_encoder
from tinywave_core.errors import CheckpointError
from tinywave_core.models.llama import load_llama
from tinywave_core.synthesis.hifigan import HifiganVocoder
from tinywave_core.tokenizers.fcpe import Fcpe
from tinywave_core.tokenizers.quantizers import load_quantizer, quantizer_units
from tinywave_core.tokenizers.vqvae import PitchCodes

SPEECH = Path("speech_tokenizer")
MODEL = Path("spiritlm_model/spirit-lm-expressive-7b")


class Opened(NamedTuple):
    """A file of weights, what opens it, and the entry that holds its tensors (None: the file is nothing else)."""

    path: Path
    load: Callable[[Path], Any]
    entry: str | None


OPENED = {
    "hubert": Opened(SPEECH / "hubert_25hz/mhubert_base_25hz.pt", load_release, "model_weight"),
    "quantizer": Opened(
        SPEECH / "hubert_25hz/L11_quantizer_500.pt", lambda path: load_quantizer(path, 32), "model_weight"
    ),
    "pitch codes": Opened(SPEECH / "vqvae_f0_quantizer/model.pt", lambda path: PitchCodes.load(path.parent), "model"),
    "style": Opened(
        SPEECH / "style_encoder_w2v2/pytorch_model.bin", lambda path: load_style_encoder(path.parent), None
    ),
    "vocoder": Opened(
        SPEECH / "hifigan_spiritlm_base/generator.pt", lambda path: HifiganVocoder.load(path.parent), "generator"
    ),
    "language model": Opened(MODEL / "pytorch_model.bin", lambda path: load_llama(path.parent), None),
    "HubertModel directory": Opened(
        Path("hubert_directory/pytorch_model.bin"), lambda path: load_transformers(path.parent), None
    ),
    "fcpe": Opened(Path("fcpe/model.pt"), Fcpe.load, "model"),
}
UNITS = {"count of units": Opened(OPENED["quantizer"].path, quantizer_units, None)}
ENTRY_POINTS = OPENED | UNITS | {"entries": Opened(OPENED["hubert"].path, load_entries, None)}


class Canary:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def save_zip(value: Any, path: Path) -> None:
    torch.save(value, path)


def save_old(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


SAVED = {"torch": save_zip, "torch before 1.6": save_old, "pickle": save_pickle}


@pytest.fixture(scope="module")
def whole(small_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of file in OPENED."""
    root = tmp_path_factory.mktemp("whole")
    for opened in OPENED.values():
        if (small_release / opened.path).exists():
            shutil.copytree(small_release / opened.path.parent, root / opened.path.parent, dirs_exist_ok=True)
    release.write_hubert_directory(root / "hubert_directory", release.small_hubert(), safetensors=False)
    release.write_small_fcpe(root / OPENED["fcpe"].path)
    return root


def copied(whole: Path, opened: Opened, folder: Path) -> Path:
    """The file of weights in a copy of its folder."""
    return shutil.copytree(whole / opened.path.parent, folder / opened.path.parent.name) / opened.path.name


# Nothing is unpickled --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", SAVED.values(), ids=SAVED)
def test_canary_appears_where_a_file_is_unpickled(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    save({"x": Canary(tmp_path / "canary")}, tmp_path / "file.pt")
    if save is save_pickle:
        pickle.loads((tmp_path / "file.pt").read_bytes())
    else:
        torch.load(tmp_path / "file.pt", weights_only=False)
    assert (tmp_path / "canary").is_dir()


@pytest.mark.parametrize("save", SAVED.values(), ids=SAVED)
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_file_that_would_run_code_is_refused_and_runs_none(
    whole: Path, tmp_path: Path, name: str, save: Callable[[Any, Path], None]
) -> None:
    opened = ENTRY_POINTS[name]
    path = copied(whole, opened, tmp_path)
    entries = torch.load(path, weights_only=True)
    save({"x": Canary(tmp_path / "canary"), **entries}, path)
    with pytest.raises(CheckpointError, match=path.name):
        opened.load(path)
    assert not (tmp_path / "canary").exists()


def test_refusal_says_that_the_file_can_run_code_and_what_it_would_call(tmp_path: Path) -> None:
    torch.save({"x": Canary(tmp_path / "canary")}, tmp_path / "model.pt")
    with pytest.raises(
        CheckpointError, match=r"model\.pt holds more than tensors .*\(\w+\.mkdir\), and is not opened.* can run code"
    ):
        load_entries(tmp_path / "model.pt")


def test_yaml_that_would_run_code_is_refused_and_runs_none(whole: Path, tmp_path: Path) -> None:
    path = copied(whole, OPENED["pitch codes"], tmp_path)
    canary = tmp_path / "canary"
    path.with_name("config.yaml").write_text(f"!!python/object/apply:os.mkdir ['{canary}']\n")
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        PitchCodes.load(path.parent)
    assert not canary.exists()


# Damaged and foreign files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPENED)
def test_whole_file_is_opened(whole: Path, name: str) -> None:
    opened = OPENED[name]
    assert opened.load(whole / opened.path) is not None


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def without_its_last_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>Sign in</title>")


def noise(path: Path) -> None:
    path.write_bytes(torch.randint(256, (4096,), generator=torch.Generator().manual_seed(0)).byte().numpy().tobytes())


def list_of_tensors(path: Path) -> None:
    torch.save([torch.zeros(3)], path)


def other_tensors(path: Path) -> None:
    torch.save({"a.weight": torch.zeros(3, 2)}, path)


def numbered_tensors(path: Path) -> None:
    torch.save({0: torch.zeros(3, 2)}, path)


DAMAGES = (truncated, without_its_last_byte, empty, web_page, noise, list_of_tensors, other_tensors, numbered_tensors)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", OPENED | UNITS)
def test_damaged_or_foreign_file_is_named(
    whole: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    opened = (OPENED | UNITS)[name]
    path = copied(whole, opened, tmp_path)
    damage(path)
    # transformers names the folder where the file was whole.
    with pytest.raises(CheckpointError, match=path.parent.name if name == "language model" else path.name):
        opened.load(path)


@pytest.mark.parametrize("name", OPENED)
def test_missing_file_is_named(whole: Path, tmp_path: Path, name: str) -> None:
    path = copied(whole, OPENED[name], tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=path.name):
        OPENED[name].load(path)


def lose_one(weights: dict[str, Any], key: str) -> None:
    del weights[key]


def add_one(weights: dict[str, Any], key: str) -> None:
    weights[f"{key}.stranger"] = weights[key]


def cut_one(weights: dict[str, Any], key: str) -> None:
    weights[key] = weights[key][:-1].clone()


def turn_one_into_a_list(weights: dict[str, Any], key: str) -> None:
    weights[key] = weights[key].tolist()


@pytest.mark.parametrize("change", [lose_one, add_one, cut_one, turn_one_into_a_list], ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", OPENED)
def test_tensor_that_is_lost_too_much_or_of_another_size_is_a_fault(
    whole: Path, tmp_path: Path, name: str, change: Callable[[dict[str, Any], str], None]
) -> None:
    opened = OPENED[name]
    path = copied(whole, opened, tmp_path)
    entries = torch.load(path, weights_only=True)
    weights = entries if opened.entry is None else entries[opened.entry]
    key = next(k for k in weights if k.endswith(("bias", "q_proj.weight")) and "decoder" not in k)
    change(weights, key)
    torch.save(entries, path)
    with pytest.raises(CheckpointError, match=path.parent.name if name == "language model" else path.name):
        opened.load(path)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Saved once: the old format writes addresses in memory, so that two files of one value differ in length."""
    folder = tmp_path_factory.mktemp("whole")
    for save in (save_zip, save_old):
        save({"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "sizes": [1, 2]}, folder / save.__name__)
    return [(folder / name).read_bytes() for name in ("save_zip", "save_old")]


@settings(max_examples=150)
@given(data=st.data())
def test_no_damage_ends_in_another_error(whole_files: list[bytes], tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "fuzzed.pt"
    content = bytearray(data.draw(st.sampled_from(whole_files)))
    for place in data.draw(st.lists(st.integers(0, min(len(content), 600) - 1), min_size=1, max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(CheckpointError):
        assert isinstance(load_entries(path), dict)


@pytest.mark.parametrize("content", [b"", b"\x08", b"\xff" * 64, (2).to_bytes(8, "little") + b"[]"])
def test_safetensors_file_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors .* cannot be read"):
        load_entries(tmp_path / "model.safetensors")


# Tensors into modules --------------------------------------------------------------------------------------------------


def test_every_fault_of_a_checkpoint_is_counted_with_an_example() -> None:
    weights = {"weight": torch.zeros(3, 3), "gamma": torch.zeros(1), "beta": torch.zeros(1)}
    with pytest.raises(
        CheckpointError,
        match=r"a\.pt is a checkpoint of another architecture: tensors 1 missing, such as bias; "
        r"2 that this architecture does not have, such as beta; 1 of another shape: weight is \[3, 3\], expected \[3, 2\]",
    ):
        load_strictly(torch.nn.Linear(2, 3), weights, Path("a.pt"))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_halves_become_the_modules_own_numbers(device: str) -> None:
    module = torch.nn.Linear(2, 3, device=device)
    weights = {"weight": torch.full((3, 2), 0.5, dtype=torch.bfloat16), "bias": torch.ones(3, dtype=torch.float16)}
    load_strictly(module, weights, Path("a.pt"))
    assert module(torch.ones(1, 2)).tolist() == [[2.0, 2.0, 2.0]]
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_renamed_to_none_is_left_out() -> None:
    module = torch.nn.Linear(1, 1)
    weights = {"layer.weight": torch.ones(1, 1), "layer.bias": torch.ones(1), "head": torch.ones(5)}
    load_strictly(module, weights, Path("a.pt"), lambda key: None if key == "head" else key.removeprefix("layer."))
    assert module.weight.item() == module.bias.item() == 1


@pytest.mark.parametrize("dimension", [0, 2])
def test_weight_norm_is_the_direction_at_the_length_that_is_given(dimension: int) -> None:
    direction = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1))
    others = [axis for axis in range(3) if axis != dimension]
    gain = torch.arange(1.0, direction.shape[dimension] + 1).reshape([-1 if a == dimension else 1 for a in range(3)])
    weights = {"conv.weight_g": gain, "conv.weight_v": direction, "conv.bias": torch.zeros(4)}
    folded = without_weight_norm(weights, Path("a.pt"), dimension)
    assert folded.keys() == {"conv.weight", "conv.bias"}
    torch.testing.assert_close(folded["conv.weight"], gain * direction / direction.norm(dim=others, keepdim=True))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"c.weight_g": torch.ones(4, 1)}, r"a\.pt has c\.weight_g but no c\.weight_v"),
        ({"c.weight_g": torch.ones(1, 1), "c.weight_v": torch.ones(4, 2)}, r"a\.pt .*is \[1, 1\], expected \[4, 1\]"),
    ],
)
def test_weight_norm_that_is_no_pair_is_a_fault(weights: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        without_weight_norm(weights, Path("a.pt"))


@pytest.mark.parametrize("entries", [{}, {"model": 3}, {"model": {"a": 3}}, {"model": {3: torch.ones(1)}}])
def test_state_dict_of_another_kind_is_named(entries: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"a\.pt has no weights under 'model' \(found (nothing|model)\)"):
        state_dict(entries, "model", Path("a.pt"))


def test_safetensors_and_torch_files_hold_the_same(tmp_path: Path) -> None:
    weights = {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.bfloat16)}
    save_file(weights, tmp_path / "a.safetensors")
    save_old(weights, tmp_path / "a.bin")
    for found in (load_entries(tmp_path / "a.safetensors"), load_entries(tmp_path / "a.bin")):
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[key], weights[key]) and found[key].dtype == weights[key].dtype for key in weights)

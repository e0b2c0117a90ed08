"""HuBERT: the recorded activations and units, ways that agree, and batches that change nothing."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import HubertModel

from tests.fixtures import release
from tinywave_core.encoders.hubert import HubertEncoder, load_release, load_transformers
from tinywave_core.errors import CheckpointError
from tinywave_core.tokenizers.quantizers import Quantizer, load_quantizer

pytestmark = pytest.mark.arithmetic

FOLDER = Path("speech_tokenizer/hubert_25hz")
HUBERT, QUANTIZER = "mhubert_base_25hz.pt", "L11_quantizer_500.pt"


@pytest.fixture(scope="module")
def full_quantizer(full_release: Path) -> Quantizer:
    return load_quantizer(full_release / FOLDER / QUANTIZER, 768)


@pytest.fixture(scope="module")
def small_quantizer(small_release: Path) -> Quantizer:
    return load_quantizer(small_release / FOLDER / QUANTIZER, 32)


@pytest.fixture(
    scope="module", params=[True, pytest.param(False, marks=pytest.mark.one_machine)], ids=["safetensors", "bin"]
)
def directory(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small release's weights as transformers saves them."""
    folder = tmp_path_factory.mktemp("hubert")
    release.write_hubert_directory(folder, release.small_hubert(), safetensors=request.param)
    return folder


def assert_golden(clip: str, units: np.ndarray) -> None:
    recorded = release.UNITS["units"][clip]
    expected = [int(unit) for unit in recorded["hubert"].split()]
    assert len(units) == len(expected) == recorded["counts"]["hubert"]
    wrong = {i for i, (a, b) in enumerate(zip(units, expected, strict=True)) if a != b}
    assert wrong <= set(recorded["ignore_hubert"])


# The recorded outputs --------------------------------------------------------------------------------------------------


def test_full_size_gives_the_recorded_features_of_layer_11(full_hubert: HubertEncoder, speech: torch.Tensor) -> None:
    (features,) = full_hubert([speech])
    assert features.shape == (228, 768) and full_hubert.width == 768
    recorded = release.arrays()["act|layer_11"]
    np.testing.assert_allclose(features[release.UNITS["act_rows"]].numpy(), recorded, rtol=0, atol=2e-3)
    assert features.square().mean().sqrt().item() == pytest.approx(
        release.UNITS["units"][release.AUDIO.name]["feature_rms"], abs=1e-4
    )


def test_full_size_gives_the_recorded_units_of_each_clip_alone(
    full_hubert: HubertEncoder, full_quantizer: Quantizer, clips: dict[str, torch.Tensor]
) -> None:
    for name, clip in clips.items():
        assert_golden(name, full_quantizer(full_hubert([clip])[0]))


@pytest.mark.one_machine  # elsewhere: each clip alone, and a toy model in batches
def test_full_size_gives_the_recorded_units_in_one_padded_batch(
    full_hubert: HubertEncoder, full_quantizer: Quantizer, clips: dict[str, torch.Tensor]
) -> None:
    for name, features in zip(clips, full_hubert([*clips.values()]), strict=True):
        assert_golden(name, full_quantizer(features))


# On transformers, where fairseq2 has no wheel (infra/decisions/0024-platforms.md) ----------------------------------------


def without_fairseq2(path: Path) -> HubertEncoder:
    """The release's file as it is loaded where fairseq2 is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fairseq2", None)
        return load_release(path)


def test_release_runs_on_fairseq2_where_that_is_installed(small_hubert: HubertEncoder, small_release: Path) -> None:
    library = "fairseq2" if find_spec("fairseq2") else "transformers"
    assert type(small_hubert.body.encoder).__module__.startswith(f"{library}.")
    without = without_fairseq2(small_release / FOLDER / HUBERT)
    assert type(without.body.encoder).__module__.startswith("transformers.")


def test_full_size_gives_the_recorded_features_and_units_without_fairseq2(
    full_release: Path, full_quantizer: Quantizer, clips: dict[str, torch.Tensor]
) -> None:
    found = dict(zip(clips, without_fairseq2(full_release / FOLDER / HUBERT)([*clips.values()]), strict=True))
    for name, features in found.items():
        assert_golden(name, full_quantizer(features))
    whole = found[release.AUDIO.name][release.UNITS["act_rows"]].numpy()
    np.testing.assert_allclose(whole, release.arrays()["act|layer_11"], rtol=0, atol=2e-3)


# All ways --------------------------------------------------------------------------------------------------------------


def test_all_ways_give_the_same_features_and_units(
    small_hubert: HubertEncoder,
    small_release: Path,
    small_quantizer: Quantizer,
    directory: Path,
    clips: dict[str, torch.Tensor],
) -> None:
    for ported in (load_transformers(directory), without_fairseq2(small_release / FOLDER / HUBERT)):
        assert ported.width == small_hubert.width == 32
        for waves in ([*clips.values()], *([clip] for clip in clips.values())):
            for ours, theirs in zip(small_hubert(waves), ported(waves), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
                np.testing.assert_array_equal(small_quantizer(ours), small_quantizer(theirs))


@pytest.mark.parametrize("layer", [1, 10, 11, 12])
def test_layers_are_hidden_states_of_the_unmodified_model(
    small_release: Path, directory: Path, speech: torch.Tensor, layer: int
) -> None:
    model = HubertModel.from_pretrained(directory).eval()
    with torch.inference_mode():
        expected = model(speech[None], output_hidden_states=True).hidden_states[layer][0]
    for encoder in (load_transformers(directory, layer), load_release(small_release / FOLDER / HUBERT, layer)):
        torch.testing.assert_close(encoder([speech])[0], expected, rtol=0, atol=1e-4)


@pytest.mark.one_machine  # a difference of a tenth
def test_layers_differ_by_more_than_the_tolerance(small_release: Path, speech: torch.Tensor) -> None:
    path = small_release / FOLDER / HUBERT
    ten, eleven, twelve = (load_release(path, layer)([speech])[0] for layer in (10, 11, 12))
    assert (ten - eleven).abs().max() > 0.1 and (eleven - twelve).abs().max() > 0.1


@pytest.mark.one_machine  # about files
def test_file_without_the_layer_that_is_not_used_gives_the_same(
    small_hubert: HubertEncoder, small_release: Path, tmp_path: Path, speech: torch.Tensor
) -> None:
    entries = torch.load(small_release / FOLDER / HUBERT, weights_only=True)
    entries["model_cfg"]["encoder_layers"] = 11
    kept = {key: value for key, value in entries["model_weight"].items() if ".layers.11." not in key}
    assert len(kept) == 216 - 16
    torch.save(entries | {"model_weight": kept}, tmp_path / HUBERT)
    assert torch.equal(load_release(tmp_path / HUBERT)([speech])[0], small_hubert([speech])[0])


@pytest.mark.one_machine  # about files
def test_head_of_pretraining_is_passed_over(
    small_hubert: HubertEncoder, small_release: Path, tmp_path: Path, speech: torch.Tensor
) -> None:
    head = {
        "label_embs_concat": torch.ones(504, 16),
        "final_proj.weight": torch.ones(16, 32),
        "final_proj.bias": torch.ones(16),
    }
    assert torch.equal(changed(small_release, tmp_path, weights=head)([speech])[0], small_hubert([speech])[0])


@pytest.mark.one_machine  # about files
def test_directory_of_a_model_with_a_head_gives_the_same(directory: Path, tmp_path: Path, speech: torch.Tensor) -> None:
    weights = HubertModel.from_pretrained(directory).state_dict()
    headed = {f"hubert.{key}": value for key, value in weights.items()} | {"lm_head.weight": torch.ones(5, 32)}
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    torch.save(headed, tmp_path / "pytorch_model.bin")
    assert torch.equal(load_transformers(tmp_path)([speech])[0], load_transformers(directory)([speech])[0])


def test_directory_in_half_precision_is_computed_in_float32(
    directory: Path, tmp_path: Path, speech: torch.Tensor
) -> None:
    HubertModel.from_pretrained(directory, dtype=torch.float16).save_pretrained(tmp_path)
    (half,), (whole,) = load_transformers(tmp_path)([speech]), load_transformers(directory)([speech])
    assert half.dtype == torch.float32
    assert (half - whole).abs().mean() < 0.02


# Batches ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(data=st.data())
def test_features_and_units_do_not_depend_on_the_batch(
    small_hubert: HubertEncoder, small_quantizer: Quantizer, speech: torch.Tensor, data: st.DataObject
) -> None:
    waves = []
    for length in data.draw(st.lists(st.integers(1280, 50_000), min_size=2, max_size=5)):
        start = data.draw(st.integers(0, len(speech) - length))
        level = data.draw(st.sampled_from([0.0, 0.01, 1.0]))
        waves.append(level * speech[start : start + length])
    for wave, together in zip(waves, small_hubert(waves), strict=True):
        (alone,) = small_hubert([wave])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(small_quantizer(together), small_quantizer(alone))


def test_directory_does_not_depend_on_the_batch_either(directory: Path, clips: dict[str, torch.Tensor]) -> None:
    encoder = load_transformers(directory)
    for wave, together in zip(clips.values(), encoder([*clips.values()]), strict=True):
        torch.testing.assert_close(together, encoder([wave])[0], rtol=0, atol=1e-4)


@pytest.mark.one_machine  # the reference is not ours
def test_unmodified_model_does_depend_on_the_batch(directory: Path, clips: dict[str, torch.Tensor]) -> None:
    """Why it is not used as it is."""
    model = HubertModel.from_pretrained(directory).eval()
    waves = [*clips.values()]
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    mask = torch.arange(padded.shape[1]) < torch.tensor([len(wave) for wave in waves])[:, None]
    with torch.inference_mode():
        together = model(padded, attention_mask=mask.long(), output_hidden_states=True).hidden_states[11][1]
        alone = model(waves[1][None], output_hidden_states=True).hidden_states[11][0]
    assert (together[: len(alone)] - alone).abs().max() > 0.1


def test_wave_without_a_frame_is_refused(small_hubert: HubertEncoder) -> None:
    assert len(small_hubert([torch.zeros(720)])[0]) == 1
    with pytest.raises(ValueError, match=r"a wave of 719 samples has no frame: expected at least 720"):
        small_hubert([torch.zeros(720), torch.zeros(719)])


# Other architectures ---------------------------------------------------------------------------------------------------


def changed(
    small_release: Path,
    folder: Path,
    *,
    model: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
    weights: dict[str, torch.Tensor] | None = None,
) -> HubertEncoder:
    """The release's file with other settings or more weights, loaded."""
    entries = torch.load(small_release / FOLDER / HUBERT, weights_only=True)
    more = {"model_cfg": model or {}, "task_cfg": task or {}, "model_weight": weights or {}}
    torch.save(entries | {name: entries[name] | extra for name, extra in more.items()}, folder / HUBERT)
    return load_release(folder / HUBERT)


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"extractor_mode": "layer_norm"}, r"model_cfg\.extractor_mode is 'layer_norm', expected 'default'"),
        ({"conv_bias": True}, r"model_cfg\.conv_bias is True, expected False"),
        ({"activation_fn": "relu"}, r"model_cfg\.activation_fn is 'relu', expected 'gelu'"),
        ({"layer_norm_first": True}, r"model_cfg\.layer_norm_first is True, expected False"),
        ({"conv_pos_batch_norm": False}, r"has a weight-normed position convolution"),
        (
            {"conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"},
            r"has a frame of 400 samples every 320 \(50 Hz\); expected HuBERT at 25 Hz, 720 samples every 640",
        ),
        ({"conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 5 + [(16,2,2)] * 2"}, r"a frame of 800 samples every 640"),
        ({"conv_feature_layers": "__import__('os').getcwd()"}, r"model_cfg cannot be read"),
        ({"conv_feature_layers": "[(16,10)]"}, r"model_cfg cannot be read"),
        ({"conv_feature_layers": None}, r"model_cfg cannot be read"),
        ({"encoder_layers": 10}, r"has 10 layers; units are made of layer 11"),
        ({"encoder_layers": "twelve"}, r"model_cfg cannot be read"),
        ({"encoder_embed_dim": 16}, r"checkpoint of another architecture: .*, expected \[64, 16"),
        ({"encoder_embed_dim": 64}, r"promises at least 20 layers of .*: a checkpoint of another architecture"),
        ({"encoder_attention_heads": 5}, r"a width of 32, which 5 heads and 4 groups .* do not divide"),
        ({"conv_pos_groups": 3}, r"a width of 32, which 4 heads and 3 groups .* do not divide"),
        ({"conv_pos": 64}, r"encoder\.embedding\.conv\.weight is \[32, 8, 128\], expected \[32, 8, 64\]"),
    ],
)
def test_config_of_another_model_is_refused(
    small_release: Path, tmp_path: Path, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"mhubert_base_25hz\.pt.*{message}"):
        changed(small_release, tmp_path, model=model)


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize("task", [{"normalize": True}, {"sample_rate": 8000}])
def test_wave_that_would_be_normalised_or_of_another_rate_is_refused(
    small_release: Path, tmp_path: Path, task: dict[str, Any]
) -> None:
    with pytest.raises(
        CheckpointError, match=r"task_cfg has normalize (True|False) and sample_rate .*; expected False and"
    ):
        changed(small_release, tmp_path, task=task)


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize("name", ["model_cfg", "task_cfg"])
def test_file_without_its_configs_is_refused(small_release: Path, tmp_path: Path, name: str) -> None:
    entries = torch.load(small_release / FOLDER / HUBERT, weights_only=True)
    del entries[name]
    torch.save(entries, tmp_path / HUBERT)
    with pytest.raises(CheckpointError, match=r"has no model_cfg and task_cfg \(found dictionaries_symbols, "):
        load_release(tmp_path / HUBERT)


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feat_extract_norm": "layer"}, r"feat_extract_norm 'layer', expected 'group'"),
        ({"feat_extract_activation": "relu"}, r"feat_extract_activation 'relu', expected 'gelu'"),
        ({"conv_bias": True}, r"conv_bias True, expected False"),
        ({"do_stable_layer_norm": True}, r"do_stable_layer_norm True, expected False"),
        ({"conv_pos_batch_norm": False}, r"has a weight-normed position convolution"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 2, 1]}, r"a frame of \d+ samples every 320 \(50 Hz\)"),
        ({"num_hidden_layers": 10}, r"has 10 layers; units are made of layer 11"),
        ({"intermediate_size": 128}, r"model\.safetensors is a checkpoint of another architecture"),
        ({"num_attention_heads": 5}, r"which 5 heads"),
        ({"conv_dim": [16]}, r"config\.json cannot be read as the config of a HubertModel"),
    ],
)
def test_directory_of_another_model_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    release.write_hubert_directory(tmp_path / "hubert", release.small_hubert())
    path = tmp_path / "hubert/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        load_transformers(path.parent)


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize("content", ["", "{", "[]", "3", '"hubert"'])
def test_directory_with_a_foreign_config_is_refused(directory: Path, tmp_path: Path, content: str) -> None:
    folder = shutil.copytree(directory, tmp_path / "hubert")
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read as the config of a HubertModel"):
        load_transformers(folder)


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize(
    ("kept", "message"),
    [(("config.json",), r"has neither model\.safetensors nor pytorch_model\.bin"), ((), r"has no config\.json")],
)
def test_directory_that_is_not_whole_is_named(
    directory: Path, tmp_path: Path, kept: tuple[str, ...], message: str
) -> None:
    for name in kept:
        shutil.copy(directory / name, tmp_path / name)
    with pytest.raises(CheckpointError, match=message):
        load_transformers(tmp_path)

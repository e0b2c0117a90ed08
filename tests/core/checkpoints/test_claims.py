"""Sizes that files of a model claim are held against what lies there before anything is built from them."""

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sentencepiece import sentencepiece_model_pb2
from torch.nn.modules.module import register_module_parameter_registration_hook

from tests.fixtures import release
from tests.fixtures.model_folders import KINDS
from tinywave_core.checkpoints.gguf_header import MOST_ITEMS, fault_of_gguf
from tinywave_core.checkpoints.pieces import LONGEST_PIECE, MOST_PIECES, fault_of_pieces
from tinywave_core.checkpoints.weights import load_entries
from tinywave_core.encoders.hubert import _conv_layers
from tinywave_core.errors import CheckpointError, TinyWaveError
from tinywave_core.runtimes.gguf_file import GgufFile
from tinywave_core.tokenizers.directory import load_tokenizer, open_fast, read_directory

Copy = Callable[[str], Path]


@pytest.fixture
def nothing_is_built() -> Iterator[None]:
    def refuse(module: torch.nn.Module, name: str, _: object) -> None:
        raise AssertionError(f"{name} of a {type(module).__name__} was built")

    handle = register_module_parameter_registration_hook(refuse)
    yield
    handle.remove()


# Parts of the release ----------------------------------------------------------------------------------------------------

HUGE = 10**7
ABSURD: dict[str, list[tuple[str, Any]]] = {
    "hubert": [
        ("model_cfg.encoder_layers", HUGE),
        ("model_cfg.encoder_layers", 10**5000),
        ("model_cfg.encoder_embed_dim", HUGE),
        ("model_cfg.encoder_ffn_embed_dim", HUGE),
        ("model_cfg.conv_pos", 10**10),
        ("model_cfg.encoder_attention_heads", 0),
        ("model_cfg.conv_pos_groups", 0),
        ("model_cfg.conv_feature_layers", "[(1000000,10,5)] + [(1000000,3,2)] * 4 + [(16,2,2)] * 3"),
        ("model_cfg.conv_feature_layers", "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 3 + [(16,1,1)] * 10000000"),
        ("model_cfg.conv_feature_layers", "[(16,10,5)]" + " + [(16,1,1)]" * 10_000),
        ("model_cfg.conv_feature_layers", "[(16,10,-5)] + [(16,3,2)] * 4 + [(16,2,2)] * 3"),
        ("model_cfg.conv_feature_layers", "(" * 3000),
        ("model_cfg.conv_feature_layers", "'a' * 10000000000"),
    ],
    "quantizer": [(f"model_cfg.{name}", size) for name in ("vocab_size", "upstream_dim") for size in (HUGE, 10**5000)],
    "fcpe": [
        ("config_dict.model.hidden_dims", 8 * HUGE),
        ("config_dict.model.hidden_dims", 10),
        ("config_dict.model.n_layers", HUGE),
        ("config_dict.model.out_dims", 10**10),
        ("config_dict.model.out_dims", 10**5000),
    ],
    "pitch": [
        ("encoder_params.width", HUGE),
        ("encoder_params.depth", HUGE),
        ("encoder_params.downs_t", [HUGE]),
        ("encoder_params.strides_t", [2 * HUGE]),
        ("encoder_params.m_conv", 1e9),
        ("encoder_params.m_conv", 1e-9),
        ("encoder_params.m_conv", float("inf")),
        ("encoder_params.m_conv", float("nan")),
        ("encoder_params.dilation_growth_rate", HUGE),
        ("vq_params.l_bins", 10**10),
    ],
    "whisper": [(name, HUGE) for name in ("feature_size", "n_fft", "hop_length", "chunk_length", "sampling_rate")],
    "vocoder": [
        ("upsample_initial_channel", 2**40),
        ("upsample_rates", [2] * 1000),
        ("upsample_kernel_sizes", [11, 8, 8, 4, 10**9 * 4]),
        ("resblock_kernel_sizes", [3] * 1000),
        ("resblock_kernel_sizes", [3, 7, 10**9 + 1]),
        ("resblock_dilation_sizes", [[1] * 1000, [1], [1]]),
        ("resblock_dilation_sizes", [[1, 3, 10**9]] * 3),
        ("num_embeddings", 10**10),
        ("num_speakers", 10**10),
        ("num_f0_tokens", 10**10),
        ("num_style_tokens", 10**30),
        ("dur_predictor_params.var_pred_hidden_dim", HUGE),
        ("dur_predictor_params.var_pred_kernel_size", 10**9 + 1),
    ],
}
FILES = {
    "hubert": "mhubert_base_25hz.pt",
    "quantizer": "L11_quantizer_500.pt",
    "fcpe": "model.pt",
    "pitch": "config.yaml",
    "whisper": "preprocessor_config.json",
    "vocoder": "config.json",
}


def change(path: Path, name: str, value: Any) -> None:
    """Give the dotted name another value, in whatever form the file has."""
    read, write = {
        ".json": (lambda: json.loads(path.read_text()), lambda found: path.write_text(json.dumps(found))),
        ".yaml": (lambda: yaml.safe_load(path.read_text()), lambda found: path.write_text(yaml.safe_dump(found))),
        ".pt": (lambda: torch.load(path, weights_only=True), lambda found: torch.save(found, path)),
    }[path.suffix]
    found: Any = read()
    *parents, last = name.split(".")
    within = found
    for parent in parents:
        within = within[parent]
    within[last] = value
    write(found)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [pytest.param(part, *each, id=f"{part} {each[0]}") for part, found in ABSURD.items() for each in found],
)
def test_a_part_of_the_release_that_claims_absurd_sizes_is_refused_unbuilt(
    copy_of: Copy, part: str, name: str, value: Any, request: pytest.FixtureRequest
) -> None:
    if part != "whisper":  # whose model is built before what hears for it
        request.getfixturevalue("nothing_is_built")
    folder = copy_of("hubert" if part == "quantizer" else part)
    if part == "quantizer":
        (folder / FILES["hubert"]).unlink()
    change(folder / FILES[part], name, value)
    with pytest.raises(CheckpointError, match=rf"{FILES[part]}"):
        release_quantizer(folder) if part == "quantizer" else KINDS[part].open(folder)


def release_quantizer(folder: Path) -> Any:
    from tinywave_core.tokenizers.quantizers import load_quantizer

    return load_quantizer(folder / FILES["quantizer"], 32)


def test_the_promised_sizes_of_the_real_release_fit_its_tensors() -> None:
    """The bounds are lower bounds: at the released sizes they let everything pass."""
    from tinywave_core.encoders.hubert import _release_shape
    from tinywave_core.synthesis.hifigan_model import HifiganConfig

    def held(recipe: Any) -> int:
        return sum(torch.Size(shape).numel() for shape in recipe["shapes"].values())

    hubert = release.CHECKPOINTS["hubert"]
    assert _release_shape(hubert, Path("x")).parameters(11) <= held(hubert)
    vocoder = release.PARTS["hifigan"]["base"]
    assert HifiganConfig.model_validate(vocoder["config"]).sizes()[1] <= held(vocoder)


def test_yaml_of_any_depth_or_size_is_named(copy_of: Copy) -> None:
    path = copy_of("pitch") / "config.yaml"
    laughs = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghijklmno", "bcdefghijklmnop", strict=True)
    )
    for text in ("[" * 5000, "a: 2000-99-99", "? [1]\n: 2", "\x00", laughs + "features: *p", " " * ((1 << 20) + 1)):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.yaml"):
            KINDS["pitch"].open(path.parent)


def test_lists_that_hold_each_other_are_neither_walked_nor_written_out(copy_of: Copy) -> None:
    nested: Any = [1]
    for _ in range(90):
        nested = [nested, nested]
    for part, name in (
        ("fcpe", "config_dict.mel.sr"),
        ("hubert", "model_cfg.conv_bias"),
        ("hubert", "task_cfg.normalize"),
    ):
        path = copy_of(part) / FILES[part]
        change(path, name, nested)
        with pytest.raises(CheckpointError, match=rf"{path.name}.*\[\["):
            KINDS[part].open(path.parent)
        shutil.rmtree(path.parent)


@pytest.mark.parametrize(
    "value", [torch.eye(2).to_sparse(), torch.eye(2, dtype=torch.complex64), torch.eye(2, device="meta")]
)
def test_tensors_without_plain_numbers_are_refused(tmp_path: Path, value: torch.Tensor) -> None:
    torch.save({"a": value}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt .* cannot be read"):
        load_entries(tmp_path / "model.pt")


@pytest.mark.parametrize("times", ["65", "10**3", "1.5", "True", "-'a'"])
def test_a_list_of_convolutions_is_multiplied_by_small_numbers_only(times: str) -> None:
    assert len(_conv_layers("[(512,10,5)] + [(512,3,2)] * 4")) == 5
    with pytest.raises((ValueError, TypeError)):
        _conv_layers(f"[(512,3,2)] * {times}")


# GGUF ----------------------------------------------------------------------------------------------------------------------


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def header(keys: bytes = b"", tensors: bytes = b"", counts: tuple[int, int] = (0, 0), version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + keys + tensors + bytes(64)


def tensor(sizes: list[int], offset: int = 0, kind: int = 0, dimensions: int | None = None) -> bytes:
    claimed = len(sizes) if dimensions is None else dimensions
    return text(b"t") + struct.pack(f"<I{len(sizes)}QIQ", claimed, *sizes, kind, offset)


ARRAY, STRING, UINT32 = struct.pack("<I", 9), struct.pack("<I", 8), struct.pack("<I", 4)
BAD_HEADERS = {
    "more tensors than there are": (header(counts=(2**63, 0)), r"a list of 9,223,372,036,854,775,808 entries"),
    "more keys than there are": (header(counts=(0, 2**64 - 1)), "a list of 18,446,744,073,709,551,615 entries"),
    "tensors that end soon": (header(counts=(1000, 0)), "a part that would end at byte"),
    "a long name": (header(text(b"k", 2**60), counts=(0, 1)), r"a part that would end at byte 1,152,921,504,606,8"),
    "a long value": (header(text(b"k") + STRING + text(b"v", 2**62), counts=(0, 1)), "a part that would end"),
    "a long list": (header(text(b"k") + ARRAY + UINT32 + struct.pack("<Q", 2**60), counts=(0, 1)), "a list of 1,152,"),
    "a list of nothing": (
        header(text(b"k") + ARRAY + UINT32 + struct.pack("<Q", MOST_ITEMS - 1), counts=(0, 1)),
        "would end",
    ),
    "a list of strings": (
        header(text(b"k") + ARRAY + STRING + struct.pack("<Q", 2**40), counts=(0, 1)),
        "a list of 1,099,",
    ),
    "a list of lists": (
        header(text(b"k") + (ARRAY + ARRAY + struct.pack("<Q", 1)) * 9, counts=(0, 1)),
        "a value of type 9",
    ),
    "a type of its own": (header(text(b"k") + struct.pack("<I", 77), counts=(0, 1)), "a value of type 77"),
    "many dimensions": (header(tensors=tensor([], dimensions=2**31), counts=(1, 0)), "2,147,483,648 dimensions"),
    "a large tensor": (header(tensors=tensor([2**40, 2**20]), counts=(1, 0)), "tensors up to byte 4,611,686,018,427"),
    "sizes beyond 64 bits": (header(tensors=tensor([2**63, 2**63]), counts=(1, 0)), "tensors up to byte"),
    "a tensor far away": (header(tensors=tensor([1], offset=2**50), counts=(1, 0)), "tensors up to byte 1,125,899,"),
    "a part of a block": (header(tensors=tensor([31], kind=8), counts=(1, 0)), "a row of 31 numbers in blocks of 32"),
    "an unknown form": (header(tensors=tensor([1], kind=999), counts=(1, 0)), "999 is not a valid"),
    "no alignment": (
        header(text(b"general.alignment") + UINT32 + struct.pack("<I", 0), counts=(0, 1)),
        "an alignment of 0",
    ),
    "a huge alignment": (
        header(text(b"general.alignment") + UINT32 + struct.pack("<I", 1 << 31), counts=(0, 1)),
        "an alignment of 2147483648",
    ),
    "another version": (header(version=1), "version 1, expected 2 or 3"),
    "the other byte order": (header(version=3 << 24), "version 50331648, expected 2 or 3"),
    "nothing": (b"", "empty"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_a_gguf_header_that_claims_what_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    content, message = BAD_HEADERS[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.gguf is no GGUF file, or a truncated one \(.*{message}"):
        GgufFile.read(path)


def test_the_header_of_a_whole_gguf_file_is_right(all_folders: Path, tmp_path: Path) -> None:
    whole = all_folders / "export/tiny-q8_0.gguf"
    assert not fault_of_gguf(whole)
    (tmp_path / "shorter").write_bytes(whole.read_bytes()[:-33])
    assert "tensors up to byte" in fault_of_gguf(tmp_path / "shorter")
    (tmp_path / "empty").write_bytes(header())
    assert not fault_of_gguf(tmp_path / "empty")


KEYS: dict[str, tuple[str, int]] = {
    "blocks": ("llama.block_count", 2**31 - 1),
    "fewer blocks": ("llama.block_count", 1),
    "width": ("llama.embedding_length", 2**30),
    "feed-forward": ("llama.feed_forward_length", 2**30),
    "no heads": ("llama.attention.head_count", 0),
    "heads": ("llama.attention.head_count", 5),
    "no context": ("llama.context_length", 0),
    "context": ("llama.context_length", 2**32 - 1),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_a_gguf_file_that_its_tensors_do_not_bear_out_are_refused(copy_of: Copy, name: str) -> None:
    key, value = KEYS[name]
    path = copy_of("export") / "tiny-q8_0.gguf"
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(key.encode()) + len(key) + 4, value)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"tiny-q8_0\.gguf contradicts itself \(.*(llama\.|heads)"):
        GgufFile.read(path)


def test_lists_of_a_gguf_tokenizer_are_as_long_as_its_embedding(copy_of: Copy) -> None:
    """llama.cpp reads types and scores at the ids of all tokens, however long the lists are."""
    from gguf import GGUFReader, GGUFWriter

    path = copy_of("export") / "tiny-q8_0.gguf"
    reader: Any = GGUFReader(path)
    for name, changed in (
        ("token_type", [1] * 4),
        ("scores", [1.0] * 4),
        ("scores", [1] * 301),
        ("tokens", ["a"] * 300),
    ):
        writer: Any = GGUFWriter(path.with_name("new.gguf"), "llama")
        for key, field in reader.fields.items():
            if not key.startswith("GGUF.") and key not in ("general.architecture", f"tokenizer.ggml.{name}"):
                kind = field.types[0], field.types[1] if len(field.types) > 1 else None
                writer.add_key_value(key, field.contents(), *kind)
        writer.add_array(f"tokenizer.ggml.{name}", changed)
        for each in reader.tensors:
            writer.add_tensor(each.name, each.data, raw_dtype=each.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(
            CheckpointError, match=rf"contradicts itself \(tokenizer\.ggml\.{name} is no list of 301 [A-Z]"
        ):
            GgufFile.read(path.with_name("new.gguf"))


# sentencepiece -------------------------------------------------------------------------------------------------------------


def toy() -> Any:
    return sentencepiece_model_pb2.ModelProto.FromString(release.TOY_TOKENIZER.read_bytes())


def with_pieces(count: int) -> bytes:
    return release.TOY_TOKENIZER.read_bytes() + b"\x0a\x00" * count


def with_long_piece() -> bytes:
    model = toy()
    model.pieces[300].piece = "a" * (LONGEST_PIECE + 1)
    return bytes(model.SerializeToString())


def with_table(name: str) -> bytes:
    model = toy()
    getattr(model, name).precompiled_charsmap = b"\xff" * 64
    return bytes(model.SerializeToString())


BAD_PIECES = {
    "many pieces": (lambda: with_pieces(MOST_PIECES), "more than 524,288 pieces"),
    "a long piece": (with_long_piece, "a piece of 513 bytes, expected 512 at most"),
    "a table": (lambda: with_table("normalizer_spec"), "it normalises characters by a table"),
    "a table back": (lambda: with_table("denormalizer_spec"), "it normalises characters by a table"),
    "a length beyond the file": (
        lambda: b"\x0a\xff\xff\xff\xff\x7f",
        "a field of 34,359,738,367 bytes where 0 are left",
    ),
    "a length beyond its piece": (lambda: b"\x0a\x04\x0a\x7fab", "a field of 127 bytes where 2 are left"),
    "a number without end": (lambda: b"\x0a" + b"\xff" * 20, "a number of more than ten bytes"),
    "a group": (lambda: b"\x0b\x0b\x0b", "a field of kind 3"),
    "half a number": (lambda: b"\x0a\xff", "index out of range"),
}


@pytest.mark.parametrize("name", BAD_PIECES)
def test_a_tokenizer_model_that_claims_too_much_is_refused(copy_of: Copy, name: str) -> None:
    folder = copy_of("language model")
    make, message = BAD_PIECES[name]
    (folder / "tokenizer.model").write_bytes(make())
    slow = read_directory(release_folder(folder))
    assert slow.convention == "slow"
    with pytest.raises(
        CheckpointError, match=rf"tokenizer\.model is no sentencepiece model, or a truncated one \(.*{message}"
    ):
        read_directory(folder)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is no sentencepiece model"):
        load_tokenizer(folder, slow)


def release_folder(folder: Path) -> Path:
    """A whole one beside it."""
    whole = folder.parent / "whole"
    whole.mkdir()
    (whole / "config.json").write_text('{"vocab_size": 1280}')
    (whole / "tokenizer.model").write_bytes(release.TOY_TOKENIZER.read_bytes())
    return whole


def test_a_large_tokenizer_model_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.model").open("wb") as file:
        file.truncate(1 << 40)  # a hole: no byte of it is on the disk
    assert "1,099,511,627,776 bytes" in fault_of_pieces(tmp_path / "tokenizer.model")
    assert not fault_of_pieces(release.TOY_TOKENIZER)


# Vocabularies and fast tokenizers --------------------------------------------------------------------------------------------

WHOLE = {"text": 259, "hubert": 30, "pitch": 6, "style": 4, "padded": 0, "boundary": None}
BAD_VOCABULARIES: list[Any] = [
    *({**WHOLE, name: size} for name in WHOLE for size in (10**12, -1, 1.5, "1", True, [])),
    {**WHOLE, "boundary": 259},
    {**WHOLE, "own": 1},
    {"text": 259},
    [1],
    None,
]


@pytest.mark.parametrize("values", BAD_VOCABULARIES, ids=str)
def test_a_vocabulary_of_absurd_counts_is_refused(copy_of: Copy, values: Any) -> None:
    folder = copy_of("export")
    (folder / "vocabulary.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"vocabulary\.json: .*Copy the directory again"):
        read_directory(folder)


def test_a_tokenizer_json_that_is_damaged_deep_or_absurd_is_named(copy_of: Copy) -> None:
    path = copy_of("fast tokenizer") / "tokenizer.json"
    whole = path.read_text()
    about = json.loads(whole)
    nested: Any = about["normalizer"]
    for _ in range(2000):
        nested = {"type": "Sequence", "normalizers": [nested]}
    deep = {"type": "Sequence", "normalizers": []}
    bad = [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        whole[:-2].encode(),
        whole.replace('"BPE"', '"XYZ"').encode(),
        b"[" * 200_000,
        json.dumps(about | {"added_tokens": [{"id": -1}]}).encode(),
        json.dumps(about | {"model": about["model"] | {"merges": [["nothing", "known"]]}}).encode(),
        json.dumps(about).replace("null", "@", 1).replace("@", _nested(300, json.dumps(deep)), 1).encode(),
    ]
    for content in bad:
        path.write_bytes(content)
        for load in (open_fast, lambda path: read_directory(path.parent)):
            with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
                load(path)


def _nested(depth: int, inner: str) -> str:
    return '{"type": "Sequence", "normalizers": [' * depth + inner + "]}" * depth


def test_a_tokenizer_json_pads_and_cuts_nothing(copy_of: Copy) -> None:
    path = copy_of("fast tokenizer") / "tokenizer.json"
    about = json.loads(path.read_text())
    expected = open_fast(path).encode("the cat").ids
    padding = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"}
    cut = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(about | {"padding": padding, "truncation": cut}))
    assert open_fast(path).encode("the cat").ids == expected


def test_more_unit_tokens_than_rows_are_refused(copy_of: Copy) -> None:
    path = copy_of("fast tokenizer") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 700}))
    with pytest.raises(TinyWaveError, match=r"tokenizer\.json has 1,1\d\d tokens but the model has 700 rows only"):
        read_directory(path.parent)

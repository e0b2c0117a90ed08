"""SpiritLM's unit vocoder as a network: its config.json, its layers under the names of generator.pt, its receptive field.

Codes are embedded, joined with a speaker and a global style, and upsampled to samples by transposed convolutions with
residual blocks between them: HiFi-GAN (Kong et al. 2020) on units (Polyak et al. 2021), with a predictor of how many frames
a unit lasts (FastSpeech 2's, Ren et al. 2021).

Shapes: B rows of a batch, R rows of codes (units; pitch and style codes for expressive models), F frames of `code_hop_size` samples, N codes,
E `embedding_dim`, C channels, T time steps of a layer.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from tinywave_core.checkpoints.bounds import MOST_NUMBER, read_json
from tinywave_core.errors import CheckpointError
from tinywave_core.storage.schemas import SAMPLE_RATE

OUTER_KERNEL = 7  # of the first and the last convolution
SLOPE = 0.1
LAST_SLOPE = 0.01  # PyTorch's default, before the last convolution
MOST_LAYERS = 16  # in one list of a config; SpiritLM's have five
Size = Annotated[int, Field(gt=0, lt=MOST_NUMBER)]
Dilation = Annotated[
    int, Field(gt=0, le=1 << 12)
]  # tensors do not show it, and memory grows with it; SpiritLM's are 1, 3 and 5


class DurationConfig(BaseModel):
    """Sizes of the duration predictor."""

    model_config = ConfigDict(frozen=True)

    encoder_embed_dim: Size
    """Width of what it reads: that of the units' embedding."""
    var_pred_hidden_dim: Size
    var_pred_kernel_size: Size
    var_pred_dropout: float = 0.0
    """For training only."""


class HifiganConfig(BaseModel):
    """config.json beside generator.pt; fields that are not listed are for training and are passed over."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    upsample_rates: tuple[Size, ...] = Field(min_length=1, max_length=MOST_LAYERS)
    upsample_kernel_sizes: tuple[Size, ...] = Field(max_length=MOST_LAYERS)
    upsample_initial_channel: Size
    """Channels before the first upsampling; each one halves them."""
    resblock_kernel_sizes: tuple[Size, ...] = Field(min_length=1, max_length=MOST_LAYERS)
    resblock_dilation_sizes: tuple[Annotated[tuple[Dilation, ...], Field(max_length=MOST_LAYERS)], ...] = Field(
        max_length=MOST_LAYERS
    )
    num_embeddings: Size
    """Units there are."""
    embedding_dim: Size
    model_in_dim: Size | None = None
    """Channels of the input, all embeddings together; stated for checking."""
    sampling_rate: Size = SAMPLE_RATE
    code_hop_size: Size | None = None
    """Samples per unit: the product of the upsampling rates, stated for checking."""
    multispkr: str | bool | None = None
    """Whether there is a table of speakers; a released file has a word here that says where training found them."""
    num_speakers: Size = 200
    embedder_params: Any = None
    multistyle: str | bool | None = None
    """Whether there is a table of global styles (base models)."""
    num_styles: Size = 100
    num_f0_tokens: Size | None = None
    """Pitch codes there are (expressive models)."""
    f0_hop_size: Size | None = None
    """Samples per pitch code."""
    num_style_tokens: Size | None = None
    """Style codes there are (expressive models)."""
    style_hop_size: Size | None = None
    """Samples per style code."""
    dur_predictor_params: DurationConfig | None = None
    """None: the model cannot predict durations."""
    f0: bool | None = None
    f0_quant_num_bin: int | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read config.json; CheckpointError names the file, the field, what was found and what was expected."""
        try:
            return cls.model_validate(read_json(path))
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing: expected the vocoder's config.json there") from error
        except ValidationError as error:
            raise CheckpointError(f"{path} is not a config that this vocoder can follow: {_faults(error)}") from error
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} cannot be read as JSON ({error}): expected the vocoder's config.json"
            ) from error

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.upsample_rates)

    @property
    def code_counts(self) -> dict[str, int]:
        """How many codes there are of each kind that is read, in the order of the input channels."""
        counts = {"units": self.num_embeddings, "pitch": self.num_f0_tokens, "style": self.num_style_tokens}
        return {kind: count for kind, count in counts.items() if count}

    @property
    def frames_per_code(self) -> dict[str, int]:
        """Frames that a code of each kind covers when durations are not predicted."""
        hops = {"units": self.hop, "pitch": self.f0_hop_size, "style": self.style_hop_size}
        return {kind: round((hops[kind] or 0) / self.hop) for kind in self.code_counts}

    @property
    def context(self) -> tuple[int, int]:
        """Frames (before, after) a frame that its samples depend on."""
        (before, after), *_ = _reaches(self)
        return before + OUTER_KERNEL // 2, after + OUTER_KERNEL // 2

    @property
    def duration_context(self) -> int:
        """Codes on each side of a code that its duration depends on."""
        return self.dur_predictor_params.var_pred_kernel_size - 1 if self.dur_predictor_params else 0

    def sizes(self) -> tuple[int, int]:
        """Layers, and a lower bound of the parameters."""
        blocks = [
            (size, len(d)) for size, d in zip(self.resblock_kernel_sizes, self.resblock_dilation_sizes, strict=True)
        ]
        layers = len(self.upsample_rates) * (1 + 2 * sum(depth for _, depth in blocks))
        voices = self.num_speakers * bool(self.multispkr) + self.num_styles * bool(self.multistyle)
        channels = self.upsample_initial_channel
        parameters = self.embedding_dim * (sum(self.code_counts.values()) + voices + channels * OUTER_KERNEL)
        if durations := self.dur_predictor_params:
            hidden = durations.var_pred_hidden_dim
            parameters += hidden * durations.var_pred_kernel_size * (hidden + self.embedding_dim)
        for kernel in self.upsample_kernel_sizes:
            parameters += channels * (channels // 2) * kernel
            channels //= 2
            parameters += 2 * channels * channels * sum(size * depth for size, depth in blocks)
        return layers, parameters

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        faults = [*self._faults_of_layers(), *self._faults_of_inputs()]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _faults_of_layers(self) -> list[str]:
        rates, kernels, blocks = self.upsample_rates, self.upsample_kernel_sizes, self.resblock_kernel_sizes
        pairs_fit = all(
            kernel >= rate and (kernel - rate) % 2 == 0 for rate, kernel in zip(rates, kernels, strict=False)
        )
        checks = [
            (
                len(kernels) == len(rates) and pairs_fit,
                f"upsample_kernel_sizes {list(kernels)} do not fit upsample_rates {list(rates)}: expected one each, "
                "larger by an even number",
            ),
            (
                len(self.resblock_dilation_sizes) == len(blocks) and all(size % 2 for size in blocks),
                f"resblock_kernel_sizes {list(blocks)} with {len(self.resblock_dilation_sizes)} lists of dilations: "
                "expected odd sizes and a list for each",
            ),
            (
                self.upsample_initial_channel % 2 ** len(rates) == 0,
                f"upsample_initial_channel {self.upsample_initial_channel} cannot be halved {len(rates)} times",
            ),
            (
                self.code_hop_size in (None, self.hop),
                f"code_hop_size {self.code_hop_size}, but upsample_rates {list(rates)} make {self.hop} samples of a unit",
            ),
            (
                self.sampling_rate == SAMPLE_RATE,
                f"sampling_rate {self.sampling_rate}: expected 16000, the rate of all audio here",
            ),
        ]
        durations = self.dur_predictor_params
        if durations is not None:
            checks += [
                (
                    durations.encoder_embed_dim == self.embedding_dim,
                    f"dur_predictor_params.encoder_embed_dim {durations.encoder_embed_dim}: expected embedding_dim, "
                    f"{self.embedding_dim}",
                ),
                (
                    durations.var_pred_kernel_size % 2 == 1,
                    f"dur_predictor_params.var_pred_kernel_size {durations.var_pred_kernel_size}: expected an odd number",
                ),
            ]
        return [message for holds, message in checks if not holds]

    def _faults_of_inputs(self) -> list[str]:
        hop_fields = {"pitch": "f0_hop_size", "style": "style_hop_size"}
        faults = [
            f"{hop_fields[kind]} {getattr(self, hop_fields[kind])}: expected at least half of code_hop_size {self.hop}, "
            f"because there are {kind} codes"
            for kind, frames in self.frames_per_code.items()
            if kind in hop_fields and frames < 1
        ]
        if self.embedder_params:
            faults.append(
                "embedder_params: its voices come from an embedding network; expected a table of speakers (multispkr)"
            )
        width = self.embedding_dim * (len(self.code_counts) + bool(self.multispkr) + bool(self.multistyle))
        stated = self.model_in_dim or width
        wants_curve = bool(self.f0 or self.f0_quant_num_bin)
        if wants_curve and (self.num_f0_tokens is None or stated != width):
            faults.append(
                f"f0 {self.f0}, f0_quant_num_bin {self.f0_quant_num_bin}: it wants the F0 curve itself as input, which tokens "
                "do not carry; expected a vocoder of units (base) or with num_f0_tokens (expressive)"
            )
        elif stated != width:
            faults.append(
                f"model_in_dim {stated}, but {width // self.embedding_dim} inputs of embedding_dim {self.embedding_dim} "
                f"make {width}"
            )
        return faults


class HifiganNetwork(nn.Module):
    """Everything in generator.pt once weight norm is folded; `pitch_codes` and `style_codes` are our names."""

    def __init__(self, config: HifiganConfig) -> None:
        super().__init__()
        width, counts = config.embedding_dim, config.code_counts
        self.dict = nn.Embedding(counts["units"], width)
        self.pitch_codes = nn.Embedding(counts["pitch"], width) if "pitch" in counts else None
        self.style_codes = nn.Embedding(counts["style"], width) if "style" in counts else None
        self.spkr = nn.Embedding(config.num_speakers, width) if config.multispkr else None
        self.style = nn.Embedding(config.num_styles, width) if config.multistyle else None
        self.dur_predictor = _DurationPredictor(config.dur_predictor_params) if config.dur_predictor_params else None
        self.duration_dropout = config.dur_predictor_params.var_pred_dropout if config.dur_predictor_params else 0.0
        self.hop, self.rates, self.reaches = config.hop, config.upsample_rates, _reaches(config)[1:]
        channels = config.upsample_initial_channel
        in_channels = width * (len(counts) + bool(config.multispkr) + bool(config.multistyle))
        self.conv_pre = nn.Conv1d(in_channels, channels, OUTER_KERNEL, padding=OUTER_KERNEL // 2)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            padding = (kernel - rate) // 2
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding))
            channels //= 2
            for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(_ResidualBlock(channels, size, dilations))
        self.conv_post = nn.Conv1d(channels, 1, OUTER_KERNEL, padding=OUTER_KERNEL // 2)

    def forward(
        self, codes_RF: Tensor, speaker: int, global_style: int, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """Samples [(stop - start) · hop] of the frames from start to stop (the last one), which hear those around them.

        The speaker and style are not looked at where the model has no table of them.
        """
        stop = codes_RF.shape[1] if stop is None else stop
        voice, style = (torch.tensor([index], device=codes_RF.device) for index in (speaker, global_style))
        return self._upsample(self.inputs(codes_RF[None], voice, style), start, stop)[0]

    def speak(self, codes_BRF: Tensor, speakers_B: Tensor) -> Tensor:
        """Samples [B, F · hop] of whole clips, each in its voice, for training."""
        inputs_BCF = self.inputs(codes_BRF, speakers_B, torch.zeros_like(speakers_B))
        return self._upsample(inputs_BCF, 0, codes_BRF.shape[2])

    def inputs(self, codes_BRF: Tensor, speakers_B: Tensor, global_styles_B: Tensor) -> Tensor:
        """Channels [B, C, F] of the frames: units, pitch codes, style codes, speaker, global style."""
        tables = [table for table in (self.dict, self.pitch_codes, self.style_codes) if table is not None]
        channels = [table(codes_BF) for table, codes_BF in zip(tables, codes_BRF.unbind(1), strict=True)]
        for table, indices_B in ((self.spkr, speakers_B), (self.style, global_styles_B)):
            if table is not None:
                channels.append(table(indices_B)[:, None].expand(-1, codes_BRF.shape[2], -1))
        return torch.cat(channels, dim=2).transpose(1, 2)

    def frames_per_unit(self, units_N: Tensor) -> Tensor:
        """Predicted durations int64 [N], at least one frame each."""
        assert self.dur_predictor is not None
        log_N = self.dur_predictor(self.dict(units_N))
        return torch.round(log_N.exp() - 1).clamp(min=1).long()

    def _upsample(self, x_BCT: Tensor, start: int, stop: int) -> Tensor:
        """What no later level can hear of is dropped after each level: most of the context is for the first one."""
        x_BCT = self.conv_pre(x_BCT)
        blocks = len(self.resblocks) // len(self.ups)
        first = 0  # where x begins, in samples of its level, as start and stop are
        for level, (upsampling, rate, (before, after)) in enumerate(
            zip(self.ups, self.rates, self.reaches, strict=True)
        ):
            x_BCT = upsampling(F.leaky_relu(x_BCT, SLOPE))
            mixed = torch.zeros_like(x_BCT)
            for block in self.resblocks[blocks * level : blocks * (level + 1)]:
                mixed += block(x_BCT)
            first, start, stop = first * rate, start * rate, stop * rate
            needed_from = max(start - before, first)
            x_BCT = mixed[..., needed_from - first : stop + after - first] / blocks
            first = needed_from
        return torch.tanh(self.conv_post(F.leaky_relu(x_BCT, LAST_SLOPE)))[:, 0, start - first : stop - first]


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=kernel // 2 * dilation, dilation=dilation)
            for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in dilations)

    def forward(self, x_BCT: Tensor) -> Tensor:
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            x_BCT = x_BCT + plain(F.leaky_relu(dilated(F.leaky_relu(x_BCT, SLOPE)), SLOPE))
        return x_BCT


class _DurationPredictor(nn.Module):
    """Embeddings [N, E] -> log(1 + frames) [N], in double precision: a frame count must not hang on how codes are cut."""

    def __init__(self, config: DurationConfig) -> None:
        super().__init__()
        hidden, kernel = config.var_pred_hidden_dim, config.var_pred_kernel_size
        self.conv1 = nn.Sequential(nn.Conv1d(config.encoder_embed_dim, hidden, kernel, padding=kernel // 2), nn.ReLU())
        self.ln1 = nn.LayerNorm(hidden)
        self.conv2 = nn.Sequential(nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2), nn.ReLU())
        self.ln2 = nn.LayerNorm(hidden)
        self.proj = nn.Linear(hidden, 1)
        self.double()

    def forward(self, x_NE: Tensor) -> Tensor:
        x_NH = self.ln1(self.conv1(x_NE.double().T[None])[0].T)
        x_NH = self.ln2(self.conv2(x_NH.T[None])[0].T)
        return self.proj(x_NH)[:, 0]


def _reaches(config: HifiganConfig) -> list[tuple[int, int]]:
    """How many samples before and after its own a sample of the speech hears, of what goes into the first level and of what comes out
    of each: walked from the speech back, with the reach of every layer.

    A sample o of a transposed convolution comes from inputs (o + padding - kernel + 1) / rate to (o + padding) / rate.
    """
    blocks = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
    block = max(size // 2 * sum(dilation + 1 for dilation in dilations) for size, dilations in blocks)
    before = after = OUTER_KERNEL // 2
    reaches = [(before, after)]
    for rate, kernel in reversed([*zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)]):
        padding = (kernel - rate) // 2
        before = (before + block + kernel - 1 - padding) // rate
        after = (after + block + padding + rate - 1) // rate
        reaches.insert(0, (before, after))
    return reaches


def _faults(error: ValidationError) -> str:
    """Pydantic's findings in one line: field, what is wrong, what was found."""
    faults = []
    for fault in error.errors():
        field = ".".join(map(str, fault["loc"]))
        value = "" if fault["type"] == "missing" or not field else f", found {str(fault['input'])[:60]!r}"
        faults.append(f"{field}: {fault['msg']}{value}" if field else fault["msg"].removeprefix("Value error, "))
    return "; ".join(faults)

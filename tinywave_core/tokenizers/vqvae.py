"""F0 and voicing at 200 Hz -> SpiritLM's [Pi…] values at 12.5 Hz: the encoder and the codebook of its pitch VQ-VAE.

The folder of the release holds `model.pt` ({model: tensors}) and `config.yaml`, which says how F0 is normalised and how
the encoder is built; both are read, nothing is assumed. Architecture: strided convolutions with dilated residual units
(van den Oord et al. 2017; Polyak et al. 2021), then the nearest row of the codebook.

Shapes: F frames at 200 Hz, P codes, E values per codebook row, K rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import yaml
from torch import Tensor, nn

from tinywave_core.checkpoints.bounds import MOST_NUMBER, check_claims, shown
from tinywave_core.checkpoints.weights import load_entries, load_strictly, state_dict
from tinywave_core.errors import CheckpointError

# Whether F0 is interpolated is the extractor's business; what differs here is the mean.
FEATURES = ("f0_interp,vuv", "f0,vuv", "norm_f0_interp,vuv", "norm_f0,vuv")
CHANNELS = 2  # F0 and voicing
# Far more than the 59 lines of the release's.
MOST_YAML_BYTES = 1 << 20
MOST_REACH = 1 << 16  # frames; tensors do not show it, and memory grows with it


@dataclass(frozen=True)
class Architecture:
    """What `config.yaml` says of the encoder and the codebook."""

    removes_mean: bool
    """Whether the mean over the voiced frames is subtracted from F0."""
    downs: int
    """Strided convolutions."""
    stride: int
    """Of each of them."""
    width: int
    """Channels between them."""
    unit_width: int
    """Channels inside a residual unit."""
    depth: int
    """Residual units after each of them."""
    dilation_growth: int
    """Each unit reaches this many times farther than the one before."""
    code_width: int
    """E"""
    codes: int
    """K"""

    def sizes(self) -> tuple[int, int]:
        """Convolutions, and a lower bound of the parameters."""
        unit = self.width * self.unit_width * 4
        level = self.width * (2 * self.stride * CHANNELS) + self.depth * unit
        return self.downs * (1 + 2 * self.depth), self.downs * level + self.code_width * (3 * self.width + self.codes)


def code_count(folder: Path) -> int:
    """How many codes the release in a folder has, from its config alone."""
    return read_config(folder / "config.yaml").codes


class PitchCodes:
    """The encoder on one device. Calls share nothing that changes: threads may use one."""

    def __init__(self, network: "_Network", architecture: Architecture, device: torch.device) -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._architecture = architecture
        self._device = device

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """From `vqvae_f0_quantizer` of a release."""
        architecture = read_config(folder / "config.yaml")
        path = folder / "model.pt"
        weights = state_dict(load_entries(path), "model", path)
        check_claims(folder / "config.yaml", *architecture.sizes(), weights, path)
        network = _Network(architecture)
        load_strictly(network, weights, path, _renamed)
        return cls(network, architecture, torch.device(device))

    @property
    def codes(self) -> int:
        """How many codes there are."""
        return self._architecture.codes

    @property
    def stride(self) -> int:
        """Frames at 200 Hz per code."""
        return int(self._architecture.stride**self._architecture.downs)

    @torch.inference_mode()
    def encode(self, f0_hz: npt.NDArray[np.float32], voiced: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Codes [F // stride] of an F0 track [F]; one without a voiced frame is coded as it is."""
        if len(f0_hz) < self.stride:
            return np.zeros(0, np.int64)
        # In Hz, without logarithm or scale, because the codes were learnt so.
        f0 = _without_mean(f0_hz, voiced) if self._architecture.removes_mean else f0_hz
        frames_2F = torch.from_numpy(np.stack([f0, voiced]).astype(np.float32)).to(self._device)
        return self._network(frames_2F).cpu().numpy()


def read_config(path: Path) -> Architecture:
    """The fields that matter; CheckpointError names the file, the field, what was found and what was expected."""
    try:
        if (size := path.stat().st_size) > MOST_YAML_BYTES:
            raise ValueError(f"{size:,} bytes, expected {MOST_YAML_BYTES:,} at most")
        # Safe: other loaders make whatever Python objects a file names.
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({(str(error).splitlines() or [repr(error)])[0]}): expected the config.yaml of the release beside model.pt"
        ) from error
    fields = _Fields(config, path)
    code_width = fields.whole("encoder_params.output_emb_width")
    fields.one_of("encoder_params.input_emb_width", CHANNELS)
    fields.one_of("encoder_params.levels", 1)
    fields.one_of("vq_params.levels", 1)
    fields.one_of("vq_params.emb_width", code_width)
    # Both would change the residual units.
    fields.one_of("encoder_params.res_scale", None, False)
    fields.one_of("encoder_params.dilation_cycle", None)
    width = fields.whole("encoder_params.width")
    depth, growth = fields.whole("encoder_params.depth"), fields.whole("encoder_params.dilation_growth_rate", default=1)
    if growth ** min(depth - 1, MOST_REACH.bit_length()) > MOST_REACH:
        raise CheckpointError(
            f"{path}: dilation_growth_rate {growth:,} over a depth of {depth:,} reaches beyond {MOST_REACH:,} frames; "
            "other pitch encoders cannot be used"
        )
    if (unit_width := int(fields.positive("encoder_params.m_conv", default=1.0) * width)) < 1:
        raise CheckpointError(f"{path}: encoder_params.m_conv leaves no channel of {width:,}")
    return Architecture(
        # speaker_norm too means the chunk's mean: statistics of speakers are for a named speaker, and the tokenizer names none.
        removes_mean="norm_" in fields.one_of("features", *FEATURES) or bool(fields.get("speaker_norm")),
        downs=fields.of_one_level("encoder_params.downs_t", multiple_of=1),
        # With an odd one, the count of codes would not be F // stride.
        stride=fields.of_one_level("encoder_params.strides_t", multiple_of=2),
        width=width,
        unit_width=unit_width,
        depth=depth,
        dilation_growth=growth,
        code_width=code_width,
        codes=fields.whole("vq_params.l_bins"),
    )


class _Fields:
    """Dotted names into a config."""

    def __init__(self, config: Any, path: Path) -> None:
        self._config, self._path = config, path

    def get(self, name: str, default: Any = None) -> Any:
        found = self._config
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return default if found is None else found

    def one_of(self, name: str, *allowed: Any) -> Any:
        found = self.get(name)
        if found not in allowed:
            raise self._error(
                name, found, " or ".join("nothing" if value is None else repr(value) for value in allowed)
            )
        return found

    def whole(self, name: str, default: int | None = None) -> int:
        found = self.get(name, default)
        if type(found) is not int or not 0 < found < MOST_NUMBER:
            raise self._error(name, found, "a whole number above 0")
        return found

    def positive(self, name: str, default: float) -> float:
        found = self.get(name, default)
        if type(found) not in (int, float) or not 0 < found < MOST_NUMBER:
            raise self._error(name, found, "a number above 0")
        return float(found)

    def of_one_level(self, name: str, multiple_of: int) -> int:
        found = self.get(name)
        one = found[0] if isinstance(found, list) and len(found) == 1 else None
        if type(one) is not int or not 0 < one < MOST_NUMBER or one % multiple_of:
            kind = "even number" if multiple_of == 2 else "whole number"
            raise self._error(name, found, f"a list of one {kind} above 0, such as [{2 * multiple_of}]")
        return one

    def _error(self, name: str, found: Any, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path}: {name} is {'missing' if found is None else shown(found)}, expected {expected}; "
            "other pitch encoders cannot be used"
        )


class _Unit(nn.Sequential):
    """Residual unit over [channels, time]."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + super().forward(hidden)


class _Network(nn.Module):
    """F0 and voicing [2, F] -> codes [P]."""

    codebook_KE: Tensor

    def __init__(self, of: Architecture) -> None:
        super().__init__()
        levels = [_down(CHANNELS if level == 0 else of.width, of) for level in range(of.downs)]
        self.encoder = nn.Sequential(*levels, nn.Conv1d(of.width, of.code_width, 3, padding=1))
        self.register_buffer("codebook_KE", torch.empty(of.codes, of.code_width))

    def forward(self, frames_2F: Tensor) -> Tensor:
        encoded_PE = self.encoder(frames_2F[None])[0].T
        # The expanded form and the first of equal distances, as the codes were learnt.
        distance_PK = (
            encoded_PE.square().sum(dim=1, keepdim=True)
            - 2 * encoded_PE @ self.codebook_KE.T
            + self.codebook_KE.square().sum(dim=1)
        )
        return distance_PK.argmin(dim=1)


def _down(channels: int, of: Architecture) -> nn.Sequential:
    units = [
        _Unit(
            nn.ReLU(),
            nn.Conv1d(of.width, of.unit_width, 3, dilation=reach, padding=reach),
            nn.ReLU(),
            nn.Conv1d(of.unit_width, of.width, 1),
        )
        for reach in (of.dilation_growth**number for number in range(of.depth))
    ]
    strided = nn.Conv1d(channels, of.width, 2 * of.stride, of.stride, of.stride // 2)
    return nn.Sequential(strided, nn.Sequential(*units))


def _without_mean(f0_hz: npt.NDArray[np.float32], voiced: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    # SpiritLM's own extractor fails here. F0 is 0 then and stays so, and the chunk is counted in `unvoiced_chunks`.
    if not voiced.any():
        return f0_hz
    # Only where F0 is not 0: without interpolation 0 says that a frame is unvoiced.
    return np.where(f0_hz != 0, f0_hz - f0_hz[voiced].mean(), f0_hz)


def _renamed(key: str) -> str | None:
    """The file's name of a tensor -> ours; None for the decoder and for what only training needs of the codebook."""
    if key == "vq.level_blocks.0.k":
        return "codebook_KE"
    if key.startswith(("decoder.", "vq.level_blocks.0.")):
        return None
    # Residual stacks and units each wrap their layers in a `model`.
    return key.replace("encoder.level_blocks.0.model.", "encoder.").replace(".model.", ".")

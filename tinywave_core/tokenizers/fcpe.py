"""Waveform at 16 kHz -> F0 in Hz at 200 Hz by FCPE, as SpiritLM's pitch codes expect it.

Log-mel spectrogram, a convolutional network, 360 pitch probabilities per 10 ms; F0 is the weighted mean of the nine
bins around the best one. Unvoiced frames are interpolated, then every frame is stretched to twice the rate. The weights
are those in the wheel of torchfcpe (MIT, https://github.com/CNChTu/FCPE); its code is not imported.

Shapes: N samples, T frames at 100 Hz, F frames at 200 Hz, M mel bands, C channels, P pitch bins.
"""

import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from tinywave_core.checkpoints.bounds import MOST_NUMBER, check_claims, shown
from tinywave_core.checkpoints.weights import load_entries, load_strictly, state_dict, without_weight_norm
from tinywave_core.errors import CheckpointError
from tinywave_core.storage.schemas import SAMPLE_RATE

HOP_SAMPLES = 80  # of the result; the network's is twice that
NETWORK_HOP_SAMPLES = 160
WINDOW_SAMPLES = 1024
MEL_BANDS = 128
LOWEST_HZ, HIGHEST_HZ = 50.0, 1100.0
# SpiritLM's; the package's own default is 0.006.
THRESHOLD = 0.05
NEIGHBOURS = 4  # bins on either side of the best one
KERNEL_FRAMES = 31
GROUPS = 4
# Frames that a block works on at once: the memory between its layers (8 MB) is then reused instead of asked from the
# system anew. 100 s of speech: 2.3 s of CPU time against 2.7 s; probabilities differ by less than 1e-6.
FRAMES_AT_ONCE = 1000

_WEIGHTS = ("torchfcpe", "assets/fcpe_c_v001.pt")
# Weights for another mel spectrogram would fit the same layers and give another F0 without an error.
_EXPECTED: Mapping[str, Mapping[str, Any]] = {
    "mel": {
        "sr": SAMPLE_RATE,
        "num_mels": MEL_BANDS,
        "n_fft": WINDOW_SAMPLES,
        "win_size": WINDOW_SAMPLES,
        "hop_size": NETWORK_HOP_SAMPLES,
        "fmin": 0,
        "fmax": 8000,
    },
    "model": {"type": "CFNaiveMelPE", "conv_only": True},
}


@dataclass(frozen=True)
class F0Track:
    """What `Fcpe.f0_hz` finds, 200 times a second."""

    f0_hz: npt.NDArray[np.float32]
    """[F], interpolated where unvoiced; all zeros where nothing is voiced."""
    voiced: npt.NDArray[np.bool_]
    """[F]"""

    @property
    def any_voiced(self) -> bool:
        """Whether there is an F0 at all; silence has none."""
        return bool(self.voiced.any())


def frame_count(num_samples: int) -> int:
    """Frames at 200 Hz."""
    return num_samples // HOP_SAMPLES + 1


def weights_path() -> Path:
    """The file of weights in the installed wheel."""
    package, file = _WEIGHTS
    found = importlib.util.find_spec(package)  # looks it up without running it: its imports are not needed
    if found is None or not found.submodule_search_locations:
        raise CheckpointError(
            f"the weights of FCPE are missing: the package {package} is not installed. Expected {file} inside it; "
            f"pip install 'tinywave[spiritlm]', or give the path of the file"
        )
    return Path(found.submodule_search_locations[0]) / file


class Fcpe:
    """The network on one device. Calls share nothing that changes: threads may use one."""

    def __init__(self, network: "_Network", device: torch.device) -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device

    @classmethod
    def load(cls, path: Path | None = None, device: torch.device | str = "cpu") -> Self:
        """From a file of torchfcpe; without a path, the one in the installed wheel."""
        path = path or weights_path()
        entries = load_entries(path)
        weights = state_dict(entries, "model", path)
        config = _checked(entries.get("config_dict"), path)
        check_claims(path, config["n_layers"], _parameters(config), weights, path)
        network = _Network(config["hidden_dims"], config["n_layers"], config["out_dims"])
        load_strictly(network, _as_layers(without_weight_norm(weights, path)), path, _renamed)
        return cls(network, torch.device(device))

    @torch.inference_mode()
    def f0_hz(self, samples: npt.NDArray[np.float32]) -> F0Track:
        """F0 and voicing [F] of mono speech at 16 kHz, F = N // 80 + 1."""
        raw_T = self.raw_f0_hz(samples)
        voiced_T = raw_T >= LOWEST_HZ
        # The reference fails where no frame is voiced (an index error in its interpolation).
        f0_T = _interpolated(raw_T, voiced_T) if voiced_T.any() else torch.zeros_like(raw_T)
        # Order matters: FCPE interpolates, clips, and stretches to 200 Hz last; the pitch codes were learnt from that.
        both = torch.stack([f0_T.clamp(max=HIGHEST_HZ), voiced_T.float()])
        stretched = F.interpolate(both[None], size=frame_count(len(samples)), mode="nearest")[0].cpu().numpy()
        return F0Track(f0_hz=stretched[0], voiced=stretched[1] > 0)

    @torch.inference_mode()
    def raw_f0_hz(self, samples: npt.NDArray[np.float32]) -> Tensor:
        """F0 [T] at 100 Hz as the network has it, 0 where no bin is above the threshold."""
        probability_TP = self._network(log_mel(torch.tensor(samples, device=self._device)))
        return _decoded_hz(probability_TP, self._network.cent_table)


def log_mel(samples: Tensor) -> Tensor:
    """Log-mel spectrogram [T, M] of samples [N], T = N // 160 + 1."""
    left = (WINDOW_SAMPLES - NETWORK_HOP_SAMPLES) // 2
    right = max(left, WINDOW_SAMPLES - len(samples) - left)
    # Reflection needs more samples than it adds; FCPE pads shorter audio with zeros.
    mode = "reflect" if right < len(samples) else "constant"
    padded = F.pad(samples[None], (left, right), mode=mode)[0]
    window = torch.hann_window(WINDOW_SAMPLES, device=samples.device)
    spectrum = torch.stft(
        padded, WINDOW_SAMPLES, NETWORK_HOP_SAMPLES, window=window, center=False, return_complex=True
    ).T
    # 1e-9 and 1e-5 are FCPE's: its network has seen only spectrograms that were made with them.
    magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)
    mel_TM = torch.log((magnitude @ _mel_filters(samples.device)).clamp(min=1e-5))
    frames = len(samples) // NETWORK_HOP_SAMPLES + 1
    # Without centring a frame can be missing at the end: FCPE repeats the last one.
    return torch.cat([mel_TM, mel_TM[-1:]])[:frames]


class _Network(nn.Module):
    """Log-mel [T, M] -> pitch probabilities [T, P]."""

    cent_table: Tensor

    def __init__(self, channels: int, blocks: int, bins: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(MEL_BANDS, channels, 3, padding=1),
            nn.GroupNorm(GROUPS, channels),
            nn.LeakyReLU(),
            nn.Conv1d(channels, channels, 3, padding=1),
        )
        self.blocks = nn.ModuleList(_Block(channels) for _ in range(blocks))
        self.norm = nn.LayerNorm(channels)
        self.output_proj = nn.Linear(channels, bins)
        self.register_buffer("cent_table", torch.empty(bins))

    def forward(self, mel_TM: Tensor) -> Tensor:
        hidden_TC = self.stem(mel_TM.T[None])[0].T.contiguous()
        for block in self.blocks:
            hidden_TC = block(hidden_TC)
        return torch.sigmoid(self.output_proj(self.norm(hidden_TC)))


class _Block(nn.Module):
    """Residual block over [T, C]: widen, gate, one filter per channel over time, narrow.

    Channels stay last, so that the 1x1 convolutions are products of matrices. The filter over time is one over the height
    of a channels-last image: on 9 s of speech 4 ms of one core, against 22 ms with time last.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, 4 * channels)
        self.filter = nn.Conv2d(
            2 * channels, 2 * channels, (KERNEL_FRAMES, 1), padding=(KERNEL_FRAMES // 2, 0), groups=2 * channels
        )
        self.narrow = nn.Linear(2 * channels, channels)

    def forward(self, hidden_TC: Tensor) -> Tensor:
        reach = KERNEL_FRAMES // 2
        return torch.cat(
            [
                hidden_TC[start : start + FRAMES_AT_ONCE]
                + self._change(hidden_TC[max(start - reach, 0) : start + FRAMES_AT_ONCE + reach], min(start, reach))
                for start in range(0, len(hidden_TC), FRAMES_AT_ONCE)
            ]
        )

    def _change(self, hidden_TC: Tensor, before: int) -> Tensor:
        """What the block adds to FRAMES_AT_ONCE frames from frame `before` on; the others are its surroundings."""
        gated = F.glu(self.widen(self.norm(hidden_TC)), dim=-1)
        filtered = self.filter(gated[None, :, None].permute(0, 3, 1, 2))[0, :, :, 0].T
        return self.narrow(F.silu(filtered[before : before + FRAMES_AT_ONCE]))


def _decoded_hz(probability_TP: Tensor, cent_table_P: Tensor) -> Tensor:
    best_T1 = probability_TP.argmax(dim=-1, keepdim=True)
    around = torch.arange(-NEIGHBOURS, NEIGHBOURS + 1, device=best_T1.device)
    # At the ends of the table FCPE counts the outermost bin several times, which moves the mean; it must not be masked here.
    near = (best_T1 + around).clamp(0, len(cent_table_P) - 1)
    weight = probability_TP.gather(-1, near)
    cents_T = (cent_table_P[near] * weight).sum(dim=-1) / weight.sum(dim=-1)
    sure_T = probability_TP.gather(-1, best_T1)[:, 0] > THRESHOLD
    return torch.where(sure_T, 10.0 * 2 ** (cents_T / 1200.0), 0.0)


def _interpolated(f0_T: Tensor, voiced_T: Tensor) -> Tensor:
    """Straight lines between voiced frames; before the first and after the last one, their values."""
    frames_T = torch.arange(len(f0_T), device=f0_T.device)
    voiced_at = frames_T[voiced_T]
    left = voiced_at[(torch.searchsorted(voiced_at, frames_T, right=True) - 1).clamp(min=0)]
    right = voiced_at[torch.searchsorted(voiced_at, frames_T).clamp(max=len(voiced_at) - 1)]
    return f0_T[left] + (frames_T - left) * (f0_T[right] - f0_T[left]) / (right - left).clamp(min=1)


@functools.cache
def _mel_filters(device: torch.device) -> Tensor:
    # torchaudio's filters are FCPE's within 3e-7 (measured): no other package is needed for them.
    bins = WINDOW_SAMPLES // 2 + 1
    return melscale_fbanks(bins, 0.0, 8000.0, MEL_BANDS, SAMPLE_RATE, norm="slaney", mel_scale="slaney").to(device)


def _checked(config: Any, path: Path) -> Mapping[str, int]:
    """The sizes of the network, when the rest is what this code computes."""
    for section, expected in _EXPECTED.items():
        for field, value in expected.items():
            if (found := _field(config, section, field)) != value:
                raise _foreign(path, f"{section}.{field}", found, repr(value))
    sizes = {field: _field(config, "model", field) for field in ("hidden_dims", "n_layers", "out_dims")}
    for field, found in sizes.items():
        if type(found) is not int or not 0 < found < MOST_NUMBER or (field == "hidden_dims" and found % GROUPS):
            raise _foreign(
                path, f"model.{field}", found, f"a whole number above 0, for hidden_dims a multiple of {GROUPS}"
            )
    return sizes


def _parameters(sizes: Mapping[str, int]) -> int:
    """A lower bound of what `_Network` has."""
    channels = sizes["hidden_dims"]
    return channels * (3 * (MEL_BANDS + channels) + 6 * channels * sizes["n_layers"] + sizes["out_dims"])


def _field(config: Any, section: str, field: str) -> Any:
    fields = config.get(section) if isinstance(config, Mapping) else None
    return fields.get(field) if isinstance(fields, Mapping) else None


def _foreign(path: Path, name: str, found: Any, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {name} in its config_dict is {'missing' if found is None else shown(found)}, expected {expected}: "
        f"another kind of FCPE than the one in {_WEIGHTS[0]} 0.0.4"
    )


def _as_layers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """1x1 convolutions as matrices, the filters over time as ones over the height of an image."""

    def shaped(key: str, value: Tensor) -> Tensor:
        if key.endswith(("conformer.net.2.weight", "conformer.net.6.weight")) and value.shape[2:] == (1,):
            return value[:, :, 0]
        return value[..., None] if key.endswith("conformer.net.4.conv.weight") else value

    return {key: shaped(key, value) for key, value in weights.items()}


_IN_BLOCK = {"0": "norm", "2": "widen", "4.conv": "filter", "6": "narrow"}


def _renamed(key: str) -> str | None:
    """The file's name of a tensor -> ours; None for those of training and of the attention that the file goes without."""
    if key == "gaussian_blurred_cent_mask":
        return None
    if not key.startswith("net.encoder_layers."):
        return key.replace("input_stack.", "stem.")
    number, part = key.removeprefix("net.encoder_layers.").split(".", 1)
    if part in ("norm.weight", "norm.bias"):
        return None
    layer, kind = part.removeprefix("conformer.net.").rsplit(".", 1)
    return f"blocks.{number}.{_IN_BLOCK.get(layer, layer)}.{kind}"

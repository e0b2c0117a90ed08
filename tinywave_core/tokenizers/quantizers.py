"""HuBERT features -> units: the linear quantizer of SpiritLM's release, or k-means centres in a file of the same kind.

The linear one was trained with CTC and emits blanks. A blank becomes the nearest unit on its left, circularly within the
chunk: leading blanks take the chunk's last unit; a chunk of blanks only stays blank, and keeps the blank's number as unit.

Shapes: T frames, D width, K units.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tinywave_core.checkpoints.bounds import MOST_NUMBER, check_claims, shown
from tinywave_core.checkpoints.weights import load_entries, load_strictly, state_dict
from tinywave_core.errors import CheckpointError

Units = npt.NDArray[np.int64]
# SpiritLM's; the file has sizes only, so that it cannot be read there.
NEGATIVE_SLOPE = 0.01
_SIZES = ("vocab_size", "dim", "upstream_dim")


class Quantizer(Protocol):
    """Features of one chunk -> its units."""

    @property
    def units(self) -> int:
        """How many different units there are, a blank included."""
        ...

    def __call__(self, features_TD: Tensor) -> Units: ...


class LinearQuantizer(nn.Module):
    """Three linear layers with leaky ReLUs; the last output is the blank."""

    def __init__(self, vocabulary: int, width: int, upstream: int) -> None:
        super().__init__()
        # The blank counts: a chunk of blanks alone keeps it, so that SpiritLM's vocabulary has [Hu500] too.
        self.units = vocabulary + 1
        widths = _widths(vocabulary, width, upstream)
        self.layers = nn.Sequential(
            nn.Linear(widths[0], widths[1]),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Linear(widths[1], widths[2]),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Linear(widths[2], widths[3]),
        )

    @torch.inference_mode()
    def forward(self, features_TD: Tensor) -> Units:
        """Units [T] of one chunk."""
        return fill_blanks(self.layers(features_TD).argmax(dim=-1).cpu().numpy(), self.units - 1)


def _widths(vocabulary: int, width: int, upstream: int) -> tuple[int, int, int, int]:
    """768, 702, 635 and 501 in the release."""
    surplus = upstream - (vocabulary + 1)
    return width, width - surplus // 4, width - surplus // 2, vocabulary + 1


@dataclass(frozen=True)
class KmeansQuantizer:
    """The nearest centre by squared Euclidean distance, the first one where several are."""

    centres_KD: Tensor
    norms_K: Tensor

    @property
    def units(self) -> int:
        return len(self.centres_KD)

    @torch.inference_mode()
    def __call__(self, features_TD: Tensor) -> Units:
        """Units [T]."""
        # The expanded form, as SpiritLM computes it: near ties then fall as they do there.
        distances_TK = features_TD.square().sum(1, keepdim=True) - 2 * features_TD @ self.centres_KD.T + self.norms_K
        return distances_TK.argmin(dim=1).cpu().numpy()


def fill_blanks(units: Units, blank: int) -> Units:
    """Replace blanks by the nearest unit on the left, circularly."""
    # One chunk at a time: a rotation over a whole batch would carry units from one recording into the next.
    places = np.flatnonzero(units != blank)
    if not len(places):
        return units
    # Leading blanks get -1, which is the last place in numpy: the circle closes by itself.
    return units[places[np.searchsorted(places, np.arange(len(units)), side="right") - 1]]


def quantizer_units(path: Path) -> int:
    """How many different units the quantizer in a file gives, a blank included."""
    entries = load_entries(path)
    if "cluster_centers" in entries:
        return len(_centres(entries, path))
    return int(_linear_config(entries, path)["vocab_size"]) + 1


def load_quantizer(path: Path, width: int, device: torch.device | str = "cpu") -> Quantizer:
    """L11_quantizer_500.pt ({model_cfg, model_weight}) or k-means ({cluster_centers, n_clusters}) for features of `width`."""
    entries = load_entries(path)
    if "cluster_centers" in entries:
        return _kmeans(entries, path, width, device)
    config = _linear_config(entries, path)
    if config["dim"] != width:
        raise CheckpointError(f"{path} quantizes features of width {config['dim']}, this HuBERT gives {width}")
    weights = state_dict(entries, "model_weight", path)
    # Before anything is built: a config can promise layers of any size.
    check_claims(path, 3, sum(a * b for a, b in pairwise(_widths(*(config[name] for name in _SIZES)))), weights, path)
    quantizer = LinearQuantizer(config["vocab_size"], config["dim"], config["upstream_dim"])
    load_strictly(quantizer.layers, weights, path)
    return quantizer.to(device).eval()


def _linear_config(entries: dict[str, Any], path: Path) -> dict[str, Any]:
    config = entries.get("model_cfg")
    if not isinstance(config, dict) or not all(
        type(config.get(name)) is int and 0 < config[name] < MOST_NUMBER for name in _SIZES
    ):
        raise CheckpointError(
            f"{path} has neither model_cfg with sizes vocab_size, dim and upstream_dim nor cluster_centers (found "
            f"{', '.join(sorted(map(str, entries))[:6]) or 'nothing'}); expected L11_quantizer_500.pt or k-means centres"
        )
    widths = _widths(*(config[name] for name in _SIZES))
    if min(widths) < 1:
        raise CheckpointError(f"{path} has a model_cfg of layers {list(widths)} wide: it is not that of a quantizer")
    return config


def _kmeans(entries: dict[str, Any], path: Path, width: int, device: torch.device | str) -> KmeansQuantizer:
    centres = _centres(entries, path)
    if centres.shape[1] != width:
        raise CheckpointError(f"{path} has centres of width {centres.shape[1]}, this HuBERT gives {width}")
    centres = centres.to(device)
    return KmeansQuantizer(centres, centres.square().sum(1))


def _centres(entries: dict[str, Any], path: Path) -> Tensor:
    centres = entries["cluster_centers"]
    # Finite, because torch takes NaN for the least: one such centre would be the nearest of every frame.
    if not isinstance(centres, Tensor) or centres.ndim != 2 or not torch.isfinite(centres).all():
        found = list(centres.shape) if isinstance(centres, Tensor) else type(centres).__name__
        raise CheckpointError(f"{path} has cluster_centers {found}; expected a tensor [units, width] of finite numbers")
    if entries.get("n_clusters", len(centres)) != len(centres):
        raise CheckpointError(
            f"{path} has {len(centres)} cluster_centers and n_clusters {shown(entries['n_clusters'])}: they are not of one file"
        )
    return centres.float()

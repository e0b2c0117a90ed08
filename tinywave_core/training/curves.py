"""The curve that a training wrote: one value per optimiser step and term."""

from collections.abc import Mapping, Sequence

from tinywave_core import plots
from tinywave_core.storage.schemas import CURVES_FILE
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact


def curves_of(artifact: Artifact) -> dict[str, list[float]]:
    """The training curve of an artifact, by column; empty if it has none."""
    return _columns(artifact, CURVES_FILE)


def gradients_of(artifact: Artifact) -> dict[str, list[float]]:
    """Norms and cosines of the terms of the loss, by column (training/gradients.py); empty where they were not asked for."""
    return _columns(artifact, "gradients.parquet")


def _columns(artifact: Artifact, file: str) -> dict[str, list[float]]:
    if file not in artifact.files:
        return {}
    columns: dict[str, list[float]] = read_table(artifact.path(file)).to_pydict()
    return columns


def validation_line(curve: Mapping[str, Sequence[float]], label: str, colour: str) -> plots.Line:
    """NLL on validation speech at every check."""
    series = plots.series_of(curve, "validation")
    return plots.Line(f"{label}, validation", *series, colour, dashed=True, noisy=False)

"""The curve that a training wrote: one value per optimiser step and term."""

from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact


def curves_of(artifact: Artifact) -> dict[str, list[float]]:
    """The training curve of an artifact, by column; empty if it has none."""
    if "curves.parquet" not in artifact.files:
        return {}
    columns: dict[str, list[float]] = read_table(artifact.path("curves.parquet")).to_pydict()
    return columns

"""What a token shard reports: counts of utterances, tokens, seconds and codes, for the `tokens` artifact to add up."""

from pathlib import Path
from typing import Any

import numpy as np

from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import column_bytes
from tinywave_core.tokenizers.vocabulary import KINDS, Vocabulary


def shard_summary(rows: list[dict[str, Any]], vocabulary: Vocabulary, path: Path) -> dict[str, Any]:
    """Figures of the rows of the shard at `path`; of several drawings of an utterance, one counts: those of an epoch."""
    first = [row for row in rows if row.get("variant", 0) <= 0]
    summary: dict[str, Any] = {
        "vocabulary": vocabulary.to_json(),
        "unvoiced_chunks": sum(row["unvoiced_chunks"] for row in first),
        "ids_bytes": column_bytes(path, "ids") * len(first) // max(len(rows), 1),
    }
    for split in ("train", "held_out"):
        inside = [row for row in first if row["split"] == split]
        summary[f"{split}_utterances"] = len(inside)
        summary[f"{split}_tokens"] = sum(len(row["ids"]) for row in inside)
        summary[f"{split}_seconds"] = sum(row["num_samples"] for row in inside) / SAMPLE_RATE
    kinds = np.bincount(vocabulary.kinds(_joined(first, "ids")), minlength=len(KINDS))
    summary["kinds"] = {kind: int(count) for kind, count in zip(KINDS, kinds, strict=True)}
    sizes = {"units": vocabulary.hubert, "pitch": vocabulary.pitch, "style": vocabulary.style}
    counts = {f"{name}_counts": np.bincount(_joined(first, name), minlength=size) for name, size in sizes.items()}
    return summary | {name: each.tolist() for name, each in counts.items()}


def _joined(rows: list[dict[str, Any]], column: str) -> Any:
    return np.concatenate([np.zeros(0, np.int64), *(np.asarray(row[column], np.int64) for row in rows)])

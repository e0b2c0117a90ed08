"""What the base has heard of a corpus, found by recording and by sound (base/leaks.py). Token shards in, one row per utterance out.

Files: leaks.parquet with utterance_id, recording_id, split, share (of the utterance's runs of units that the base has), by
(`recording`, `sound`, or null for not heard).
"""

from collections import Counter
from typing import Any

import pyarrow as pa

from tinywave_core.base.leaks import LEAKS_FROM, heard_recordings, heard_runs, share_heard
from tinywave_core.base.opening import open_base
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.counts import count
from tinywave_core.errors import LeakError
from tinywave_core.stages.tokenization.summary import HeardSummary, LeaksSummary
from tinywave_core.steps.base import Output, Step
from tinywave_core.storage.schemas import TOKENS_FILE
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact

LEAKS_FILE = "leaks.parquet"
_NAMED = 20
_ROWS = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("share", pa.float32(), nullable=False),
        pa.field("by", pa.string()),
    ]
)


def run_leaks(step: Step[TokenizationConfig, LeaksSummary], output: Output) -> LeaksSummary:
    """Look up every utterance among the speech of the base."""
    base = open_base(step.context["base"])
    recordings, runs = heard_recordings(base), heard_runs(base)
    rows: list[dict[str, Any]] = []
    for number, shard in enumerate(step.inputs["shards"]):
        output.progress(number, len(step.inputs["shards"]), "shards")
        table = read_table(shard.path(TOKENS_FILE), ["utterance_id", "recording_id", "split", "units"])
        rows += [_row(row, recordings, share_heard(row.pop("units"), runs)) for row in table.to_pylist()]
    write_table(pa.Table.from_pylist(rows, schema=_ROWS), output.folder / LEAKS_FILE)
    paths = paths_of(step.input("corpus"))
    return LeaksSummary(held_out=_heard(rows, "held_out", paths), train=_heard(rows, "train", paths))


def require_no_leak(leaks: Artifact) -> None:
    """LeakError where held-out speech was heard; nothing is known while it is only planned."""
    if not leaks.complete:
        return
    found = LeaksSummary.of(leaks).held_out
    if found.heard:
        raise LeakError(
            f"the base has heard {found.heard} of the {count(found.utterances, 'held-out utterance')} ({found.by_recording} by recording, "
            f"{found.by_sound} by sound), such as {found.recordings[0]}"
        )


def _row(row: dict[str, Any], recordings: frozenset[str], share: float) -> dict[str, Any]:
    by_sound = "sound" if share >= LEAKS_FROM else None
    return {**row, "share": share, "by": "recording" if row["recording_id"] in recordings else by_sound}


def _heard(rows: list[dict[str, Any]], split: str, paths: dict[str, str]) -> HeardSummary:
    inside = [row for row in rows if row["split"] == split]
    counts = Counter(row["by"] for row in inside)
    names = sorted({paths[row["recording_id"]] for row in inside if row["by"]})
    return HeardSummary(
        utterances=len(inside), by_recording=counts["recording"], by_sound=counts["sound"], recordings=names[:_NAMED]
    )


def paths_of(corpus: Artifact) -> dict[str, str]:
    """Where each accepted recording lies, by its id."""
    from tinywave_core.audio.utterances import FILES_FILE

    rows = read_table(corpus.path(FILES_FILE), ["recording_id", "path", "status"]).to_pylist()
    return {row["recording_id"]: row["path"] for row in rows if row["status"] == "accepted"}

"""What the base has heard of a corpus, found by recording and by sound (base/leaks.py). Token shards in, one row per utterance out.

Files: leaks.parquet with utterance_id, recording_id, split, share (of the utterance's runs of units that the base has), by
(`recording`, `sound`, or null for not heard).
"""

from collections import Counter
from collections.abc import Container
from typing import Any

import pyarrow as pa

from tinywave_core.base.leaks import LEAKS_FROM, heard_recordings, heard_runs, share_heard
from tinywave_core.base.opening import open_base
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.errors import LeakError
from tinywave_core.stages.tokenization.summary import HeardSummary, LeaksSummary
from tinywave_core.steps.base import Output, Step
from tinywave_core.storage.schemas import TOKENS_FILE
from tinywave_core.storage.shards import RowWriter, rows_of, where
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
    columns = ["utterance_id", "recording_id", "split", "units"]
    counts, heard = Counter[tuple[str, str | None]](), {"held_out": set[str](), "train": set[str]()}
    with RowWriter(output.folder / LEAKS_FILE, _ROWS) as writer:
        for number, shard in enumerate(step.inputs["shards"]):
            output.progress(number, len(step.inputs["shards"]), "shards")
            for row in rows_of(shard.path(TOKENS_FILE), columns):
                found = _row(row, recordings, share_heard(row.pop("units"), runs))
                writer.add([found])
                counts[found["split"], found["by"]] += 1
                heard[found["split"]] |= {found["recording_id"]} if found["by"] else set()
    paths = paths_of(step.input("corpus"), heard["held_out"] | heard["train"])
    return LeaksSummary(held_out=_heard(counts, heard, "held_out", paths), train=_heard(counts, heard, "train", paths))


def require_no_leak(leaks: Artifact) -> None:
    """LeakError where held-out speech was heard; nothing is known while it is only planned."""
    if not leaks.complete:
        return
    found = LeaksSummary.of(leaks).held_out
    if found.heard:
        raise LeakError(
            f"the base has heard {found.heard} of the {found.utterances} held-out utterances ({found.by_recording} by recording, "
            f"{found.by_sound} by sound), such as {found.recordings[0]}"
        )


def _row(row: dict[str, Any], recordings: frozenset[str], share: float) -> dict[str, Any]:
    by_sound = "sound" if share >= LEAKS_FROM else None
    return {**row, "share": share, "by": "recording" if row["recording_id"] in recordings else by_sound}


def _heard(
    counts: Counter[tuple[str, str | None]], heard: dict[str, set[str]], split: str, paths: dict[str, str]
) -> HeardSummary:
    by_recording, by_sound = counts[split, "recording"], counts[split, "sound"]
    return HeardSummary(
        utterances=by_recording + by_sound + counts[split, None],
        by_recording=by_recording,
        by_sound=by_sound,
        recordings=sorted({paths[recording] for recording in heard[split]})[:_NAMED],
    )


def paths_of(corpus: Artifact, wanted: Container[str]) -> dict[str, str]:
    """Where the `wanted` ones of the accepted recordings lie, by id."""
    from tinywave_core.audio.utterances import FILES_FILE

    rows = rows_of(corpus.path(FILES_FILE), ["recording_id", "path", "status"], where("status", "accepted"))
    return {row["recording_id"]: row["path"] for row in rows if row["recording_id"] in wanted}

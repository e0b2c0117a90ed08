"""Token shards without the utterances that are left out: derived from those that have all of them, so nothing is tokenized again.

Reasons come from more than one place (measures of ingestion, and what is found in tokens): they meet in one dict, reason by utterance.
A shard that loses nothing stays the one that it is. See infra/decisions/0039-what-is-left-out.md.
"""

import shutil
from collections.abc import Callable, Container, Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from tinywave_core.audio.utterances import UTTERANCES_FILE
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.stages.ingestion.summary import original_of
from tinywave_core.stages.tokenization.summary import SpokenSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.storage.schemas import TOKENS_FILE
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact

VOCABULARY_FILE = "vocabulary.json"


def without(
    left_out: Mapping[str, str],
    duplicates: Mapping[str, Iterable[str]],
    audio: list[Artifact],
    shards: list[Artifact],
    step: Callable[..., Step],
    execute: Execute,
) -> list[Artifact]:
    """The token `shards` of these `audio` shards, without what is left out; `duplicates` are not in them, by audio shard."""
    if not left_out:
        return shards
    lost = [_lost(shard, left_out, set(duplicates.get(shard.id, ()))) for shard in audio]
    steps = {
        number: step(
            "shard",
            run_kept,
            {"audio": [original_of(audio[number])], "tokens": [shards[number]]},
            # Which, and not why: a threshold that leaves out the same is the same shard.
            {"left_out": ids},
        )
        for number, ids in enumerate(lost)
        if ids
    }
    made = dict(zip(steps, execute(list(steps.values())) if steps else [], strict=True))
    return [made.get(number, shard) for number, shard in enumerate(shards)]


def _lost(audio: Artifact, left_out: Container[str], drop: Container[str]) -> list[str]:
    ids = read_table(audio.path(UTTERANCES_FILE), ["utterance_id"])["utterance_id"].to_pylist()
    return sorted(i for i in ids if i in left_out and i not in drop)


def run_kept(step: Step[TokenizationConfig, SpokenSummary], output: Output) -> SpokenSummary:
    """The rows that are kept, as they are."""
    shard, path = step.input("tokens"), output.folder / TOKENS_FILE
    table = read_table(shard.path(TOKENS_FILE))
    lost_U = pc.is_in(table["utterance_id"], pa.array(step.params["left_out"], pa.string()))
    kept = table.filter(pc.invert(lost_U))
    write_table(kept, path)
    shutil.copyfile(shard.path(VOCABULARY_FILE), output.folder / VOCABULARY_FILE)
    summary = SpokenSummary.of_rows(kept.to_pylist(), SpokenSummary.of(shard).vocabulary, path)
    # What held-out speech is left out changes nothing of training.
    is_same = "train" not in table.filter(lost_U)["split"].to_pylist()
    return summary.model_copy(update={"trains_as": shard.id}) if is_same else summary

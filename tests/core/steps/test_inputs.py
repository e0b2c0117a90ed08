"""What stages read of token shards: rows of one split, in one drawing, and no other columns."""

from pathlib import Path

import pyarrow as pa
import pytest

from tests.fixtures.summaries import Anything
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.steps import inputs
from tinywave_core.steps.base import Output, Step, compute
from tinywave_core.steps.inputs import held_out_rows, training_rows
from tinywave_core.storage.schemas import TOKENS_FILE
from tinywave_core.storage.shards import row_groups, write_table
from tinywave_core.storage.store import Artifact, Store

SPOKEN = {"utterance_id": ["b", "a", "c"], "split": ["held_out", "train", "held_out"], "num_samples": [3, 4, 5]}
# `d` has two drawings, `e` has one beside others that have two, `f` is trained on.
MIXED = {
    "utterance_id": ["d", "d", "e", "f"],
    "split": ["held_out", "held_out", "held_out", "train"],
    "num_samples": [6, 6, 7, 8],
    "variant": [0, 1, -1, 0],
}


@pytest.fixture
def shards(tmp_path: Path) -> list[Artifact]:
    """One shard of speech alone, which has no drawings, and one that is interleaved."""
    store = Store(str(tmp_path))
    return [shard(store, part, rows) for part, rows in (("shard", SPOKEN), ("interleaved", MIXED))]


def shard(store: Store, part: str, rows: dict[str, list]) -> Artifact:
    def write(step: Step, output: Output) -> Anything:
        write_table(pa.table(rows), output.folder / TOKENS_FILE)
        return Anything()

    return compute(Step(store, "tokenization", part, 1, write, PipelineConfig()))


def test_held_out_rows_are_those_of_first_drawings_in_the_order_of_shards_and_files(shards):
    assert [row["utterance_id"] for row in held_out_rows(shards, ["utterance_id"])] == ["b", "c", "d", "e"]
    assert [row["num_samples"] for row in held_out_rows(shards[::-1], ["num_samples"])] == [6, 7, 3, 5]


def test_training_rows_are_the_others(shards):
    assert training_rows(shards, ["utterance_id"]) == [{"utterance_id": "a"}, {"utterance_id": "f"}]


def test_rows_have_the_columns_that_were_asked_for_and_no_more(shards):
    assert held_out_rows(shards[1:], ["variant", "utterance_id"])[1] == {"variant": -1, "utterance_id": "e"}


def test_no_other_column_is_read(shards, monkeypatch):
    read = []
    monkeypatch.setattr(
        inputs, "row_groups", lambda path, names, keep: read.append(names) or row_groups(path, names, keep)
    )
    held_out_rows(shards, ["utterance_id"])
    assert read == [["utterance_id", "split"], ["utterance_id", "split", "variant"]]

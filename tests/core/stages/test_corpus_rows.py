"""The corpus table is made a shard at a time: the same bytes as of all rows at once, and in memory that grows by ids alone."""

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.fixtures.summaries import Anything
from tinywave_core.audio.utterances import FILES_FILE, UTTERANCES, UTTERANCES_FILE
from tinywave_core.config.ingestion import IngestionConfig
from tinywave_core.stages.ingestion import corpus
from tinywave_core.stages.ingestion.counts import Replacement, compact_id, count_reasons, replacement
from tinywave_core.stages.ingestion.summary import CorpusSummary
from tinywave_core.steps.base import Output, Step, compute
from tinywave_core.storage.schemas import FILES
from tinywave_core.storage.shards import RowWriter, read_table, write_table
from tinywave_core.storage.store import Artifact, Store

Row = dict[str, Any]


def file(name: str, status: str = "accepted") -> Row:
    """File `name` holds recording `name`."""
    row = {"path": f"{name}.wav", "sha256": name, "bytes": 9, "status": status, "recording_id": name}
    return row | (
        {"speaker": "anna", "split": "train", "reason": None} if status == "accepted" else {"reason": "no_speech"}
    )


def utterance(recording: str, number: int = 0, samples: int = 16_000) -> Row:
    places = {"utterance_id": f"{recording}-{number}", "path": f"{recording}.wav", "start_samples": number}
    return places | {"recording_id": recording, "num_samples": samples, "speaker": "anna", "split": "train"}


def shard(store: Store, files: Sequence[Row], utterances: Sequence[Row]) -> Artifact:
    def write(step: Step, output: Output) -> Anything:
        write_table(pa.Table.from_pylist(files, schema=FILES), output.folder / FILES_FILE)
        write_table(pa.Table.from_pylist(utterances, schema=UTTERANCES), output.folder / UTTERANCES_FILE)
        return Anything(reasons=count_reasons(files))

    names = [row["path"] for row in files]
    return compute(Step(store, "ingestion", "shard", 1, write, IngestionConfig(), {}, {"names": names}))


def made(store: Store, shards: list[Artifact], **params: Any) -> Artifact:
    step = Step(
        store, "ingestion", "corpus", 1, corpus.run_corpus, IngestionConfig(), {"shards": shards}, {"try": 1, **params}
    )
    return compute(step)


def outcomes(artifact: Artifact) -> dict[str, str]:
    rows = read_table(artifact.path(FILES_FILE)).to_pylist()
    return {row["sha256"]: row["reason"] or row["status"] for row in rows}


@pytest.mark.parametrize("sizes", [[], [0], [1], [1024], [1000, 24, 1], [3000, 5, 100]])
def test_rows_that_come_in_parts_are_the_bytes_of_all_at_once(tmp_path: Path, sizes: list[int]):
    rows = [file(str(number)) for number in range(sum(sizes))]
    left = iter(rows)
    with RowWriter(tmp_path / "parts", FILES) as writer:
        for size in sizes:
            writer.add([next(left) for _ in range(size)])
    write_table(pa.Table.from_pylist(rows, schema=FILES), tmp_path / "whole")
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_what_an_earlier_shard_has_is_dropped_and_counted(tmp_path: Path):
    store = Store(str(tmp_path))
    first = shard(store, [file("a"), file("x", "rejected")], [utterance("a"), utterance("a", 1)])
    second = shard(store, [file("b"), file("a")], [utterance("a"), utterance("b", samples=48_000)])
    third = shard(store, [file("a")], [utterance("a", 1)])
    corpus_table = made(store, [first, second, third], forgotten=["f"])
    summary = CorpusSummary.of(corpus_table)
    assert summary.shards == [first.id, second.id]
    assert summary.duplicates == {second.id: ["a-0"], third.id: ["a-1"]}
    assert summary.files.model_dump() == {"found": 6, "accepted": 2, "rejected": 2, "skipped": 2}
    assert summary.reasons == {"duplicate": 2, "forgotten": 1, "no_speech": 1}
    assert (summary.utterances, summary.recordings, summary.speakers) == (3, 2, 1)
    assert summary.hours == pytest.approx(5 / 3600)
    rows = read_table(corpus_table.path(FILES_FILE)).to_pylist()
    assert [row["sha256"] for row in rows] == ["a", "x", "b", "a", "a", "f"]
    assert [row["speech_samples"] for row in rows] == [32_000, None, 48_000, 0, 0, 0]


@pytest.mark.parametrize(
    ("new", "others", "kept"),
    [
        (file("new"), [], "replaced"),
        (file("new", "rejected"), [], "accepted"),  # what has no speech replaces nothing
        (file("new"), [file("copy") | {"recording_id": "old"}], "accepted"),  # another file has the same samples
    ],
)
def test_a_recording_is_replaced_by_speech_of_a_later_shard(tmp_path: Path, new: Row, others: list[Row], kept: str):
    store = Store(str(tmp_path))
    first = shard(store, [file("old"), file("b")], [utterance("old"), utterance("b")])
    second = shard(store, [new, *others], [utterance("new")])
    result = made(store, [first, second], replaced={"old": "new"})
    assert outcomes(result)["old"] == kept
    assert CorpusSummary.of(result).recordings == (2 if kept == "replaced" else 3)


def test_nothing_is_looked_at_where_nothing_was_replaced():
    def look() -> list[Row]:
        raise AssertionError

    assert replacement(look, {}) == Replacement()


def test_ids_are_held_in_sixteen_bytes_and_stay_apart():
    ids = ["0" * 32, "0" * 31 + "1", "z" * 32, "u1", "12"]
    assert [len(compact_id(name)) for name in ids] == [16, 16, 32, 2, 2]
    assert len({compact_id(name) for name in ids}) == len(ids)


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that Python held at once, beyond what it held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_recording_more_costs_its_ids_and_not_its_rows(tmp_path: Path):
    store = Store(str(tmp_path))

    def many(number: int) -> Artifact:
        names = [f"{number:02d}{row:030d}" for row in range(200)]
        return shard(store, [file(name) for name in names], [utterance(name) for name in names])

    shards = [many(number) for number in range(20)]
    made(store, shards[:1])  # what is made once in a process is no memory of a corpus
    some, all_of_them = (peak_bytes(lambda part=part: made(store, part)) for part in (shards[:6], shards))
    # The row of a file alone is a dict of 29 columns: more than 1,000 bytes.
    assert all_of_them - some < 14 * 200 * 500

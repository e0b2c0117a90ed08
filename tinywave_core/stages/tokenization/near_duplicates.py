"""Near-duplicates of a corpus as parts of tokenization: token shards in, one row per pair out (tokenizers/near_duplicates.py).

Part `unit_runs`, a step per token shard, so that new audio costs its own: unit_runs.parquet with utterance_id, runs (different hashes
of the utterance as its tokens are) and heard (also from the other beginnings; null for `starts` 1). Part `near_duplicates`:
near_duplicates.parquet with utterance_id, of_utterance_id, share (of the first one's runs that the second has), kind (`copy`,
`excerpt`, `repeated`), sides (`train/held_out`: of the first and the second), path and of_path. A copy has the utterance that would be
kept as the second: held-out speech, then the longest, then by id. would_go.parquet: utterance_id and reason of the training
utterances that go if one of each group is kept: with `use` leave_out their rows are taken out of the token shards (kept.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.tokenization import NearDuplicatesConfig
from tinywave_core.stages.tokenization.leaks import paths_of
from tinywave_core.stages.tokenization.summary import NearDuplicatesSummary, UnitRunsSummary
from tinywave_core.stages.tokenization.tokens import GATHERED_SAMPLES, batches, open_step_tokenizer, places
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.storage.schemas import SAMPLE_RATE, TOKENS, TOKENS_FILE
from tinywave_core.storage.shards import read_table, rows_of, write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.threads import use_one_thread
from tinywave_core.tokenizers.near_duplicates import (
    Pair,
    RunSets,
    count_pairs,
    find_candidates,
    heard_held_out,
    is_told,
    left_out,
)
from tinywave_core.unit_runs import STARTS_SAMPLES, Hashes, all_runs

VERSION = 2  # 1 gave runs to the wrong utterances where thresholds had taken some out
RUNS_VERSION = 1  # hashes were right
RUNS_FILE, PAIRS_FILE, WOULD_GO_FILE = "unit_runs.parquet", "near_duplicates.parquet", "would_go.parquet"
_NAMED = 20
_RUNS = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("runs", pa.list_(pa.uint32()), nullable=False),
        pa.field("heard", pa.list_(pa.uint32())),
    ]
)
WOULD_GO = pa.schema(
    [pa.field("utterance_id", pa.string(), nullable=False), pa.field("reason", pa.string(), nullable=False)]
)
_PAIRS = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("of_utterance_id", pa.string(), nullable=False),
        pa.field("share", pa.float32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("sides", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("of_path", pa.string(), nullable=False),
    ]
)


def find(
    config: PipelineConfig, corpus: Artifact, shards: Sequence[Artifact], tokenizer: Artifact, execute: Execute
) -> Artifact | None:
    """The artifact `near_duplicates` of these shards of speech; None where it is not asked for, or while they are not made yet."""
    asked = config.tokenization.near_duplicates
    if asked.use == "off" or not all(shard.complete for shard in shards):
        return None
    runs = runs_of_shards(config, shards, tokenizer, execute)
    step: Step[NearDuplicatesConfig, NearDuplicatesSummary] = Step(
        store=corpus.store,
        stage="tokenization",
        part="near_duplicates",
        version=VERSION,
        run=run_near_duplicates,
        config=asked,
        inputs={"corpus": [corpus], "shards": list(shards), "runs": runs},
        runtime=config.runtime,
    )
    return execute([step])[0]


def runs_of_shards(
    config: PipelineConfig, shards: Sequence[Artifact], tokenizer: Artifact, execute: Execute
) -> list[Artifact]:
    """The artifacts `unit_runs` of token shards, one for each."""
    return execute([_runs_step(config, shard, tokenizer) for shard in shards]) if shards else []


def _runs_step(config: PipelineConfig, shard: Artifact, tokenizer: Artifact) -> Step:
    original = _input_of(shard, "tokens") or shard  # later labels change no unit
    inputs = {"tokens": [original]}
    starts = config.tokenization.near_duplicates.starts
    if starts > 1:
        audio = _input_of(original, "audio")
        assert audio is not None
        inputs |= {"audio": [audio], "tokenizer": [tokenizer]}
    return Step(
        store=shard.store,
        stage="tokenization",
        part="unit_runs",
        version=RUNS_VERSION,
        run=run_unit_runs,
        config=NearDuplicatesConfig(starts=starts),  # the limit comes later
        context=places(config),
        inputs=inputs,
        runtime=config.runtime,
    )


def _input_of(shard: Artifact, name: str) -> Artifact | None:
    ids = shard.manifest.inputs.get(name, [])  # type: ignore[union-attr]
    return shard.store.find(ids[0], "shard") if ids else None


# Part `unit_runs` ------------------------------------------------------------------------------------------------


def run_unit_runs(step: Step[NearDuplicatesConfig, UnitRunsSummary], output: Output) -> UnitRunsSummary:
    """Hash the runs of every utterance of a shard."""
    table = read_table(step.input("tokens").path(TOKENS_FILE), ["utterance_id", "units"])
    ids = table["utterance_id"].to_pylist()
    runs = [all_runs([units.as_py()]) for units in table["units"]]
    heard = _heard(step, dict(zip(ids, runs, strict=True)), output) if step.config.starts > 1 else [None] * len(ids)
    write_table(
        pa.Table.from_pydict({"utterance_id": ids, "runs": runs, "heard": heard}, _RUNS), output.folder / RUNS_FILE
    )
    return UnitRunsSummary(utterances=len(ids), runs=sum(map(len, runs)))


def _heard(step: Step, runs: dict[str, Hashes], output: Output) -> list[Hashes]:
    """All runs of each utterance: those that it has, and those from the other beginnings."""
    from tinywave_core.audio.utterances import read_utterances

    use_one_thread()
    tokenizer = open_step_tokenizer(step)
    heard = dict(runs)
    done = 0
    for batch in batches(read_utterances(step.input("audio"), set(runs)), GATHERED_SAMPLES):
        for start in STARTS_SAMPLES[1:]:
            later = [each for each in batch if len(each.samples) > start]
            for utterance, streams in zip(
                later, tokenizer.tokenize([each.samples[start:] for each in later]), strict=True
            ):
                name = utterance.utterance_id
                heard[name] = np.union1d(heard[name], all_runs([streams.units]))
        done += len(batch)
        output.progress(done, len(runs), "utterances")
    return [heard[name] for name in runs]


# Part `near_duplicates` ------------------------------------------------------------------------------------------


def run_near_duplicates(
    step: Step[NearDuplicatesConfig, NearDuplicatesSummary], output: Output
) -> NearDuplicatesSummary:
    """Find the pairs of all shards."""
    limit = step.config.limit
    table, order = _utterances(step.inputs["shards"])
    is_held_out = np.asarray(pc.equal(table["split"], "held_out"))
    shards = list(zip(step.inputs["runs"], step.inputs["shards"], strict=True))
    own, heard = _sketches(shards, order)
    candidates = find_candidates(own, heard, is_held_out, limit)
    all_own, all_heard, short = _read(shards, order, set(candidates.pairs.ravel().tolist()))
    pairs = count_pairs(candidates, all_own, all_heard, is_held_out, limit)
    heard_numbers = sorted(heard_held_out(pairs, is_held_out))
    ends = {number for pair in pairs for number in (pair.utterance, pair.of)}.union(heard_numbers)
    named = table["recording_id"].take(pa.array(sorted(ends), pa.int64())).to_pylist()
    paths = paths_of(step.input("corpus"), set(named))
    rows = _rows(table, pairs, paths)
    write_table(pa.Table.from_pylist(rows, schema=_PAIRS), output.folder / PAIRS_FILE)
    gone = left_out(pairs, is_held_out)
    write_table(pa.Table.from_pylist(_would_go(rows, pairs, gone), schema=WOULD_GO), output.folder / WOULD_GO_FILE)
    kinds = [pair.kind for pair in pairs]
    seconds = np.asarray(table["num_samples"])[sorted(gone)].sum() / SAMPLE_RATE
    return NearDuplicatesSummary(
        utterances=len(table),
        too_short=short,
        copies=kinds.count("copy"),
        excerpts=kinds.count("excerpt"),
        repeated=len({pair.utterance for pair in pairs if pair.kind == "repeated"}),
        held_out_utterances=int(is_held_out.sum()),
        held_out_heard=len(heard_numbers),
        recordings=sorted(
            {paths[r] for r in table["recording_id"].take(pa.array(heard_numbers, pa.int64())).to_pylist()}
        )[:_NAMED],
        left_out=step.config.use == "leave_out",
        would_go=len(gone),
        would_go_seconds=float(seconds),
    )


def reasons_to_leave_out(near_duplicates: Artifact) -> dict[str, str]:
    """Why each training utterance would go, by its id, if one of each group was kept; all held-out speech stays."""
    return {row["utterance_id"]: row["reason"] for row in rows_of(near_duplicates.path(WOULD_GO_FILE))}


def _utterances(shards: Sequence[Artifact]) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """All utterances in the order of keeping, and where each lies when the shards lie one after the other."""
    columns = ["utterance_id", "recording_id", "split", "num_samples"]
    none = pa.schema([TOKENS.field(name) for name in columns]).empty_table()
    table = pa.concat_tables([none, *(_plain(read_table(s.path(TOKENS_FILE), columns)) for s in shards)])
    keys = table.append_column("kept_later", pc.not_equal(table["split"], "held_out"))
    order = pc.sort_indices(
        keys, [("kept_later", "ascending"), ("num_samples", "descending"), ("utterance_id", "ascending")]
    )
    return table.take(order), np.asarray(order, np.int64)


def _plain(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata(None)


def run_sets(runs: Artifact, tokens: Artifact) -> tuple[RunSets, RunSets]:
    """The runs of a token shard's utterances, in their order, and what is heard in them; `runs` may be of a shard that has more."""
    table = read_table(runs.path(RUNS_FILE))
    ids = read_table(tokens.path(TOKENS_FILE), ["utterance_id"])["utterance_id"]
    if not ids.equals(table["utterance_id"]):  # thresholds took some out
        table = table.take(pc.index_in(ids, table["utterance_id"]))
    own = set_of(table["runs"])
    return own, own if table["heard"].null_count else set_of(table["heard"])


def set_of(column: pa.ChunkedArray) -> RunSets:
    """The runs of a column of lists."""
    lists = column.combine_chunks()
    lengths = np.asarray(pc.list_value_length(lists), np.int64)
    return RunSets(np.asarray(lists.flatten(), np.uint32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _sketches(shards: Sequence[tuple[Artifact, Artifact]], order: npt.NDArray[np.int64]) -> tuple[RunSets, RunSets]:
    sets = [tuple(each.sketch() for each in run_sets(*shard)) for shard in shards]
    own, heard = (RunSets.joined([both[number] for both in sets]).take(order) for number in (0, 1))
    return own, heard


def _read(
    shards: Sequence[tuple[Artifact, Artifact]], order: npt.NDArray[np.int64], wanted: set[int]
) -> tuple[dict[int, Hashes], dict[int, Hashes], int]:
    """All runs of the utterances that are wanted, by number; and how many of the corpus have too few to tell."""
    number_at = np.empty(len(order), np.int64)
    number_at[order] = np.arange(len(order))
    own: dict[int, Hashes] = {}
    heard: dict[int, Hashes] = {}
    short = first = 0
    for shard in shards:
        of_shard, heard_in_shard = run_sets(*shard)
        for row, number in enumerate(number_at[first : first + len(of_shard)].tolist()):
            short += not is_told(of_shard[row])
            if number in wanted:
                # Copies: a view would keep the whole shard.
                own[number], heard[number] = of_shard[row].copy(), heard_in_shard[row].copy()
        first += len(of_shard)
    return own, heard, short


def _rows(table: pa.Table, pairs: Sequence[Pair], paths: dict[str, str]) -> list[dict[str, Any]]:
    ends = {number for pair in pairs for number in (pair.utterance, pair.of)}
    about = dict(zip(sorted(ends), table.take(sorted(ends)).to_pylist(), strict=True)) if ends else {}
    return [
        {
            "utterance_id": about[pair.utterance]["utterance_id"],
            "of_utterance_id": about[pair.of]["utterance_id"],
            "share": pair.share,
            "kind": pair.kind,
            "sides": f"{about[pair.utterance]['split']}/{about[pair.of]['split']}",
            "path": paths[about[pair.utterance]["recording_id"]],
            "of_path": paths[about[pair.of]["recording_id"]],
        }
        for pair in pairs
    ]


def _would_go(rows: Sequence[dict[str, Any]], pairs: Sequence[Pair], gone: dict[int, Pair]) -> list[dict[str, str]]:
    row_of = dict(zip(pairs, rows, strict=True))
    told: list[dict[str, str]] = []
    for number, pair in gone.items():
        row = row_of[pair]
        goes, stays = ("utterance_id", "of_path") if number == pair.utterance else ("of_utterance_id", "path")
        what = pair.kind if number == pair.utterance else "whole"
        told.append({"utterance_id": row[goes], "reason": f"{what} of {row[stays]}"})
    return sorted(told, key=lambda row: row["utterance_id"])

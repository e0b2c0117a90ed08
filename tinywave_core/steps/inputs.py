"""Inputs that several stages take: shards by split, their recordings and hours, and the key of a corpus."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.schemas import TOKENS_FILE
from tinywave_core.storage.shards import Keep, row_groups
from tinywave_core.storage.store import Artifact

CORPUS_VERSION = 2
"""Version of ingestion. Catalogs bear it in their name, which other stages ask for."""


def training_shards(tokens: Artifact) -> list[Artifact]:
    """Token shards with training speech; teacher targets and students depend on these only."""
    return _shards(tokens, "train_utterances", "trains_as")


def held_out_shards(tokens: Artifact) -> list[Artifact]:
    """Token shards with held-out speech; evaluation depends on these only."""
    return _shards(tokens, "held_out_utterances")


def _shards(tokens: Artifact, split: str, instead: str = "id") -> list[Artifact]:
    # Shards of the other split stay out: else every new held-out recording would train every student anew.
    listed = {s.get(instead, s["id"]): s.get("part", "shard") for s in tokens.summary["shards"] if s[split]}
    artifacts = tokens.store.find_all(list(listed))
    # What is only planned has no manifest that tells its part.
    return [a if a.complete else replace(a, part=listed[a.id]) for a in artifacts]


def held_out_rows(shards: Sequence[Artifact], columns: Sequence[str]) -> list[dict[str, Any]]:
    """These columns of the held-out rows of token shards, in the order of the shards and of their files.

    An interleaved utterance has several drawings: its row is that of the first one, which alone has the streams.
    """
    return list(each_held_out_row(shards, columns))


def each_held_out_row(
    shards: Sequence[Artifact], columns: Sequence[str], keep: Keep | None = None, needs: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """`held_out_rows` one after the other, for what takes a few of them: a row group at a time is in memory.

    Those that `keep` keeps, which `needs` these columns.
    """
    return _rows(shards, columns, "held_out", keep, needs)


def training_rows(shards: Sequence[Artifact], columns: Sequence[str]) -> list[dict[str, Any]]:
    """These columns of the training rows of token shards, as `held_out_rows`: an utterance's first drawing alone."""
    return list(each_training_row(shards, columns))


def each_training_row(
    shards: Sequence[Artifact], columns: Sequence[str], keep: Keep | None = None, needs: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """`training_rows` one after the other, as `each_held_out_row`."""
    return _rows(shards, columns, "train", keep, needs)


def _rows(
    shards: Sequence[Artifact], columns: Sequence[str], split: str, keep: Keep | None, needs: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for shard in shards:
        path = shard.path(TOKENS_FILE)
        filters = [name for name in ("split", "variant") if name in pq.read_schema(path).names]
        # Rows are picked in Arrow: nearly every shard has a little held-out speech among much that is none, and a token
        # as a Python integer takes many times its two bytes.
        for table in row_groups(path, list(dict.fromkeys([*columns, *filters, *needs])), partial(_is_first_of, split)):
            kept = table if keep is None else table.filter(keep(table))
            yield from kept.select(list(columns)).to_pylist()


def _is_first_of(split: str, table: pa.Table) -> pa.ChunkedArray:
    keep = pc.equal(table["split"], split)
    if "variant" in table.column_names:  # shards of speech alone have no drawings
        keep = pc.and_(keep, pc.less_equal(table["variant"], 0))
    return keep


def training_key(config: PipelineConfig, tokens: Artifact) -> str:
    """What the pins of all that is trained belong to: the corpus, the recordings that later labels took out of training, and the
    thresholds that leave utterances out, or the rule that leaves copies or what benchmarks have out.

    What was trained on those recordings has heard held-out speech, what was trained under other thresholds has heard what they should
    keep away: nothing goes on from it.
    """
    heard = tokens.summary.get("heard", "") if tokens.complete else ""
    repeats, suites = config.tokenization.near_duplicates, config.tokenization.benchmarks
    alone = repeats.model_dump() if repeats.use == "leave_out" else None
    unheard = suites.model_dump() if suites.suites and suites.use == "leave_out" else None
    marks = [mark for mark in (heard, config.ingestion.keep.thresholds, _models(config), alone, unheard) if mark]
    return fingerprint([corpus_key(config), *marks]) if marks else corpus_key(config)


def _models(config: PipelineConfig) -> dict[str, str]:
    """Digests of the given models whose labels have thresholds, by name: the same bound of another model leaves out others."""
    named = {label.partition(".")[0] for label in config.ingestion.keep.labels}
    if not named:
        return {}
    from tinywave_core.checkpoints.model_directory import model_digest

    return {
        name: model_digest(Path(folder)) for name, folder in config.ingestion.measures.models.items() if name in named
    }


def training_hours(tokens: Artifact) -> float:
    """Hours of training speech behind a `tokens` artifact."""
    return float(sum(shard["train_seconds"] for shard in tokens.summary["shards"])) / 3600


def audio_of(shards: Sequence[Artifact]) -> list[Artifact]:
    """The audio shards behind token shards, interleaved or not; text has none."""
    audio: dict[str, Artifact] = {}
    for shard in shards:
        inputs = shard.manifest.inputs  # type: ignore[union-attr]
        # Interleaved shards were made from token shards, so that their audio is one step farther away.
        for i in inputs.get("tokens", []):
            inputs = shard.store.find(i, "shard").manifest.inputs  # type: ignore[union-attr]
        audio |= {i: shard.store.find(i, "shard") for i in inputs.get("audio", [])}
    return list(audio.values())


def corpus_key(config: PipelineConfig) -> str:
    """Name of a corpus's catalog: the corpus and a hash of the settings that shape its shards."""
    # Old shards never change: other settings of ingestion start a catalog of their own.
    return f"{config.ingestion.corpus}-{fingerprint([CORPUS_VERSION, config.ingestion.of_corpus])[:12]}"

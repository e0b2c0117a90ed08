"""What reads a corpus takes no more memory of one that is ten times as large: row groups come and go, and few rows become objects.

Tables are written directly, so that no audio is decoded. Memory is what Python and Arrow hold at most, counted by both themselves.
"""

import tracemalloc
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows import show, slamkit
from tests.fixtures import summaries
from tests.fixtures.summaries import Anything
from tinywave_core.audio.utterances import FILES_FILE, UTTERANCES, UTTERANCES_FILE
from tinywave_core.config.load import load_config
from tinywave_core.evals.probes import chosen
from tinywave_core.run.start import held_out_recordings
from tinywave_core.sequences.dataset import PackedDataset
from tinywave_core.sequences.index import load_sequences
from tinywave_core.sequences.validation import split_validation
from tinywave_core.stages.evaluation import probes, units
from tinywave_core.stages.export import judges, vocoder
from tinywave_core.stages.export.voices import voices_of
from tinywave_core.stages.generation import samples
from tinywave_core.stages.ingestion import extras, quality, words
from tinywave_core.stages.ingestion.measures import MEASURES_FILE
from tinywave_core.stages.ingestion.quality_words import left_out_rows
from tinywave_core.stages.tokenization import leaks, tokens
from tinywave_core.steps.base import Output, Step, compute
from tinywave_core.steps.inputs import each_held_out_row
from tinywave_core.storage.schemas import FILES, MEASURES, TOKENS, TOKENS_FILE
from tinywave_core.storage.shards import write_table
from tinywave_core.storage.store import Artifact, Manifest, Store

ROWS = 600  # of a shard: a table of the corpus has more than one row group already where there are two
FEW, MANY = 2, 20
CONFIG = load_config(
    "demo", {"tokenization.fit_hours": "0.01", "generation.vocoder.kind": "voice", "ingestion.keep.min_snr_db": "3"}
)


@dataclass(frozen=True)
class Corpus:
    """The artifacts of some shards, and of the corpus that they make up."""

    store: Store
    audio: list[Artifact]
    tokens: list[Artifact]
    measures: list[Artifact]
    table: Artifact
    quality: Artifact

    def listed(self) -> Artifact:
        """The token shards as an artifact `tokens` lists them."""
        shards = [{"id": shard.id} for shard in self.tokens]
        return Artifact(
            self.store,
            "tokenization",
            "tokens",
            "0",
            self.table.manifest.model_copy(update={"summary": {"shards": shards}}),
        )

    def manifests(self) -> dict[str, Manifest]:
        return {shard.id: shard.manifest for shard in self.audio}

    def step(self, **settings: Any) -> Step:
        """A step that reads them."""
        inputs = {"tokens": self.tokens, "audio": self.audio, "shards": self.tokens}
        return Step(self.store, "evaluation", "any", 1, lambda _step, _output: Anything(), inputs=inputs, **settings)


def made(store: Store, stage: str, part: str, files: dict[str, pa.Table], summary: dict[str, Any]) -> Artifact:
    def write(_: Step, output: Output) -> Anything:
        for name, table in files.items():
            write_table(table, output.folder / name)
        return Anything(**summary)

    return compute(
        Step(store, stage, part, 1, write, CONFIG.ingestion.keep, params={"number": len(store.artifact_ids())})
    )


def table_of(schema: pa.Schema, size: int, **columns: Sequence[Any]) -> pa.Table:
    """A table with these columns; the others are null, or zero where they may not be."""
    rest = {f.name: pa.nulls(size, f.type) if f.nullable else pa.array(np.zeros(size), pa.float64()).cast(f.type)
            for f in schema if f.name not in columns}  # fmt: skip
    return pa.table([pa.array(columns[f.name], f.type) if f.name in columns else rest[f.name] for f in schema], schema)


def corpus_of(root: Path, shards: int) -> Corpus:
    """Shards of ROWS recordings of one utterance each: every fiftieth is held out, as many were refused and as many have a warning."""
    store = Store(str(root))
    every = range(ROWS)
    audio, spoken, measured, all_files = [], [], [], []
    for shard in range(shards):
        names = [f"{shard:04d}{row:028d}" for row in every]
        common = {
            "utterance_id": names,
            "recording_id": names,
            "speaker": [f"speaker {row % 7}" for row in every],
            "transcript": ["what was said"] * ROWS,
            "split": ["held_out" if row % 50 == 0 else "train" for row in every],
            "num_samples": [64_000 + row for row in every],
        }
        paths = [f"speech/{name}.wav" for name in names]
        status = ["rejected" if row % 50 == 1 else "accepted" for row in every]
        files = table_of(
            FILES,
            ROWS,
            **{name: common[name] for name in ("recording_id", "speaker", "split")},
            path=paths,
            sha256=names,
            status=status,
            reason=["no_speech" if each == "rejected" else None for each in status],
            warnings=[["clipped"] if row % 50 == 2 else None for row in every],
        )
        all_files.append(files)
        index = table_of(UTTERANCES, ROWS, **common, path=paths)
        summary = {"reasons": {extras.NEEDS_EXTRA: 1} if shard == 0 else {}}
        audio.append(made(store, "ingestion", "shard", {FILES_FILE: files, UTTERANCES_FILE: index}, summary))
        rows = table_of(TOKENS, ROWS, **common, **{name: [[1, 2, 3] * 8] * ROWS for name in ("units", "ids")},
                        **{name: [[0]] * ROWS for name in ("pitch", "style")})  # fmt: skip
        spoken.append(made(store, "tokenization", "shard", {TOKENS_FILE: rows}, {}))
        measures = table_of(MEASURES, ROWS, utterance_id=names, snr_db=[float(row) for row in every])
        measured.append(made(store, "ingestion", "measures", {MEASURES_FILE: measures}, {}))
    about = summaries.corpus(shards=[each.id for each in audio])
    table = made(store, "ingestion", "corpus", {FILES_FILE: pa.concat_tables(all_files)}, about)
    reasons = pa.concat_tables([files.select(["path", "reason", "detail", "split"]) for files in all_files])
    ids = pa.concat_tables([files.select(["recording_id"]) for files in all_files]).rename_columns(["utterance_id"])
    kept = reasons.append_column("utterance_id", ids["utterance_id"])
    listed = made(store, "ingestion", "quality", {quality.QUALITY_FILE: kept}, {})
    return Corpus(store, audio, spoken, measured, table, listed)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Corpus]:
    few, many = (corpus_of(tmp_path_factory.mktemp("corpus"), shards) for shards in (FEW, MANY))
    return few, many


POOLS: list[pa.MemoryPool] = []  # kept: what was allocated from one is given back to it later


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that Python and Arrow held at once, beyond what they held before."""
    before = pa.default_memory_pool()
    POOLS.extend((before, arrow := pa.proxy_memory_pool(before)))
    pa.set_memory_pool(arrow)
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] + arrow.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def through(rows: Any) -> None:
    deque(rows, maxlen=0)


VOICE = {"config": CONFIG.generation.vocoder}
UNITS = {"config": CONFIG.evaluation.units.model_copy(update={"items": 20, "split": "all"})}
JUDGED = {"config": CONFIG.evaluation.judges, "params": {"drawing_seed": 0}}
READERS: dict[str, Callable[[Corpus], object]] = {
    "rejects": lambda c: words.rejects(c.table, 20),
    "warned": lambda c: words.warned(c.table, 20),
    "left out": lambda c: left_out_rows(c.quality, 20),
    "held-out recordings": lambda c: held_out_recordings(c.table),
    "paths": lambda c: leaks.paths_of(c.table, {f"{0:04d}{7:028d}"}),
    "refused": lambda c: extras.judged_later(c.audio),
    "voices": lambda c: voices_of(CONFIG, c.table),
    "fit": lambda c: tokens._FitSpeech.choose(c.audio, CONFIG.tokenization, None),  # type: ignore[arg-type]
    "seconds": lambda c: vocoder._seconds(c.step(**VOICE)),
    "voice": lambda c: vocoder.draw_minutes(vocoder._training_speech(c.step(**VOICE)), "voice", 0, 1.0),
    "units": lambda c: units._drawn(c.step(**UNITS)),
    "judges": lambda c: judges._drawn(c.step(**JUDGED)),
    "samples": lambda c: samples.choose_prompts(each_held_out_row(c.tokens, samples.COLUMNS), CONFIG.generation),
    "probes": lambda c: chosen(probes._HeldOut(c.audio), CONFIG.evaluation.probes),
    "slamkit": lambda c: through(slamkit._rows(c.listed())),
    "lineage": lambda c: through(show._audio_files(c.store, c.manifests(), c.manifests())),
}


@pytest.mark.parametrize("reader", READERS)
def test_ten_times_the_corpus_takes_the_memory_of_one(both: tuple[Corpus, Corpus], reader: str):
    for corpus in both:
        READERS[reader](corpus)  # what is made once in a process is no memory of a corpus, and files are hashed once
    small, large = (peak_bytes(lambda c=c: READERS[reader](c)) for c in both)
    # Beside rows there are ids of what is held out, a fiftieth, and the list of shards. Rows as Python objects are 300 bytes and more.
    assert large - small < (MANY - FEW) * ROWS * 25, f"{small:,} bytes became {large:,}"


def first_batch(c: Corpus) -> None:
    sequences = load_sequences(c.tokens, "train", 64)
    train, _ = split_validation(sequences, CONFIG.validation, "speaker")
    PackedDataset(train, 64, 8, seed=0).batch(0)


def test_the_first_batch_of_training_takes_400_bytes_of_each_sequence_at_the_most(both: tuple[Corpus, Corpus]):
    """Most of them are names of speakers and recordings, while some are chosen to validate; as objects sequences took 1,300."""
    for corpus in both:
        first_batch(corpus)  # makes the indices
    small, large = (peak_bytes(lambda c=c: first_batch(c)) for c in both)
    assert large - small < (MANY - FEW) * ROWS * 400, f"{small:,} bytes became {large:,}"

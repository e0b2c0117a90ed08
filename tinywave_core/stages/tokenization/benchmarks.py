"""Which recordings of benchmark suites the training speech has, as parts of tokenization: token shards and folders of suites in.

Part `suite_runs`, a step per suite: suite_runs.parquet with path (below the suite's folder), sha256 (of the file), recording_id (of its
samples) and runs (unit_runs.py). Its identity is the content of the recordings, not where they lie. Part `benchmarks`: benchmarks.parquet
with a row per recording of a suite: suite, path, by (`recording`, `sound`, or null for not heard), share (the larger one of the two
recordings' runs that are in the other) and of_path (of the training recording). would_go.parquet as of near-duplicates. A suite is
an input like any other: nothing here asks evaluation, which is told which figures are too good. See decision 0044.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tinywave_core.audio.utterances import FILES_FILE
from tinywave_core.checkpoints.digests import sha256_once
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.tokenization import BenchmarksConfig
from tinywave_core.evals.suites.base import Suite
from tinywave_core.evals.suites.opening import detect, open_suite, split_word
from tinywave_core.stages.tokenization.leaks import paths_of
from tinywave_core.stages.tokenization.near_duplicates import WOULD_GO, WOULD_GO_FILE, run_sets, runs_of_shards, set_of
from tinywave_core.stages.tokenization.summary import BenchmarksSummary, SuiteHeardSummary, SuiteRunsSummary
from tinywave_core.stages.tokenization.tokens import open_step_tokenizer, places
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.schemas import SAMPLE_RATE, TOKENS_FILE
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.threads import use_one_thread
from tinywave_core.tokenizers.near_duplicates import Pair, RunSets, count_pairs, find_candidates, is_told, left_out
from tinywave_core.unit_runs import Hashes, all_runs

VERSION = 1
SUITE_FILE, BENCHMARKS_FILE = "suite_runs.parquet", "benchmarks.parquet"
_TOGETHER = 64  # recordings that are read and tokenized at once
_NAMED = 20
_LONGEST_H = 1.0  # of a suite's recording
_SUITE = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("runs", pa.list_(pa.uint32()), nullable=False),
    ]
)
_ROWS = pa.schema(
    [
        pa.field("suite", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("by", pa.string()),
        pa.field("share", pa.float32(), nullable=False),
        pa.field("of_path", pa.string()),
    ]
)
Row = dict[str, Any]


@dataclass(frozen=True)
class GivenSuite:
    """A suite of the settings: its name for people, its folder, and what is in it."""

    name: str
    folder: Path
    suite: Suite

    @property
    def recordings(self) -> dict[str, Path]:
        """Its recordings by name; texts are left out."""
        contents = [c for pair in self.suite.pairs for c in (pair.prompt, pair.positive, pair.negative)]
        files = {content for content in contents if isinstance(content, Path)}
        folder = self.folder if self.folder.is_dir() else self.folder.parent
        return dict(sorted((path.relative_to(folder).as_posix(), path) for path in files))


def open_suites(config: PipelineConfig) -> list[GivenSuite]:
    """The suites that the settings name; SourceError or ConfigError for what is none, before anything is computed."""
    given: list[GivenSuite] = []
    for word in filter(None, map(str.strip, config.tokenization.benchmarks.suites.split(","))):
        kind, folder = split_word(word)
        kind = kind or (detect(folder) if folder.exists() else None)
        suite = open_suite(kind, folder)
        before = sum(each.suite.name == suite.name for each in given)
        given.append(GivenSuite(f"{suite.name}-{before + 1}" if before else suite.name, folder, suite))
    return given


def find(
    config: PipelineConfig, corpus: Artifact, shards: Sequence[Artifact], tokenizer: Artifact, execute: Execute
) -> Artifact | None:
    """The artifact `benchmarks`; None where no suite is named, or while the token shards are not made yet."""
    suites = open_suites(config)
    if not suites or not all(shard.complete for shard in shards):
        return None
    step: Step[BenchmarksConfig, BenchmarksSummary] = Step(
        store=corpus.store,
        stage="tokenization",
        part="benchmarks",
        version=VERSION,
        run=run_benchmarks,
        # Suites are known by their content, and are an input.
        config=config.tokenization.benchmarks.model_copy(update={"suites": ""}),
        params={"names": [suite.name for suite in suites]},
        inputs={
            "corpus": [corpus],
            "shards": list(shards),
            "runs": runs_of_shards(config, shards, tokenizer, execute),
            "suites": execute([_suite_step(config, suite, tokenizer) for suite in suites]),
        },
        runtime=config.runtime,
    )
    return execute([step])[0]


def _suite_step(config: PipelineConfig, suite: GivenSuite, tokenizer: Artifact) -> Step:
    recordings = suite.recordings
    digests = {name: sha256_once(path) for name, path in recordings.items()}
    files = [(name, digests[name], path) for name, path in recordings.items()]
    return Step(
        store=tokenizer.store,
        stage="tokenization",
        part="suite_runs",
        version=VERSION,
        run=run_suite_runs,
        config=BenchmarksConfig(),  # none of the settings has a say in it
        params={"recordings": len(digests), "content": fingerprint(digests)},
        context=places(config) | {"files": files},
        inputs={"tokenizer": [tokenizer]},
        runtime=config.runtime,
    )


# Part `suite_runs` -----------------------------------------------------------------------------------------------


def run_suite_runs(step: Step[BenchmarksConfig, SuiteRunsSummary], output: Output) -> SuiteRunsSummary:
    """Tokenize the recordings of a suite with the corpus's tokenizer, and hash their runs."""
    from tinywave_core.audio.cutting import content_id
    from tinywave_core.audio.decode import Decoder

    use_one_thread()
    files = step.context["files"]
    tokenizer = open_step_tokenizer(step) if files else None
    rows, unreadable = list[Row](), list[str]()
    # As the corpus was decoded, or the same recording would have other samples.
    with Decoder(output.runtime, _LONGEST_H) as decoder:
        for start in range(0, len(files), _TOGETHER):
            read = list[tuple[Row, npt.NDArray[np.float32]]]()
            for name, digest, path in files[start : start + _TOGETHER]:
                recording = decoder.decode(path)
                samples_N = recording.samples_N
                if samples_N is None or not len(samples_N):
                    unreadable.append(f"{name}: {recording.verdict.detail}")
                    continue
                row = {"path": name, "sha256": digest, "recording_id": content_id(samples_N)}
                read.append((row, samples_N.astype(np.float32) / np.float32(32_768)))
            assert tokenizer is not None
            streams = tokenizer.tokenize([samples_N for _, samples_N in read])
            rows += [row | {"runs": all_runs([of.units])} for (row, _), of in zip(read, streams, strict=True)]
            output.progress(min(start + _TOGETHER, len(files)), len(files), "recordings of a benchmark")
    write_table(pa.Table.from_pylist(rows, schema=_SUITE), output.folder / SUITE_FILE)
    return SuiteRunsSummary(recordings=len(rows), unreadable=unreadable)


# Part `benchmarks` -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Speech:
    """Recordings of suites, then training utterances, by their number; `heard` are runs from all beginnings."""

    suites: list[Row]
    train: pa.Table
    own: RunSets
    heard: RunSets

    @property
    def is_suite(self) -> npt.NDArray[np.bool_]:
        return np.arange(len(self.own)) < len(self.suites)


def run_benchmarks(step: Step[BenchmarksConfig, BenchmarksSummary], output: Output) -> BenchmarksSummary:
    """Look up every recording of the suites in the training speech."""
    speech = _read(step)
    pairs = _pairs(speech, step.config.limit)
    by_recording = _by_recording(speech, step.input("corpus"))
    found = [number for numbers in by_recording.values() for number in numbers]
    found += [number - len(speech.suites) for pair in pairs for number in (pair.utterance, pair.of)]
    heard = speech.train["recording_id"].take(pa.array({number for number in found if number >= 0}, pa.int64()))
    paths = paths_of(step.input("corpus"), set(heard.to_pylist()))
    rows = _rows(speech, pairs, by_recording, paths)
    write_table(pa.Table.from_pylist(rows, schema=_ROWS), output.folder / BENCHMARKS_FILE)
    gone = _would_go(speech, pairs, by_recording)
    numbers = pa.array(list(gone), pa.int64())
    ids = speech.train["utterance_id"].take(numbers).to_pylist()
    told = [{"utterance_id": i, "reason": why} for i, why in zip(ids, gone.values(), strict=True)]
    told.sort(key=lambda row: row["utterance_id"])
    write_table(pa.Table.from_pylist(told, schema=WOULD_GO), output.folder / WOULD_GO_FILE)
    seconds = sum(speech.train["num_samples"].take(numbers).to_pylist()) / SAMPLE_RATE
    unreadable = [len(SuiteRunsSummary.of(suite).unreadable) for suite in step.inputs["suites"]]
    names = step.params["names"]
    return BenchmarksSummary(
        suites=[_heard(name, speech, rows, broken) for name, broken in zip(names, unreadable, strict=True)],
        left_out=step.config.use == "leave_out",
        would_go=len(gone),
        would_go_seconds=seconds,
    )


def _read(step: Step) -> _Speech:
    suites, train = list[Row](), list[pa.Table]()
    own, heard = list[RunSets](), list[RunSets]()
    for name, suite in zip(step.params["names"], step.inputs["suites"], strict=True):
        table = read_table(suite.path(SUITE_FILE))
        suites += [{"suite": name, **row} for row in table.drop_columns(["runs"]).to_pylist()]
        own.append(set_of(table["runs"]))
        heard.append(own[-1])
    for runs, shard in zip(step.inputs["runs"], step.inputs["shards"], strict=True):
        columns = ["utterance_id", "recording_id", "num_samples", "split"]
        table = read_table(shard.path(TOKENS_FILE), columns)
        places_of_train = np.flatnonzero(np.asarray(pc.equal(table["split"], "train")))
        train.append(table.take(places_of_train))
        of_shard, heard_in_shard = run_sets(runs, shard)
        own.append(of_shard.take(places_of_train))
        heard.append(heard_in_shard.take(places_of_train))
    return _Speech(suites, pa.concat_tables(train), RunSets.joined(own), RunSets.joined(heard))


def _pairs(speech: _Speech, limit: float) -> list[Pair]:
    """Pairs of a recording of a suite and a training utterance, in either order."""
    is_suite = speech.is_suite
    found = find_candidates(speech.own.sketch(), speech.heard.sketch(), is_suite, limit)
    across = found.pairs[is_suite[found.pairs[:, 0]] != is_suite[found.pairs[:, 1]]]
    wanted = set(across.ravel().tolist())
    own: dict[int, Hashes] = {number: speech.own[number] for number in wanted}
    heard: dict[int, Hashes] = {number: speech.heard[number] for number in wanted}
    return count_pairs(type(found)(across, found.common), own, heard, is_suite, limit)


def _by_recording(speech: _Speech, corpus: Artifact) -> dict[int, list[int]]:
    """The training utterances of the same recording, by the number of a suite's recording that has any."""
    files = read_table(corpus.path(FILES_FILE), ["sha256", "recording_id"])
    digests = {row["sha256"] for row in speech.suites}
    same_bytes: dict[str, set[str]] = {}
    for row in files.filter(pc.is_in(files["sha256"], pa.array(digests, pa.string()))).to_pylist():
        same_bytes.setdefault(row["sha256"], set()).add(row["recording_id"])
    wanted = {row["recording_id"] for row in speech.suites}.union(*same_bytes.values())
    recordings = speech.train["recording_id"]
    numbers = np.flatnonzero(pc.is_in(recordings, pa.array(wanted, pa.string())).to_numpy())
    utterances: dict[str, list[int]] = {}
    for number, recording in zip(numbers.tolist(), recordings.take(numbers).to_pylist(), strict=True):
        utterances.setdefault(recording, []).append(number)
    found: dict[int, list[int]] = {}
    for number, row in enumerate(speech.suites):
        ids = {row["recording_id"], *same_bytes.get(row["sha256"], ())}
        if heard := sorted(each for i in ids for each in utterances.get(i, ())):
            found[number] = heard
    return found


def _rows(
    speech: _Speech, pairs: Sequence[Pair], by_recording: Mapping[int, Sequence[int]], paths: Mapping[str, str]
) -> list[Row]:
    best: dict[int, tuple[float, int]] = {}
    for pair in pairs:
        recording, utterance = sorted((pair.utterance, pair.of))  # suites come first
        found = (pair.share, utterance - len(speech.suites))
        best[recording] = max(best.get(recording, found), found)
    rows = list[Row]()
    for number, row in enumerate(speech.suites):
        share, utterance = best.get(number, (0.0, -1))
        by = "recording" if number in by_recording else "sound" if number in best else None
        at = by_recording[number][0] if by == "recording" else utterance
        of_path = paths[speech.train["recording_id"][at].as_py()] if by else None
        rows.append({"suite": row["suite"], "path": row["path"], "by": by, "share": share, "of_path": of_path})
    return rows


def _would_go(speech: _Speech, pairs: Sequence[Pair], by_recording: Mapping[int, Sequence[int]]) -> dict[int, str]:
    """Why each training utterance would go, by its number."""

    def why(recording: int) -> str:
        row = speech.suites[recording]
        return f"in the benchmark {row['suite']}: {row['path']}"

    suites = len(speech.suites)
    gone = {number - suites: why(min(p.utterance, p.of)) for number, p in left_out(pairs, speech.is_suite).items()}
    return gone | {number: why(recording) for recording, numbers in by_recording.items() for number in numbers}


def _heard(name: str, speech: _Speech, rows: Sequence[Row], unreadable: int) -> SuiteHeardSummary:
    own = [(number, row) for number, row in enumerate(rows) if row["suite"] == name]
    counts = Counter(row["by"] for _, row in own)
    return SuiteHeardSummary(
        name=name,
        recordings=len(own),
        unreadable=unreadable,
        too_short=sum(row["by"] is None and not is_told(speech.own[number]) for number, row in own),
        by_recording=counts["recording"],
        by_sound=counts["sound"],
        examples=sorted(row["path"] for _, row in own if row["by"])[:_NAMED],
    )

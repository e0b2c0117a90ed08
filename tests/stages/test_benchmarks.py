"""Recordings of a benchmark suite that training speech has: told, and left out where that is asked."""

import json
import shutil
from pathlib import Path

import pytest
import soundfile

from tests.fixtures.tiny import CLIPS, EXAMPLES, copy_clips, run_tiny, tiny_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import SourceError
from tinywave_core.run.preflight import check_run
from tinywave_core.stages.tokenization.benchmarks import BENCHMARKS_FILE
from tinywave_core.stages.tokenization.near_duplicates import reasons_to_leave_out
from tinywave_core.stages.tokenization.stage import facts
from tinywave_core.stages.tokenization.summary import BenchmarksSummary
from tinywave_core.steps.base import Outputs
from tinywave_core.steps.inputs import training_key
from tinywave_core.storage.schemas import TOKENS_FILE
from tinywave_core.storage.shards import read_table

TRAINED, CUT, STRANGER = CLIPS[7], CLIPS[5], CLIPS[9]
REWRAPPED = CLIPS[0]
PAIRS = [
    ("same.opus", "stranger.opus"),
    ("cut.wav", "short.wav"),
    ("broken.wav", "shorter.wav"),
    ("stranger-again.opus", "rewrapped.flac"),
]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    shutil.copyfile(EXAMPLES / TRAINED, folder / "same.opus")
    shutil.copyfile(EXAMPLES / STRANGER, folder / "stranger.opus")
    shutil.copyfile(EXAMPLES / STRANGER, folder / "stranger-again.opus")
    soundfile.write(folder / "rewrapped.flac", *soundfile.read(EXAMPLES / REWRAPPED, dtype="int16"))
    samples, rate = soundfile.read(EXAMPLES / CUT)
    soundfile.write(folder / "cut.wav", samples[: -int(0.05 * rate)], rate)
    soundfile.write(folder / "short.wav", samples[: int(0.2 * rate)], rate)
    soundfile.write(folder / "shorter.wav", samples[: int(0.1 * rate)], rate)
    (folder / "broken.wav").write_bytes(b"nothing")
    lines = [json.dumps({"id": str(n), "pos": pos, "neg": neg}) for n, (pos, neg) in enumerate(PAIRS)]
    (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_clips(tmp_path_factory.mktemp("source"), CLIPS[:8])


def tokenized(source: Path, root: Path, benchmarks: dict) -> tuple[PipelineConfig, Outputs, list[str]]:
    config = tiny_config(source, root, tokenization={"units": {"clusters": 40}, "benchmarks": benchmarks})
    outputs, execute = run_tiny(config, until="tokenization")
    return config, outputs, execute.parts()


def utterances(outputs: Outputs) -> set[str]:
    shards = outputs["tokens"].store.find_all([s["id"] for s in outputs["tokens"].summary["shards"]], "shard")
    tables = [read_table(shard.path(TOKENS_FILE), ["utterance_id"]) for shard in shards]
    return {i for table in tables for i in table["utterance_id"].to_pylist()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def reported(source: Path, suite: Path, root: Path) -> Outputs:
    return tokenized(source, root, {"suites": str(suite)})[1]


def test_each_recording_of_a_suite_is_a_row_that_says_who_has_it(reported: Outputs):
    rows = {row["path"]: row for row in read_table(reported["benchmarks"].path(BENCHMARKS_FILE)).to_pylist()}
    assert {name: (row["by"], row["of_path"]) for name, row in rows.items()} == {
        "same.opus": ("recording", TRAINED),
        "cut.wav": ("sound", CUT),
        "rewrapped.flac": ("recording", REWRAPPED),  # the same samples in other bytes
        "stranger.opus": (None, None),
        "stranger-again.opus": (None, None),
        "short.wav": (None, None),
        "shorter.wav": (None, None),
    }
    assert rows["cut.wav"]["share"] > 0.5 and rows["stranger.opus"]["share"] == 0


def test_what_training_has_of_a_suite_is_counted_and_said(reported: Outputs):
    (of_suite,) = BenchmarksSummary.of(reported["benchmarks"]).suites
    assert (of_suite.recordings, of_suite.by_recording, of_suite.by_sound, of_suite.unreadable) == (7, 2, 1, 1)
    assert (of_suite.too_short, of_suite.examples) == (2, ["cut.wav", "rewrapped.flac", "same.opus"])
    said = dict(facts(reported))["benchmarks"]
    assert said.startswith(
        "training speech has 3 of the 7 recordings of pairs (2 by recording, 1 by sound), such as cut.wav: its figures are too "
        "good, 2 too short to tell by sound, 1 that could not be read; leaving them out would take 3 training utterances"
    )


def test_nothing_goes_unless_it_is_asked_and_then_training_knows(
    source: Path, suite: Path, root: Path, reported: Outputs, tmp_path: Path
):
    moved = shutil.copytree(suite, tmp_path / "moved")
    config, outputs, made = tokenized(source, root, {"suites": f"pairs={moved}", "use": "leave_out"})
    assert "tokenization/suite_runs" not in made  # the same recordings elsewhere are known
    gone = reasons_to_leave_out(reported["benchmarks"])
    assert utterances(reported) - utterances(outputs) == set(gone) and len(gone) == 3
    assert set(gone.values()) == {
        f"in the benchmark pairs: {name}" for name in ("cut.wav", "rewrapped.flac", "same.opus")
    }
    plain = tiny_config(source, root, tokenization={"benchmarks": {"suites": str(suite)}})
    assert training_key(config, outputs["tokens"]) != training_key(plain, outputs["tokens"])
    assert "are left out" in dict(facts(outputs))["benchmarks"]


def test_a_suite_that_is_none_is_refused_before_a_run(tmp_path: Path):
    config = tiny_config(tmp_path, tmp_path / "store", tokenization={"benchmarks": {"suites": "swuggy=/nowhere"}})
    with pytest.raises(SourceError, match="nothing at /nowhere"):
        check_run(config)

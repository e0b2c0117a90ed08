"""Phone formats in a corpus: identity of their own, and taken once the extra is there."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.core.audio.test_ffmpeg import record
from tests.fixtures.tiny import CLIPS, EXAMPLES, copy_clips, run_tiny, tiny_config
from tinywave_core.audio.ffmpeg import ffmpeg_name
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.ingestion import corpus as ingestion
from tinywave_core.steps.base import Step
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact, Store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two recordings of readers, and one of a phone."""
    folder = copy_clips(tmp_path / "source", CLIPS[1:3])
    samples_N, rate = soundfile.read(EXAMPLES / CLIPS[0], dtype="float32")
    record(folder / "memo.m4a", [samples_N], "ipod", "aac", rate)
    return folder


def hide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if the extra were not installed, here and in the decoding child."""
    (tmp_path / "none" / "av").mkdir(parents=True)
    (tmp_path / "none" / "av" / "__init__.py").write_text("raise ImportError('not installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "none"))
    monkeypatch.setattr("tinywave_core.stages.ingestion.extras.find_spec", lambda _: None)


def files(corpus: Artifact) -> dict[str, dict[str, Any]]:
    rows = read_table(corpus.path("files.parquet")).to_pylist()
    assert max(Counter(row["path"] for row in rows).values()) == 1
    return {Path(row["path"]).name: row for row in rows}


def taken(source: Path, store: Path) -> Artifact:
    return run_tiny(tiny_config(source, store), "ingestion")[0]["corpus"]


def test_what_was_refused_for_want_of_the_extra_is_taken_once_it_is_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        hide(patch, tmp_path)
        before = taken(source, tmp_path / "store")
        assert (files(before)["memo.m4a"]["status"], before.summary["reasons"]) == ("rejected", {"needs_extra": 1})
    after = taken(source, tmp_path / "store")
    assert files(after)["memo.m4a"]["status"] == "accepted"
    assert files(after)["memo.m4a"]["decoder"] == ffmpeg_name()
    assert after.summary["reasons"] == {}
    assert set(before.summary["shards"]) < set(after.summary["shards"])
    assert taken(source, tmp_path / "store").id == after.id
    scan = ingestion.scan(tiny_config(source, tmp_path / "store"), Store(str(tmp_path / "store")))
    assert (scan.new, scan.known) == (0, 3)


def shard_params(config: PipelineConfig) -> list[dict[str, Any]]:
    steps = list[Step]()

    def note(asked: Any) -> list[Artifact]:
        steps.extend(asked)
        raise StopIteration

    with pytest.raises(StopIteration):
        ingestion.build(config, Store(config.root), note)
    return [file for step in steps for file in step.params["files"]]


def test_only_files_that_the_extra_decodes_are_named_by_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(source, tmp_path / "store")
    with_extra = shard_params(config)
    assert [file["decoder"] for file in with_extra if "decoder" in file] == [ffmpeg_name()]
    (source / "memo.m4a").unlink()
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    others = shard_params(config)
    hide(monkeypatch, tmp_path)
    assert others == shard_params(config)
    assert others == [file for file in with_extra if "decoder" not in file]

"""`tinywave quality`: of a store that is there, of a source, and what it says where there is neither; and what a plan says."""

import json
from pathlib import Path

import pytest

from flows.cli import main
from tests.conftest import Finished
from tests.fixtures.tiny import SETTINGS, copy_store, run_tiny
from tests.flows.test_units import flags
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.storage.store import Store

TINY = flags({key: value for key, value in SETTINGS.items() if key in ("ingestion", "runtime")})


def test_the_newest_corpus_is_measured_and_a_page_written(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = copy_store(finished.config, tmp_path / "store").root
    written = ["--json", str(tmp_path / "quality.json"), "--page", str(tmp_path / "quality.html")]
    assert main(["quality", "--root", root, "--ingestion.keep.min_snr_db", "24", *written]) == 0
    said = capsys.readouterr().out
    assert "signal-to-noise ratio, dB" in said and "left out: 3 of 12 utterances" in said
    figures = json.loads((tmp_path / "quality.json").read_text())
    assert figures["utterances"] == 12 and figures["left_out"][0]["reason"] == "noisy"
    assert "<audio" in (tmp_path / "quality.html").read_text()


def test_a_source_is_taken_in_and_measured(tiny_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place = ["--root", str(tmp_path / "store"), "--source", str(tiny_source), *TINY]
    assert main(["quality", *place]) == 0
    assert "no threshold of ingestion.keep is set" in capsys.readouterr().out
    assert main(["plan", *place, "--ingestion.keep.min_snr_db", "24"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "left out: 3 of 12 utterances" in said and "under others they are trained anew" in said


def test_a_store_without_a_corpus_says_what_to_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["quality", "--root", str(tmp_path / "store")]) == 2
    assert "has no corpus: pass --source FOLDER" in capsys.readouterr().err


def test_what_the_last_run_left_out_is_not_exported(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = copy_store(finished.config, tmp_path / "store")
    ingestion = {**config.ingestion.model_dump(), "keep": {"min_snr_db": 24}}
    outputs, _ = run_tiny(PipelineConfig.model_validate({**config.model_dump(), "ingestion": ingestion}), "ingestion")
    used = {f"ingestion/{part}": [artifact.id] for part, artifact in outputs.items()}
    Store(config.root).log("runs").append({"artifacts": used})
    assert main(["export-dataset", str(tmp_path / "used"), "--as", "audiofolder", "--root", config.root]) == 0
    assert "9 utterances" in (said := capsys.readouterr().out) and "without 3 that the last run left out" in said
    assert len(list((tmp_path / "used").rglob("*.flac"))) == 9
    assert main(["export-dataset", str(tmp_path / "all"), "--corpus", outputs["corpus"].id, "--root", config.root]) == 0
    assert "12 utterances" in capsys.readouterr().out

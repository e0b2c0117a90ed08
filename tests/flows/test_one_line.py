"""What people pass by mistake ends in one line with exit status 2, and says what would be right; odd names of files are taken as they are."""

import json
import os
from pathlib import Path

import pytest
import soundfile

import tinywave
from flows.cli import main
from tests.fixtures.text_models import write_text_model
from tests.fixtures.tiny import CLIPS, EXAMPLES, copy_clips, run_tiny, tiny_config
from tinywave_core.audio.waveform import read_waveform
from tinywave_core.base.opening import RELEASE
from tinywave_core.checkpoints.headers import check_headers
from tinywave_core.config.load import load_config
from tinywave_core.errors import CheckpointError, StoreError, TinyWaveError
from tinywave_core.stages.distillation.start import start_folder
from tinywave_core.storage.store import Store

ODD, SHOWN = os.fsdecode(b"\xff\xfe-latin.wav"), r"\xff\xfe-latin.wav"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings, one with a name that is not UTF-8."""
    folder = copy_clips(tmp_path_factory.mktemp("odd") / "source", CLIPS[:2])
    (folder / CLIPS[0]).rename(folder / ODD)
    return folder


@pytest.fixture(scope="module")
def store(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """That source, taken in by a run of ingestion alone."""
    config = tiny_config(source, tmp_path_factory.mktemp("one-line") / "store")
    return run_tiny(config, "ingestion")[0]["corpus"].store


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return write_text_model(tmp_path / "teacher")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


# Names of files ------------------------------------------------------------------------------------------------------


def test_a_recording_whose_name_is_not_utf_8_is_planned_by_its_header(source: Path, tmp_path: Path):
    plan = tinywave.plan(source, tmp_path / "store")
    assert plan.recordings == 2
    seconds = [soundfile.info(EXAMPLES / name).duration for name in CLIPS[:2]]
    assert plan.hours == pytest.approx(sum(seconds) / 3600)
    assert len(read_waveform(source / ODD)) == pytest.approx(16_000 * seconds[0], abs=2)


@pytest.mark.parametrize("name", [ODD, SHOWN])
@pytest.mark.parametrize("command", ["lineage", "forget"])
def test_it_is_found_by_its_name_and_by_the_text_that_is_shown(store: Store, capsys, command: str, name: str):
    assert main([command, name, "--root", store.root]) == 0
    assert SHOWN in capsys.readouterr().out


def test_the_corpus_of_a_run_of_ingestion_alone_is_exported(store: Store, tmp_path: Path, capsys):
    assert main(["export-dataset", str(tmp_path / "out"), "--as", "parquet", "--root", store.root]) == 0
    assert "2 utterances" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["adaptation.teacher", "distillation.start", "spiritlm_dir", "source"])
def test_home_is_read_in_every_path(key: str, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("~/model", Path("~/model")):
        found = load_config("demo", {key: value}).model_dump()
        for group in key.split("."):
            found = found[group]
        assert found == str(tmp_path / "model")


# Roots and repositories ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["me/--x", "me/x.git", "me/-x", "me/" + "x" * 100])
def test_a_name_that_no_hub_takes_is_refused_before_anybody_is_asked(name: str, capsys):
    assert "expected OWNER/NAME" in refused(capsys, "push", str(RELEASE / "student"), name)


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("http://x", "is a web address; expected a folder, or s3://BUCKET/FOLDER"),
        ("s3://", "names no bucket; expected s3://BUCKET/FOLDER"),
    ],
)
def test_a_root_that_is_neither_a_folder_nor_a_bucket(root: str, expected: str, capsys):
    assert expected in refused(capsys, "ui", "--root", root)
    with pytest.raises(StoreError, match=expected):
        Store(root)


# Models --------------------------------------------------------------------------------------------------------------


def config_is(text: str):
    return lambda folder: (folder / "config.json").write_text(text)


def change(**values: object):
    def write(folder: Path) -> None:
        about = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(about | values))

    return write


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (config_is("[]"), "config.json has no vocab_size: expected the config of a decoder"),
        (config_is("{"), "config.json is not valid JSON"),
        (change(num_hidden_layers="4"), "config.json has num_hidden_layers '4'"),
        (change(model_type="bert"), "a model of type 'bert'"),
        (change(vocab_size=17), "config.json beside it says [17, 32] (vocab_size, hidden_size)"),
        (change(hidden_size=64), "embed_tokens.weight is ["),
        (cut, "is cut short or not a file of weights"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "a text model needs its tokenizer.json (`AutoTokenizer"),
    ],
)
def test_a_plan_refuses_a_teacher_that_a_run_refuses(
    break_it, expected: str, teacher: Path, source: Path, tmp_path: Path, capsys
):
    check_headers(teacher)
    break_it(teacher)
    words = ("--source", str(source), "--root", str(tmp_path / "store"), "--adaptation.teacher", str(teacher))
    assert expected in refused(capsys, "plan", *words)
    with pytest.raises(TinyWaveError) as of_run:
        tinywave.run(source, tmp_path / "store", **{"adaptation.teacher": str(teacher)})
    assert expected in str(of_run.value) and not (tmp_path / "store").exists()


@pytest.mark.parametrize("start", ["nowhere", "", "empty"])
def test_a_plan_refuses_a_start_that_a_run_refuses(start: str, source: Path, tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, "plan", "--source", str(source), "--root", "store", "--distillation.start", start)
    assert f"distillation.start {start!r} has no config.json" in said and "(`tinywave inspect` lists them)" in said
    with pytest.raises(TinyWaveError) as of_run:
        tinywave.run(source, "store", **{"distillation.start": start})
    assert said == f"error: {of_run.value}\n"


def test_a_start_without_whole_weights_is_refused(tmp_path: Path):
    folder = write_text_model(tmp_path / "start")
    for name in ("vocabulary.json", "speech.json"):
        (folder / name).write_text("{}")
    settings = load_config("demo", {"distillation.start": folder, "distillation.layers": 4}).distillation
    assert start_folder(settings) == folder
    cut(folder)
    with pytest.raises(CheckpointError, match="is cut short"):
        start_folder(settings)

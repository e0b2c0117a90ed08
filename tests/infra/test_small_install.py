"""`pip install tinywave` alone: the wheel holds what it needs, works with an exported model, and says what else to install."""

import json
import os
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.fixtures import small_install
from tinywave_core.extras import MODULES

ROOT = small_install.ROOT
CLIP = ROOT / "examples/speech/LJSpeech/wavs/LJ001-0002.flac"
LAYERS = ("flows", "tasks", "tinywave", "tinywave_core")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Every command in one process, since what they import takes longest.
SCRIPT = """
import contextlib, io, json, sys, wave
from importlib.metadata import entry_points
from pathlib import Path

(main,) = [entry.load() for entry in entry_points(group="console_scripts") if entry.name == "tinywave"]
clip, here = sys.argv[1], Path(sys.argv[2])
told = {}


def tell(*words):
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            status = main(list(words))
        except SystemExit as end:
            status = end.code
    told[" ".join(words[:2] if words[0] == "run" else words[:1])] = [status, out.getvalue(), error.getvalue()]


tell("--version")
tell("run", "--help")
import tinywave_core
student = Path(tinywave_core.__file__).parent / "base/release/student"
import soundfile
sound, rate = soundfile.read(clip)
for name, half in (("first.wav", sound[: len(sound) // 2]), ("last.wav", sound[len(sound) // 2 :])):
    soundfile.write(here / name, half, rate)
(here / "pairs.jsonl").write_text('{"id": "a", "pos": "first.wav", "neg": "last.wav"}')
tell("tokens", clip, "--tokenizer", str(student))
import tinywave.transformers
told["ids"] = tinywave.TinyWaveProcessor.from_pretrained(student)(audio=clip)["input_ids"][0]
tell("generate", str(student), "--prompt-audio", clip, "--max-new-tokens", "30", "--min-new-tokens", "30", "--wav", str(here / "a.wav"))
tell("evaluate", str(student), "--suite", f"pairs={here}")
tell("run", "ingestion", "--source", str(here), "--root", str(here / "store"))
tell("inspect", "--root", "s3://bucket/store")
tell("talk", str(student), "--port", "-1")
with wave.open(str(here / "a.wav")) as made:
    told["seconds"] = made.getnframes() / made.getframerate()
told["from"] = tinywave_core.__file__
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_install.build_wheel(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def modules(wheel: Path) -> set[str]:
    """What can be imported where nothing but the wheel was asked for."""
    return small_install.modules_of(small_install.needed(small_install.requirements_of(wheel)).values())


@pytest.fixture(scope="module")
def told(wheel: Path, modules: set[str], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What each command did there: its exit status, what it printed and what it complained of."""
    site, here = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("here")
    small_install.install(wheel, site)
    command, environment = small_install.python(site, modules, SCRIPT, str(CLIP), str(here))
    done = subprocess.run(command, env=os.environ | environment, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_no_package_of_the_pipeline_comes_with_the_small_install(modules: set[str]):
    assert {"torch", "transformers", "huggingface_hub", "uvicorn"} <= modules
    # torch brings jinja2.
    assert not modules & ({*MODULES["pipeline"], *MODULES["s3"], "torchfcpe", "dask", "ray", "fairseq2"} - {"jinja2"})


def test_commands_on_an_exported_model_work_with_the_small_install(told: dict):
    assert "/site" in told["from"]
    assert told["--version"][:2] == [0, f"tinywave {PROJECT['version']}\n"]
    assert told["run --help"][0] == 0 and "--distillation.layers INT" in told["run --help"][1]
    status, line, _ = told["tokens"]
    assert status == 0 and len(json.loads(line)["ids"]) > 40 and told["ids"] == json.loads(line)["ids"]
    status, text, _ = told["generate"]
    assert status == 0 and json.loads(text)["new_tokens"] == 30 and told["seconds"] > 0.3
    assert told["evaluate"][0] == 0 and "chance is 50 %" in told["evaluate"][1]
    assert "--port is -1" in told["talk"][2]  # after all that a server needs was imported


def test_what_needs_an_extra_says_which(told: dict):
    status, _, error = told["run ingestion"]
    assert status == 2 and error.startswith("error: `tinywave run` needs the extra pipeline (prefect, faiss, ")
    assert error.endswith("are not installed): pip install 'tinywave[pipeline]'\n") and error.count("\n") == 1
    status, _, error = told["inspect"]
    assert (status, error) == (
        2,
        "error: s3://bucket/store needs the extra s3 (s3fs, botocore, aiohttp are not installed): pip install 'tinywave[s3]'\n",
    )


def test_the_wheel_has_every_file_of_the_packages(wheel: Path):
    """What is read beside the code: presets, pages, templates, the base with its recordings' licences."""
    listed = subprocess.run(["git", "ls-files", *LAYERS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"tinywave_core/config/presets/demo.toml", "tinywave_core/serving/page.html"} <= {*listed.split()}
    assert not {*listed.splitlines()} - {*zipfile.ZipFile(wheel).namelist()}


def test_every_package_of_an_extra_is_asked_for_by_that_extra():
    """MODULES and pyproject.toml name the same, in Python's and in PyPI's names."""
    names = {"silero_vad": "silero-vad", "faiss": "faiss-cpu", "mlflow": "mlflow-skinny"}
    brought_along = {"botocore", "aiohttp"}  # by s3fs
    for extra, modules in MODULES.items():
        asked = {line.partition(";")[0].strip() for line in PROJECT["optional-dependencies"][extra]}
        packages = {small_install.Requirement(line).name for line in asked}
        assert {names.get(module, module) for module in modules} - brought_along == packages - {"fairseq2", "tinywave"}


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["cff-version"] == "1.2.0" and citation["title"] == "TinyWave" and citation["message"]
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2506.23670"


def test_the_changelog_has_a_section_for_this_version_or_what_comes_next():
    heads = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert any(head in ("## [Unreleased]", f"## [{PROJECT['version']}]") for head in heads[:2])

"""The fixed packages work together: all import, in one fresh process, in the versions that pyproject.toml fixes."""

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

# Elsewhere its native half has no wheel that works by itself (infra/decisions/0024-platforms.md).
HAS_FAIRSEQ2 = (sys.platform, platform.machine()) == ("linux", "x86_64")
FIXED = ("torch", "torchaudio", "transformers", "prefect", "pyarrow", "s3fs", "faiss")
# Prefect's server is a module of its own that newer FastAPIs break; fairseq2 needs its native half too.
MODULES = (*FIXED, "prefect.server.api.server", "soundfile", *(["fairseq2n.bindings", "fairseq2"] * HAS_FAIRSEQ2))
VERSIONS = {"torch": "2.9.1", "torchaudio": "2.9.1", "prefect": "3.8.8"} | (
    {"fairseq2": "0.8.1", "fairseq2n": "0.8.1"} if HAS_FAIRSEQ2 else {}
)
SCRIPT = """
import importlib, json, pathlib, sys
from tinywave_core.audio.libsndfile import preload
answer = {"preloaded": str(preload())}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        answer[name] = "imported"
    except BaseException as error:
        answer[name] = f"{type(error).__name__}: {error}"
maps = pathlib.Path("/proc/self/maps")
lines = maps.read_text().splitlines() if maps.exists() else []
answer["libsndfile"] = sorted({line.split()[-1] for line in lines if "libsndfile" in line})
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def imported() -> dict:
    """What became of every import in one child process: they are heavy, and some of them noisy."""
    command = [sys.executable, "-c", SCRIPT, *MODULES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", MODULES)
def test_module_imports(imported: dict, module: str):
    assert imported[module] == "imported"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc: run on Linux")
def test_fairseq2_runs_on_the_libsndfile_inside_the_soundfile_wheel(imported: dict):
    assert imported["libsndfile"] == [imported["preloaded"]], "another libsndfile was loaded beside the wheel's"


@pytest.mark.parametrize(("package", "expected"), VERSIONS.items())
def test_version_is_the_fixed_one(package: str, expected: str):
    assert version(package).partition("+")[0] == expected

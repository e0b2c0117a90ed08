"""A finished run of the tiny pipeline and SpiritLM releases, for every test that only looks at them or copies them."""

import atexit
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from flows import environment

# A machine may be told to keep no bytecode beside the sources. Then it is kept here: the tests start a hundred processes, and half
# of what one costs would be to compile torch, transformers and Prefect once more.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = tempfile.mkdtemp(prefix="tinywave-bytecode-")
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": sys.pycache_prefix}  # an empty one is none
    atexit.register(shutil.rmtree, sys.pycache_prefix, ignore_errors=True)
# The cores are shared out already; threads that wait for one another would burn them.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
# Before torch and Prefect are imported: threads as in a run, and a server that calls nobody.
environment.prepare(quiet=False)

from tests.fixtures import release  # noqa: E402
from tests.fixtures.tiny import Computed, copy_clips, run_tiny, tiny_config  # noqa: E402
from tinywave_core.config.pipeline import PipelineConfig  # noqa: E402
from tinywave_core.steps.base import Outputs  # noqa: E402
from tinywave_core.storage.store import Store  # noqa: E402

pytest_plugins = ["tests.reporting"]

# On a busy machine no example is too slow, and none is found on one machine only. Fixtures of a property test are made once
# for all its examples: each such test writes what it needs anew.
settings.register_profile(
    "tinywave",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tinywave")


# What takes minutes first and thousands of short tests last, so that all processes end together.
FIRST = (
    "infra",
    "ui",
    "flows",
    "stages",
    "machines",
    "s3",
    "conventions",
    "core/training",
    "core/audio",
    "core/storage",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Folders that take long come first."""
    if not config.getoption("nightly"):
        items[:] = [item for item in items if item.get_closest_marker("nightly") is None]
    items.sort(key=lambda item: next((i for i, folder in enumerate(FIRST) if folder in _folders(item)), len(FIRST)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-machines", action="store_true", help="every instruction set with one and two threads")
    parser.addoption("--nightly", action="store_true", help="the tests marked nightly too, which take long")
    parser.addoption("--full-release", type=Path, help="a release of full size that is written already")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "arithmetic: tested under other instruction sets too (tests/machines)")
    config.addinivalue_line(
        "markers", "one_machine: in a file of arithmetic, but it holds alike under all instruction sets"
    )
    config.addinivalue_line("markers", "nightly: the same claim with many more draws; only by make test-nightly")


class ByFile(LoadScopeScheduling):
    """A file goes to one process, and so do all that share a Prefect server; each kind of machine is a process anyway."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file == "tests/machines/test_arithmetic.py":
            return nodeid
        return "tests/flows" if file.startswith("tests/flows/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """In place of `--dist loadfile`; xdist's own groups do not work under pytest 9.2."""
    return ByFile(config, log)


def _folders(item: pytest.Item) -> set[str]:
    return {folder.as_posix() for folder in item.path.relative_to(Path(__file__).parent).parents}


@dataclass(frozen=True)
class Finished:
    """A run that is over. Its store is shared: copy it to change it."""

    config: PipelineConfig
    store: Store
    outputs: Outputs
    computed: Computed


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_clips(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="session")
def finished(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    config = tiny_config(tiny_source, tmp_path_factory.mktemp("finished") / "store")
    outputs, computed = run_tiny(config)
    return Finished(config, Store(config.root), outputs, computed)


@pytest.fixture(scope="session")
def small_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with all parts at toy size."""
    return release.write_small_release(tmp_path_factory.mktemp("small_release"))


@pytest.fixture(scope="session")
def full_release(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """The speech tokenizer of the golden vectors at its released size: 0.8 GB, written once for all processes of a test run."""
    written: Path | None = pytestconfig.getoption("full_release")
    if written:
        return written
    base = tmp_path_factory.getbasetemp()
    # A process of several has a folder of its own within the one of the test run.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "full_release"
    with FileLock(folder.with_suffix(".lock")):
        whole = folder.with_suffix(".whole")
        if not whole.exists():
            release.write_speech_tokenizer(folder)
            whole.touch()
    return folder

"""A disk that is full in the middle of a stage: the error counts bytes, and when there is room the run goes on to the same bytes."""

import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Finished
from tests.fixtures.tiny import copy_store, digests, run_tiny
from tinywave_core.config.pipeline import STAGES
from tinywave_core.errors import StoreFullError
from tinywave_core.storage import store as storage
from tinywave_core.storage.store import Store

IN_EVERY_RUN = ("tokenization", "generation")  # seconds each; the others by make test-nightly


@contextmanager
def full_after(size: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file grows beyond `size` bytes. The disk itself has room, so any disk counts as full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "FULL_DISK_BYTES", sys.maxsize)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "stage", [pytest.param(s, marks=[] if s in IN_EVERY_RUN else pytest.mark.nightly) for s in STAGES]
)
def test_a_full_disk_is_counted_in_bytes_and_the_run_goes_on_when_there_is_room(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
):
    config = copy_store(finished.config, tmp_path / "store")
    shutil.rmtree(Path(config.root, stage))
    with (
        full_after(2048, monkeypatch),
        pytest.raises(
            StoreFullError,
            match=rf"is full: {stage}/.* (takes more than the|needs) [\d,]+ bytes.* and [\d,]+ bytes are free",
        ),
    ):
        run_tiny(config, until=stage)
    run_tiny(config, until=stage)
    assert digests(Store(config.root)) == digests(finished.store)

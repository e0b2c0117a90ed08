"""Shards on a local Dask and a local Ray cluster of two workers: the bytes of one process, and only missing shards are sent.

Each takes one of the stages that consist of shards: starting workers is most of what these tests cost.
"""

from pathlib import Path

import pytest

from flows.stages import logit_caching, tokenization
from tests.conftest import Finished
from tests.fixtures.runners import require_the_bytes_of_one_process, without_shards

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_two_dask_workers_leave_the_bytes_of_one_process(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = without_shards(finished, "tokenization", tmp_path / "store", "dask")
    require_the_bytes_of_one_process(tokenization, config, finished, monkeypatch)


def test_two_ray_workers_leave_the_bytes_of_one_process(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = without_shards(finished, "logit_caching", tmp_path / "store", "ray")
    require_the_bytes_of_one_process(logit_caching, config, finished, monkeypatch)

"""Shards in other processes: two of them leave the bytes of one, only missing shards are sent, and none outlives its run."""

import multiprocessing
import threading
import time
from pathlib import Path

import pytest
from prefect import task

from flows.stages import ingestion
from tasks import runners
from tasks.runners import Workers
from tests.conftest import Finished
from tests.fixtures.runners import require_the_bytes_of_one_process, without_shards
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.config.load import load_config
from tinywave_core.errors import ConfigError, SourceError, WorkerDiedError

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_two_processes_leave_the_bytes_of_one_and_are_not_started_again(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = without_shards(finished, "ingestion", tmp_path / "store", "processes")
    require_the_bytes_of_one_process(ingestion, config, finished, monkeypatch)


@task
def work_without_end() -> None:
    while True:
        time.sleep(3600)


@task
def find_the_source_empty() -> None:
    raise SourceError("no audio in /speech: pass another --source")


def test_a_run_that_is_stopped_takes_its_workers_with_it():
    with pytest.raises(KeyboardInterrupt), Workers(RuntimeConfig(runner="processes", workers=1)) as workers:
        workers.submit(work_without_end, {})
        (child,) = started_children()
        raise KeyboardInterrupt
    child.join()


def started_children() -> list[multiprocessing.process.BaseProcess]:
    while not (found := multiprocessing.active_children()):
        time.sleep(0.05)
    return found


def test_a_worker_that_is_killed_ends_the_stage_with_the_shards_that_are_not_done(finished: Finished, tmp_path: Path):
    config = without_shards(finished, "ingestion", tmp_path / "store", "processes")

    def kill() -> None:
        for child in started_children():
            child.kill()

    threading.Thread(target=kill).start()
    with pytest.raises(WorkerDiedError, match=r"not done are shard \w{8}, .*lower --runtime.workers, and run again"):
        ingestion(config)
    assert not multiprocessing.active_children()


def test_an_error_about_the_input_keeps_its_kind_and_text_between_processes():
    with Workers(RuntimeConfig(runner="processes", workers=1)) as workers:
        with pytest.raises(SourceError, match="no audio in /speech: pass another --source"):
            workers.submit(find_the_source_empty, {}).result()


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_runner_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch, runner: str):
    monkeypatch.setattr(runners, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"pip install 'tinywave\[{runner}\]'"):
        Workers(RuntimeConfig(runner=runner))


def test_an_address_without_a_cluster_is_refused():
    with pytest.raises(ConfigError, match="cluster is tcp://head:8786, but runner is threads"):
        load_config("demo", {"runtime.cluster": "tcp://head:8786"})

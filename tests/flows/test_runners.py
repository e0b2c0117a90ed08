"""Shards in other processes: two workers of each runner leave the bytes of one process, and only missing shards are sent."""

import multiprocessing
import shutil
import time
from pathlib import Path

import pytest
from prefect import Flow, task

from flows.ingestion import ingestion
from flows.logit_caching import logit_caching
from flows.tokenization import tokenization
from tasks import runners
from tasks.runners import Workers
from tests.conftest import Finished
from tests.fixtures.tiny import copy_store, digests
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.config.load import load_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError, SourceError
from tinywave_core.reporting.stages import StageRow
from tinywave_core.storage.store import Store

pytestmark = pytest.mark.usefixtures("prefect_server")

# Each runner takes another of the stages that consist of shards: starting workers is most of what these tests cost.
RUNNERS = [("processes", ingestion), ("dask", tokenization), ("ray", logit_caching)]


def without_shards(finished: Finished, stage: str, root: Path, runner: str) -> PipelineConfig:
    """A copy of a finished store without the shards of a stage and what is made of them."""
    if stage == "ingestion":
        config = finished.config.model_copy(update={"root": str(root)})
    else:
        config = copy_store(finished.config, root)
        for step in finished.computed.of(stage):
            if step.part in ("shard", "tokens", "logits"):
                shutil.rmtree(root / step.id)
    return config.model_copy(update={"runtime": config.runtime.model_copy(update={"runner": runner})})


def of_stage(store: Store, stage: str) -> dict[str, dict[str, str]]:
    return {name: files for name, files in digests(store).items() if name.startswith(f"{stage}/")}


@pytest.mark.parametrize(("runner", "stage_flow"), RUNNERS, ids=[runner for runner, _ in RUNNERS])
def test_two_workers_leave_the_bytes_of_one_process_and_are_not_started_again(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str, stage_flow: Flow
):
    pytest.importorskip({"dask": "prefect_dask", "ray": "prefect_ray"}.get(runner, "prefect"))
    config = without_shards(finished, stage_flow.name, tmp_path / "store", runner)
    before = digests(Store(config.root))
    stage_flow(config)
    made = of_stage(Store(config.root), stage_flow.name)
    assert len(made.keys() - before.keys()) > 2
    assert made == of_stage(finished.store, stage_flow.name)

    monkeypatch.setattr(Workers, "submit", lambda *_: pytest.fail("a shard that is in the store was sent"))
    assert StageRow.model_validate(stage_flow(config)["row"]).status == "cached"


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

"""A step hears of a stop and of its time limit when it tells how far it is."""

import logging
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks import progress, stopping
from tests.fixtures.summaries import Anything
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.progress import GOES_ON
from tinywave_core.steps.base import Output, Step, Summary
from tinywave_core.storage.store import Store


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a task run there is no page to tell."""
    for name in ("update", "finish"):
        monkeypatch.setattr(progress._ProgressArtifact, name, lambda *_: None)


def nothing(step: Step, output: Output) -> Summary:
    return Anything()


def step_of(root: Path, **runtime: float) -> Step:
    limits = RuntimeConfig.model_validate(runtime)
    return Step(Store(str(root)), "ingestion", "shard", 1, nothing, PipelineConfig(), runtime=limits)


def test_a_step_that_is_still_at_work_after_its_hours_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with pytest.raises(
        TimeoutError, match=r"ingestion shard was still at 7 of 9 after runtime.step_timeout_hours, 2 hours"
    ):
        with progress.step_progress(step_of(tmp_path, step_timeout_hours=2), in_terminal=False) as tell:
            now[0] += 7199
            tell(6, 9)
            now[0] += 2
            tell(7, 9)


def test_a_training_that_goes_on_says_so_once_in_the_run_s_log_and_its_pace_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("a run"))
    caplog.set_level(logging.INFO, "a run")
    with progress.step_progress(step_of(tmp_path)) as tell:
        now[0] += 60  # until the model is loaded
        for _ in range(3):
            tell(8001, 10_001, GOES_ON)
        now[0] += 50
        tell(8101, 10_001, "loss 1")
    said = "ingestion shard goes on from the checkpoint of a run that was stopped: 8000 of 10001 steps were done"
    assert caplog.messages == [said]
    lines = capfd.readouterr().err.split("\n")
    # A hundred steps took 50 s: 1900 more take 950.
    assert lines == [f"    {said}", "    ingestion shard: 8101 of 10001 loss 1, about 950 s left", ""]


def test_without_a_limit_a_step_takes_as_long_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.step_progress(step_of(tmp_path), in_terminal=False) as tell:
        now[0] += 1e9
        tell(7, 9)


def test_a_process_that_is_told_to_stop_stops_at_the_next_progress(tmp_path: Path):
    stopping.requested.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            with progress.step_progress(step_of(tmp_path), in_terminal=False) as tell:
                tell(1, 2)
    finally:
        stopping.requested.clear()


def test_a_server_that_is_gone_does_not_end_a_step(tmp_path: Path):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        page = progress._ProgressArtifact(step_of(tmp_path))
        page.id = uuid4()
        page._show(50.0, "half")

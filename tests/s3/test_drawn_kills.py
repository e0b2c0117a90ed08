"""kill -9 at drawn moments of every stage of a run whose store is on S3: tests/stages/test_drawn_kills.py has the local ones."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished
from tests.fixtures.kills import draws, stage_of, store_before, survive
from tests.stages.test_two_runs import two_runs_are_one
from tinywave_core.config.pipeline import STAGES


@pytest.mark.parametrize("number", draws(remote=True))
def test_a_run_on_s3_killed_at_any_moment_is_finished_by_the_next_as_if_nothing_had_happened(
    s3: Any, finished: Finished, tmp_path: Path, number: int
):
    local = store_before(stage_of(number), finished, tmp_path / "store")
    for path in Path(local.root).rglob("*"):
        name = path.relative_to(local.root).as_posix()
        if path.is_file() and name.startswith((*STAGES, "pins", "catalog", "store.json")):
            s3.upload_file(str(path), "tiny-store", f"kills/{number}/{name}")
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    config = local.model_copy(update={"root": f"s3://tiny-store/kills/{number}"})
    survive(number, finished, config, {**environment, "TMPDIR": tempfile.gettempdir()})


@pytest.mark.nightly
def test_of_two_runs_at_once_on_s3_the_second_is_told_who_holds_the_store(s3: Any, finished: Finished):
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    config = finished.config.model_copy(update={"root": "s3://tiny-store/at-once"})
    two_runs_are_one(finished, config, {**environment, "TMPDIR": tempfile.gettempdir()})

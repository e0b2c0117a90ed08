"""Requests on S3 that a plan tells are those that a run makes, at two sizes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.tiny import CLIPS, copy_clips, tiny_config
from tinywave_core.costs.scale import REQUESTS
from tinywave_core.run.pipeline import run_pipeline
from tinywave_core.steps.base import compute, find_steps
from tinywave_core.storage.s3 import S3
from tinywave_core.storage.store import Store


@pytest.mark.parametrize("clips", [3, 8])
def test_requests_of_ingestion_are_those_that_a_plan_counts(
    s3: Any, tmp_path: Path, clips: int, monkeypatch: pytest.MonkeyPatch
):
    requests: Counter[str] = Counter()
    call = S3._call_s3

    async def counted(self: S3, method: str, *arguments: Any, **options: Any) -> Any:
        requests[method] += 1
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(S3, "_call_s3", counted)
    source = copy_clips(tmp_path / "source", CLIPS[:clips])
    config = tiny_config(source, f"s3://tiny-store/{clips}", ingestion={"shard_megabytes": 0.001})
    store = Store(config.root)

    def execute(steps: Any) -> Any:
        return [a if a.complete else compute(step) for step, a in zip(steps, find_steps(steps), strict=True)]

    run_pipeline(config, store, execute, until="ingestion")
    once, each = REQUESTS["ingestion"]
    assert sum(requests.values()) == pytest.approx(once + each * clips, rel=0.25)

"""What the terminal says of a published student that something speaks against."""

from pathlib import Path

import pytest

from flows.publish import publish_model
from flows.run import show_record
from tests.fixtures.small_run import SUMMARIES, small_run
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.run.promotion import promote
from tinywave_core.steps.base import compute_all
from tinywave_core.storage.store import Store

WORSE = {"distillation_gain_nll": -0.2, "distillation_gain_nll_interval": [-0.3, -0.1]}


@pytest.mark.parametrize(("changes", "warned"), [(WORSE, 1), ({}, 0)])
def test_a_run_and_publish_warn_of_a_student_that_is_worse_than_its_control(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], warned: int
):
    made = SUMMARIES["scores"]
    record, outputs = small_run(tmp_path, scores=made | {"comparison": made["comparison"] | changes})
    promotion = promote(PipelineConfig(root=str(tmp_path)), Store(str(tmp_path)), outputs, compute_all)
    again = promote(PipelineConfig(root=str(tmp_path)), Store(str(tmp_path)), outputs, compute_all)
    assert (again.outcome, again.warning) == ("already", promotion.warning)
    show_record(record.model_copy(update={"promotion": promotion}), 1.0)
    after_run = capsys.readouterr().out
    assert publish_model(str(tmp_path), None) == 0
    shown = capsys.readouterr().out
    for said in (after_run, shown):
        assert said.count("Warning: the published student is worse than its undistilled control") == warned
    assert "Published: the first student of this store." in after_run
    assert shown.splitlines()[-1].endswith("/model")

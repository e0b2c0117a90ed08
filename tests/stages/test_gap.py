"""The gap between student and teacher in the tiny pipeline: figures, files, and that it is left out where not wanted."""

import json

import numpy as np
import pytest
import soundfile

from tests.conftest import Finished
from tests.fixtures.tiny import run_tiny
from tinywave_core.stages.evaluation.gap import GAPS, WORST
from tinywave_core.storage.shards import read_table


def test_every_figure_is_in_the_table_with_an_interval_around_it(finished: Finished):
    gap = finished.outputs["gap"]
    rows = read_table(gap.path(GAPS)).to_pylist()
    assert len(rows) == len(gap.summary["figures"]) > 0
    assert all(row["interval"][0] <= row["value"] <= row["interval"][1] for row in rows)
    assert {row["model"] for row in rows} == {"student", "control"}


def test_blocks_are_compared_with_those_they_learned_from(finished: Finished):
    gap, student = finished.outputs["gap"].summary, finished.outputs["student"].summary
    assert gap["pairs"] == student["layers_aligned"] == [[0, 1], [1, 3]]
    assert np.shape(gap["cosines"]["student"]) == np.shape(gap["cosines"]["control"]) == (2, 4)


def test_the_gap_in_nll_is_that_of_the_scores(finished: Finished):
    """Another step, another forward pass, the same utterances: so the same figure."""
    gap, scores = finished.outputs["gap"].summary, finished.outputs["scores"].summary
    assert gap["tokens"] == scores["held_out"]["tokens"]
    for model in ("student", "control"):
        (figure,) = [f for f in gap["figures"] if (f["model"], f["measure"], f["group"]) == (model, "nll_gap", "all")]
        expected = scores["models"][model]["nll"] - scores["models"]["teacher"]["nll"]
        assert figure["value"] == pytest.approx(expected, abs=1e-4)


def test_the_worst_utterances_can_be_heard_and_their_costs_stand_at_their_times(finished: Finished):
    gap = finished.outputs["gap"]
    rows = json.loads(gap.path(WORST).read_text())
    assert len(rows) == gap.summary["worst"] > 0
    means = [np.mean(row["gap"]) for row in rows]
    assert means == sorted(means, reverse=True)
    for row in rows:
        seconds = soundfile.info(gap.path(row["file"])).duration
        assert len(row["times_s"]) == len(row["gap"])
        assert row["times_s"] == sorted(row["times_s"])
        assert row["times_s"][-1] == pytest.approx(seconds, abs=0.1)
        assert np.mean(row["gap"]) == pytest.approx(row["nll"]["student"] - row["nll"]["teacher"], abs=1e-3)


def test_no_utterances_no_gap_and_the_scores_stay(finished: Finished):
    evaluation = finished.config.evaluation
    without = evaluation.model_copy(update={"gap": evaluation.gap.model_copy(update={"utterances": 0})})
    outputs, computed = run_tiny(finished.config.model_copy(update={"evaluation": without}))
    assert "gap" not in outputs
    assert not computed.ran

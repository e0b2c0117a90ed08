"""Likelihood in the tiny pipeline: what the report says is the sum of what the Parquet says."""

import math

import numpy as np
import pytest

from tests.conftest import Finished
from tinywave_core.evals.comparison import STREAMS
from tinywave_core.evals.figures import MODELS
from tinywave_core.stages.evaluation.summary import ScoresSummary
from tinywave_core.storage.shards import read_table


@pytest.fixture(scope="module")
def columns(finished: Finished) -> dict[str, np.ndarray]:
    table = read_table(finished.outputs["scores"].path("utterances.parquet"))
    return {name: np.array(values) for name, values in table.to_pydict().items()}


def test_bits_by_stream_are_those_of_the_utterances(finished: Finished, columns: dict[str, np.ndarray]):
    models = ScoresSummary.of(finished.outputs["scores"]).models
    for name in MODELS:
        for stream in STREAMS:
            bits = columns[f"{name}_{stream}_nll"].sum() / math.log(2) / columns["seconds"].sum()
            assert models[name].by_stream[stream].bits_per_second == pytest.approx(bits)


def test_streams_and_markers_make_up_the_whole(finished: Finished, columns: dict[str, np.ndarray]):
    tokens = sum(columns[f"{stream}_tokens"] for stream in STREAMS)
    markers = columns["tokens"] - tokens
    assert (markers == 2).all()  # [Speech] and </s>: the fresh teacher's convention is the fast one
    for name in MODELS:
        assert (sum(columns[f"{name}_{stream}_nll"] for stream in STREAMS) < columns[f"{name}_nll"]).all()


def test_ratio_to_the_teacher_is_that_of_both_nlls(finished: Finished):
    scores = ScoresSummary.of(finished.outputs["scores"])
    teacher, student, ratio = scores.models["teacher"], scores.models["student"], scores.ratios["student"]
    assert ratio.nll == pytest.approx(student.nll / teacher.nll)
    assert teacher.perplexity and ratio.perplexity == pytest.approx((student.perplexity or 0) / teacher.perplexity)
    assert ratio.nll_interval and ratio.nll_interval[0] <= (ratio.nll or 0) <= ratio.nll_interval[1]


def test_only_what_follows_the_prompt_of_long_utterances_is_a_continuation(
    finished: Finished, columns: dict[str, np.ndarray]
):
    after = ScoresSummary.of(finished.outputs["scores"]).continuation
    long = columns["seconds"] >= 2.5
    assert ((columns["continuation_tokens"] > 0) == long).all()
    assert (columns["continuation_tokens"] < columns["tokens"] - 2).all()
    assert after.utterances == long.sum()
    assert after.seconds == pytest.approx((columns["seconds"][long] - 1.0).sum())
    for name in MODELS:
        nll = columns[f"{name}_continuation_nll"].sum() / columns["continuation_tokens"].sum()
        assert after.models[name].nll == pytest.approx(nll)

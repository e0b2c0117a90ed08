"""Likelihood in the tiny pipeline: what the report says is the sum of what the Parquet says."""

import math

import numpy as np
import pytest

from tests.conftest import Finished
from tinywave_core.stages.evaluation.scores import MODELS, STREAMS
from tinywave_core.storage.shards import read_table


@pytest.fixture(scope="module")
def columns(finished: Finished) -> dict[str, np.ndarray]:
    table = read_table(finished.outputs["scores"].path("utterances.parquet"))
    return {name: np.array(values) for name, values in table.to_pydict().items()}


def test_bits_by_stream_are_those_of_the_utterances(finished: Finished, columns: dict[str, np.ndarray]):
    models = finished.outputs["scores"].summary["models"]
    for name in MODELS:
        for stream in STREAMS:
            bits = columns[f"{name}_{stream}_nll"].sum() / math.log(2) / columns["seconds"].sum()
            assert models[name]["by_stream"][stream]["bits_per_second"] == pytest.approx(bits)


def test_streams_and_markers_make_up_the_whole(finished: Finished, columns: dict[str, np.ndarray]):
    tokens = sum(columns[f"{stream}_tokens"] for stream in STREAMS)
    markers = columns["tokens"] - tokens
    assert (markers == 2).all()  # [Speech] and </s>: the fresh teacher's convention is the fast one
    for name in MODELS:
        assert (sum(columns[f"{name}_{stream}_nll"] for stream in STREAMS) < columns[f"{name}_nll"]).all()


def test_ratio_to_the_teacher_is_that_of_both_nlls(finished: Finished):
    scores = finished.outputs["scores"].summary
    models, found = scores["models"], scores["ratios"]["student"]
    assert found["nll"] == pytest.approx(models["student"]["nll"] / models["teacher"]["nll"])
    assert found["perplexity"] == pytest.approx(models["student"]["perplexity"] / models["teacher"]["perplexity"])
    assert found["nll_interval"][0] <= found["nll"] <= found["nll_interval"][1]


def test_only_what_follows_the_prompt_of_long_utterances_is_a_continuation(
    finished: Finished, columns: dict[str, np.ndarray]
):
    found = finished.outputs["scores"].summary["continuation"]
    long = columns["seconds"] >= 2.5
    assert ((columns["continuation_tokens"] > 0) == long).all()
    assert (columns["continuation_tokens"] < columns["tokens"] - 2).all()
    assert found["utterances"] == long.sum()
    assert found["seconds"] == pytest.approx((columns["seconds"][long] - 1.0).sum())
    for name in MODELS:
        nll = columns[f"{name}_continuation_nll"].sum() / columns["continuation_tokens"].sum()
        assert found["models"][name]["nll"] == pytest.approx(nll)

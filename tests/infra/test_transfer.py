"""The study with a better teacher: what it trains, in which order, what it makes of figures, and what it says where a training broke."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from infra.benchmarks import arms, transfer
from infra.benchmarks.arms import Bench, Draws, Measured, Run
from infra.benchmarks.speech import Recording
from infra.benchmarks.transfer import ARMS, CONTROL, MAIN, Figures, Study
from tinywave_core.audio.cutting import split_of
from tinywave_core.config.load import load_config
from tinywave_core.errors import TrainingError

SETTINGS = transfer.SETTINGS | {"source": "somewhere", "root": "store"}
INGESTION = load_config("demo", SETTINGS).ingestion
TOKENS = np.array([100.0, 50.0, 150.0])
NOTHING = {"kl": np.zeros(3), "agreement": np.zeros(3), "next_token": np.zeros(3), "choices": {}}


class Held:
    """Three held-out utterances."""

    utterances, tokens, chance = ["a", "b", "c"], TOKENS, 0.25


def model(per_token: float, uneven: float = 0.0) -> Measured:
    """A model of this NLL, by so much worse on the first utterance and better on the last."""
    nll = (per_token + uneven * np.array([0.15, 0.0, -0.1])) * TOKENS
    return Measured(10, nll=nll, **(NOTHING | {"next_token": 0.5 * TOKENS}))


def figures(**cells: dict[int, Measured]) -> Figures:
    return Figures(Held(), model(2.0), {(name, 0.1): seeds for name, seeds in cells.items()})


def study(**changes) -> Study:
    given = {"arms": tuple(ARMS), "shares": (0.05, 0.1, 1.0), "other_share": 0.1, "seeds": 2} | changes
    return Study(Bench("demo", SETTINGS), **given)


def test_every_arms_settings_are_valid_and_its_control_is_of_the_same_start_and_share():
    tried = study(seeds=1)
    for (arm, share), run in ((cell, tried.run(*cell, 0)) for cell in tried.cells):
        config = tried.bench.config(dict(run.own), 0).distillation
        assert config.share == share
        if arm in ARMS:
            control = tried.bench.config(dict(tried.run(ARMS[arm].control, share, 0).own), 0).distillation.control()
            assert control.start == config.start
            if arm != "segment":  # which names the same blocks in other words
                assert control == config.control()


def test_main_arms_are_trained_at_every_share_and_the_others_at_one_of_them_first():
    cells = study().cells
    assert {share for arm, share in cells if arm in (*MAIN, CONTROL)} == {0.05, 0.1, 1.0}
    assert {share for arm, share in cells if arm not in (*MAIN, CONTROL)} == {0.1}
    assert cells[:2] == [(CONTROL, 0.1), ("logits", 0.1)] and len(set(cells)) == len(cells)
    assert study(arms=("logits",)).cells == [(arm, share) for share in (0.1, 0.05, 1.0) for arm in (CONTROL, "logits")]


def test_a_difference_that_is_the_same_everywhere_has_no_width_and_one_that_is_not_has():
    made = figures(logits={0: model(3.0, 1.0), 1: model(3.5, 1.0)}, control={0: model(3.2, 1.0), 1: model(3.7, 1.0)})
    (found,) = made.differences()
    assert found["nll"] == pytest.approx([-0.2, -0.2, -0.2]) and found["against"] == CONTROL
    made = figures(logits={0: model(3.0), 1: model(3.6)}, control={0: model(3.2), 1: model(3.7)})
    (found,) = made.differences()
    assert found["nll"] == pytest.approx([-0.15, -0.2, -0.1])  # the mean, and the seeds alone


def test_a_seed_that_one_of_a_pair_lacks_counts_for_neither():
    made = figures(logits={1: model(3.0)}, control={0: model(9.0), 1: model(3.2)})
    (found,) = made.differences()
    assert found["nll"][0] == pytest.approx(-0.2) and found["seeds"] == 1
    assert made.row((CONTROL, 0.1))["nll"][0] == pytest.approx(6.1)
    assert made.row((CONTROL, 0.1))["above_chance"][0] == pytest.approx(0.25)


def test_draws_of_utterances_weigh_them_by_their_tokens():
    whole = Draws(3, 1)(np.array([[1.0, 2.0, 3.0]]) * TOKENS, TOKENS)
    assert whole[0] == pytest.approx((100 + 100 + 450) / 300) and whole.min() >= 1 and whole.max() <= 3


def results(**cells) -> dict:
    """What a study of these cells at 10 % would have found."""
    made = figures(**cells)
    trained = {"steps": [9, 9], "best_step": [8, 0], "train_tokens": 900, "seconds": [1.0]}
    broken = ["seed 1: at step 3 the loss is nan"]
    return {
        "cells": [{"arm": arm, "share": 0.1, "broken": [], **trained, **made.row((arm, 0.1))} for arm in cells]
        + [{"arm": "all", "share": 0.1, "broken": broken, "steps": [], "best_step": [], "train_tokens": 0, "seconds": []}],
        "teacher": made.of_teacher(),
        "differences": list(made.differences()),
        "floors": {"0.1": 4.0},
        "curves": {"logits": [[1.0, 2.0], [4.0, 3.0]]},
        "gradients": {"all at 10 %": {"step": [1], "weighted/logits": [2.0], "weighted/hidden": [0.02], "cosine/logits/hidden": [0.5]}},
        "parameters": {"teacher": 20, "student": 10},
        "held_out": {"utterances": 3, "tokens": 300, "chance": 0.25},
        "tokens": {"train_seconds": 5940.0},
        "seeds": 2,
        "other_share": 0.1,
        "aim": 0.15,
        "minutes": 1.0,
        "settings": {},
    }  # fmt: skip


HELPS = results(control={0: model(3.4)}, logits={0: model(3.2)}, hidden={0: model(3.1)}, attention={0: model(3.25)})


def test_the_verdict_names_the_gain_and_where_layer_terms_help_and_hurt():
    gain, regions, chance = transfer.verdict(HELPS)
    assert "gains 0.300 nats" in gain and "(logits + hidden)" in gain and "reached" in gain
    assert "2 comparisons: they help at 10 % (logits + hidden, 0.100)" in regions
    assert "they hurt at 10 % (logits + attention, -0.050)" in regions and "0.1 would" in chance
    small = results(control={0: model(3.2)}, logits={0: model(3.1)})
    gain, regions = transfer.verdict(small)
    assert "missed" in gain and "none in which they help; none in which they hurt" in regions


def test_a_training_that_broke_has_a_row_that_says_so():
    (row,) = [r for r in transfer.cell_rows(HELPS) if r["model"] == ARMS["all"].title]
    assert row["NLL"] == "–" and "broke: seed 1: at step 3 the loss is nan" in row["note"]
    assert "kept the weights of the start" in transfer.cell_rows(HELPS)[1]["note"]


def test_the_page_has_every_table_picture_and_sentence():
    html = transfer.render(HELPS)
    assert html.count("<svg") == 5 and html.count("<circle") == 2 * 4
    assert "hidden pulls at 1 % of its size (cosine 0.50): hardly felt" in html
    assert "broke: seed 1" in html and "logits + hidden" in html and "99 minutes" in html.replace("\n", " ")
    assert "4.000 at 10 %" in html.replace("\n", " ")


def test_no_voice_that_is_unnamed_or_large_is_held_out_and_no_file_comes_twice(monkeypatch):
    def made(path: str, speaker: str, minutes: float) -> Recording:
        return Recording(path, path, speaker, minutes)

    big = next(name for name in map(str, range(99)) if split_of(INGESTION, name, "") == "held_out")
    given = [made(f"/one/s{n}.wav", f"s{n}", 0.5) for n in range(40)]
    given += [made(f"/one/big{n}.wav", big, 1.5) for n in range(2)] + [made(f"/one/u{n}.wav", "", 9) for n in range(9)]
    given += [made("/two/s3.flac", "s3", 0.5), made("/two/odd_encodings/x.wav", "s4", 0.5)]
    monkeypatch.setattr(transfer, "recordings_of", lambda _: given)
    found = transfer.chosen([], ["odd_encodings"], INGESTION)
    assert len(found) == 51 and {r.path.split("/")[1] for r in found} == {"one"}
    held_out = {r.speaker for r in found if split_of(INGESTION, r.speaker, "") == "held_out"}
    assert held_out and held_out == {r.speaker for r in given[:40] if split_of(INGESTION, r.speaker, "") == "held_out"}


def test_an_arm_that_diverges_is_told_and_the_others_are_trained(monkeypatch):
    class Artifact:
        complete = False

        def __init__(self, name: str) -> None:
            self.id = name

    trained = []

    def train(_, run: Run) -> float:
        if run.arm == "bad":
            raise TrainingError("at step 3 the loss is nan")
        trained.append(run.arm)
        return 1.0

    runs = [
        Run.of("bad", {}, 0),
        Run.of("good", {}, 0),
        Run.of("same", {}, 0, "control"),
        Run.of("again", {}, 0, "control"),
    ]
    ids = {"bad": "1", "good": "2", "same": "3", "again": "3"}
    monkeypatch.setattr(arms, "_pool", ThreadPoolExecutor)  # of this process, which starts at once
    monkeypatch.setattr(arms, "_train", train)
    monkeypatch.setattr(Bench, "artifact", lambda _, run: Artifact(ids[run.arm]))
    broken = Bench("demo", {}).train(runs, 1)
    assert broken == {runs[0]: "at step 3 the loss is nan"}
    assert trained == ["good", "same"]  # two arms share a control

"""Probes in the tiny pipeline: made, scored, cached, and left out where they are not wanted."""

from pathlib import Path

import soundfile

from tests.conftest import Finished
from tests.fixtures.tiny import copy_store, run_tiny, tiny_config
from tinywave_core.stages.evaluation.probes import SCORES, read_index
from tinywave_core.storage.shards import read_table


def test_every_pair_of_the_index_is_two_recordings_to_listen_to(finished: Finished):
    probes = finished.outputs["probes"]
    rows = read_index(probes)
    assert rows
    for row in rows:
        for version in ("positive", "negative"):
            info = soundfile.info(probes.path(row[version]))
            assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
            assert info.frames == row["samples"] > row[f"{version}_splice_samples"] > 0
    assert len(probes.files) == 2 * len(rows) + 1


def test_pairs_are_made_of_held_out_speech_alone(finished: Finished):
    held_out = {
        row["utterance_id"]
        for shard in finished.outputs["corpus"].summary["shards"]
        for row in read_table(finished.store.find(shard).path("utterances.parquet")).to_pylist()
        if row["split"] == "held_out"
    }
    rows = read_index(finished.outputs["probes"])
    assert {i for row in rows for i in [row["group"], *row["others"].split()]} <= held_out


def test_counts_add_up_and_what_is_absent_has_a_reason(finished: Finished):
    made = finished.outputs["probes"].summary
    assert set(made["items"]) | set(made["absent"]) >= {"wrong_continuation", "gender_swap", "reversed_order", "room"}
    assert all(0 < count <= 2 for count in made["items"].values())
    assert "genders tells it" in made["absent"]["gender_swap"]
    assert made["utterances"] > made["without_pause"] >= 0


def test_teacher_student_and_control_score_the_same_pairs(finished: Finished):
    scores = finished.outputs["probe_scores"]
    made = finished.outputs["probes"].summary["items"]
    table = read_table(scores.path(SCORES))
    assert scores.summary["items"] == table.num_rows == sum(made.values())
    assert {probe: figures["items"] for probe, figures in scores.summary["probes"].items()} == made
    right = [
        (p > n) + (p == n) / 2
        for p, n in zip(table["student_positive_whole"], table["student_negative_whole"], strict=True)
        for p, n in [(p.as_py(), n.as_py())]
    ]
    assert sum(right) / len(right) == scores.summary["overall"]["student"]["accuracy"]


def test_a_pair_of_which_the_second_part_differs_has_other_scores_there(finished: Finished):
    rows = read_table(finished.outputs["probe_scores"].path(SCORES)).to_pylist()
    swapped = [row for row in rows if row["probe"] == "wrong_continuation"]
    assert swapped
    assert all(row["teacher_positive_continuation"] != row["teacher_negative_continuation"] for row in swapped)
    assert all(row["teacher_positive_whole"] != row["teacher_positive_continuation"] for row in swapped)


def test_probes_of_other_settings_leave_scores_as_they_are_and_reach_the_model_card(finished: Finished, tmp_path: Path):
    config = copy_store(finished.config, tmp_path / "store")
    more = tiny_config(config.source, config.root, evaluation={"probes": {"items": 1}})
    _, computed = run_tiny(more)
    assert computed.parts() == ["evaluation/probes", "evaluation/probe_scores", "export/model", "generation/samples"]
    _, again = run_tiny(more)
    assert again.parts() == []


def test_no_items_wanted_make_no_probes(finished: Finished, tmp_path: Path):
    config = copy_store(finished.config, tmp_path / "store")
    outputs, computed = run_tiny(tiny_config(config.source, config.root, evaluation={"probes": {"items": 0}}))
    assert "probes" not in outputs and computed.parts() == ["export/model", "generation/samples"]
    assert "Pairs of recordings" not in (outputs["model"].path("model") / "README.md").read_text()

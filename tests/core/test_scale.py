"""What a plan says of a run beside its time and bytes, against runs that were measured and figures worked out by hand."""

import pytest

from tests.conftest import Finished
from tinywave_core.config.load import load_config
from tinywave_core.costs.budget import budget
from tinywave_core.costs.estimates import Estimate
from tinywave_core.costs.scale import REQUESTS, host_bytes, scale, uploaded_checkpoints

COSTS = {name: Estimate(0.0, 1e9) for name in REQUESTS}


def test_task_runs_are_those_of_a_run(finished: Finished):
    steps = finished.computed.steps
    shards = sum((step.stage, step.part) == ("ingestion", "shard") for step in steps)
    assert shards
    assert scale(finished.config, 0.01, COSTS, "cpu", 12, shards).task_runs == pytest.approx(len(steps), rel=0.25)


def test_ten_thousand_hours_are_ten_thousand_shards_of_an_hour_in_three_stages():
    found = scale(load_config("base-2b", {"ingestion.shard_megabytes": "61.2"}), 10_000, COSTS, "cuda", 3_000_000)
    assert (found.shards, found.task_runs) == (10_000, 30_014)
    assert found.listing_s == 200


@pytest.mark.parametrize(
    ("layers", "width", "rows", "measured_mib"),
    [(2, 128, 8, 973), (8, 512, 4, 2409)],  # peak of a process that adapts such a teacher (decision 46)
)
def test_memory_of_a_training_process_is_that_of_runs(layers: int, width: int, rows: int, measured_mib: int):
    shape = {"layers": layers, "width": width, "heads": width // 64, "intermediate": width * 11 // 4}
    flags = {f"adaptation.fresh.{name}": str(value) for name, value in shape.items()}
    training = {"batch_tokens": str(512 * rows), "sequence_length": "512"}
    flags |= {f"adaptation.training.{name}": value for name, value in training.items()}
    config = load_config("demo", flags | {"adaptation.teacher": "fresh", "runtime.micro_batch_rows": str(rows)})
    assert host_bytes(config, 0.42, "cpu", of="teacher") / 2**20 == pytest.approx(measured_mib, rel=0.25)


def test_sequences_take_160_bytes_each_in_every_process():
    config = load_config("base-2b", {})
    more = host_bytes(config, 50_000, "cuda", of="student") - host_bytes(config, 5_000, "cuda", of="student")
    # An utterance has 12 s: 45,000 h without the held-out share are 13.5 M of them.
    sequences = 45_000 * 3600 / 12 * (1 - config.ingestion.held_out_fraction)
    assert more == pytest.approx(160 * sequences)


def test_a_local_store_needs_no_requests_and_one_on_s3_keeps_copies_of_what_is_read():
    local, remote = (scale(load_config("demo", {"root": root}), 1, COSTS, "cpu", 9, 9) for root in ("store", "s3://a"))
    assert (local.s3_requests, local.s3_up_bytes, local.disk_bytes) == (0, 0, 8e9)
    assert (remote.s3_down_bytes, remote.disk_bytes) == (3e9, 3e9)
    assert remote.s3_up_bytes > 8e9  # and checkpoints


def test_each_checkpoint_of_teacher_student_and_control_goes_up_with_weights_moments_and_the_best_weights():
    flags = {
        "root": "s3://a",
        "runtime.checkpoint_every": "500",
        "validation.fraction": "0.01",
        "adaptation.method": "full",
    }
    config = load_config("base-2b", flags)
    found, models = uploaded_checkpoints(config, 10_000), budget(config, 10_000)
    # 2,000 steps of the teacher are three checkpoints before its end, 6,000 of student and control eleven each.
    uploaded = 16 * (3 * models.teacher_parameters + 22 * models.student_parameters)
    assert found[1] == uploaded
    assert found[0] == pytest.approx(uploaded / (16 << 20), rel=0.01)
    adapters = uploaded_checkpoints(load_config("base-2b", flags | {"adaptation.method": "lora"}), 10_000)
    assert adapters[1] == 16 * 22 * models.student_parameters
    with_them = scale(config, 10_000, COSTS, "cuda", 1, 1)
    assert with_them.s3_up_bytes == len(COSTS) * 1e9 + uploaded and with_them.s3_requests > found[0]

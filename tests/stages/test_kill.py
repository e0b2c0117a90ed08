"""kill -9 in the middle of every stage: the next run goes on, and what it leaves is what an undisturbed run leaves.

The moments that have a name; hundreds of drawn ones by `make break-run` (test_drawn_kills.py).

Compared up to the stage that was killed, with what its steps reported: later stages read nothing else, and what they make of the
same is test_contract.py's.
"""

from pathlib import Path

import pytest

from tests.conftest import Finished
from tests.fixtures.killed import kill_after_create, kill_before_create, kill_in_step, whole_run
from tests.fixtures.kills import KILLED, leftovers, store_before, up_to
from tests.fixtures.tiny import digests, run_tiny
from tinywave_core.config.pipeline import STAGES
from tinywave_core.run.pipeline import run_pipeline
from tinywave_core.steps.base import Step, compute
from tinywave_core.storage.store import Artifact, Store

# A step of every stage, and how far it is when it is killed (training: after its first checkpoint, at step 2 of 6).
MOMENTS = [
    ("ingestion/shard", 3),
    ("ingestion/corpus", 1),
    ("tokenization/codebooks", 4),
    ("tokenization/shard", 3),
    ("adaptation/teacher", 3),
    ("logit_caching/shard", 1),
    ("distillation/student", 3),
    ("distillation/control", 5),
    ("evaluation/scores", 10),
    ("evaluation/probes", 2),
    ("evaluation/probe_scores", 10),
    ("evaluation/gap", 2),
    ("export/model", 1),
    ("generation/samples", 1),
]


@pytest.mark.parametrize(("part", "done"), MOMENTS, ids=[part for part, _ in MOMENTS])
def test_a_killed_run_is_finished_by_the_next_as_if_nothing_had_happened(
    finished: Finished, tmp_path: Path, part: str, done: int
):
    stage = part.partition("/")[0]
    config = store_before(stage, finished, tmp_path / "store")
    assert kill_in_step(config, part, done) == KILLED
    assert up_to(stage, Store(config.root)) != up_to(stage, finished.store)
    run_tiny(config, until=stage)
    assert up_to(stage, Store(config.root)) == up_to(stage, finished.store)
    assert not leftovers(config)


@pytest.mark.parametrize("part", ["adaptation/teacher", "distillation/student"])
def test_training_goes_on_from_its_last_checkpoint(finished: Finished, tmp_path: Path, part: str):
    stage = part.partition("/")[0]
    config = store_before(stage, finished, tmp_path / "store")
    assert kill_in_step(config, part, 5) == KILLED
    steps_done: list[int] = []

    def execute(steps: list[Step]) -> list[Artifact]:
        return [compute(step, lambda done, *_, step=step: note(step, done)) for step in steps]

    def note(step: Step, done: int) -> None:
        if f"{step.stage}/{step.part}" == part:
            steps_done.append(done)

    run_pipeline(config, Store(config.root), execute, until=stage)
    assert steps_done == [5, 6]  # killed at step 5, the last checkpoint is of step 4


@pytest.mark.parametrize("stage", STAGES)
def test_files_without_their_manifest_are_no_artifact(finished: Finished, tmp_path: Path, stage: str):
    config = store_before(stage, finished, tmp_path / "store")
    assert kill_before_create(config, f"{stage}/*/manifest.json") == KILLED
    (folder,) = [path for path in Path(config.root, stage).iterdir() if not (path / "manifest.json").exists()]
    assert any(folder.iterdir())
    assert not Store(config.root).find(f"{stage}/{folder.name}").complete
    run_tiny(config, until=stage)
    assert up_to(stage, Store(config.root)) == up_to(stage, finished.store)
    assert not leftovers(config)


@pytest.mark.parametrize(("stage", "record"), [("ingestion", "catalog/*"), ("tokenization", "pins/*")])
def test_a_run_killed_before_it_wrote_down_what_it_took_or_pinned(
    finished: Finished, tmp_path: Path, stage: str, record: str
):
    config = store_before(stage, finished, tmp_path / "store")
    assert kill_before_create(config, record) == KILLED
    outputs, _ = run_tiny(config, until=stage)
    assert outputs.items() <= finished.outputs.items()
    assert up_to(stage, Store(config.root)) == up_to(stage, finished.store)


@pytest.mark.parametrize(
    "stage", [stage if stage == "adaptation" else pytest.param(stage, marks=pytest.mark.nightly) for stage in STAGES]
)
def test_a_manifest_is_enough_for_the_run_after_a_kill(finished: Finished, tmp_path: Path, stage: str):
    """Killed right after it, before a pin, a catalog or the next stage heard of the artifact."""
    config = store_before(stage, finished, tmp_path / "store")
    assert kill_after_create(config, f"{stage}/*/manifest.json") == KILLED
    (made,) = (artifact for artifact in Store(config.root).artifact_ids(stage))
    _, computed = run_tiny(config, until=stage)
    assert made in {step.id for step in computed.steps} - {step.id for step in computed.ran}
    assert up_to(stage, Store(config.root)) == up_to(stage, finished.store)


@pytest.mark.nightly
@pytest.mark.parametrize("record", ["published/000001.json", "runs/000001.json"])
def test_a_run_killed_before_its_last_records_is_written_down_by_the_next(
    finished: Finished, tmp_path: Path, record: str
):
    config = store_before("generation", finished, tmp_path / "store")
    assert kill_before_create(config, record) == KILLED
    assert not Path(config.root, record).exists()
    whole_run(config)
    store = Store(config.root)
    assert [len(store.log(name).records()) for name in ("published", "runs")] == [1, 1]
    assert digests(store) == digests(finished.store)

"""What every stage promises: whole manifests, same bytes twice, nothing run twice, nothing trusted that is damaged."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished
from tests.fixtures.tiny import copy_store, digests, run_tiny, summaries, tiny_config
from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.errors import DamagedArtifactError
from tinywave_core.run.pipeline import Look, run_pipeline
from tinywave_core.steps.base import compute
from tinywave_core.storage.store import Artifact, Store

every_stage = pytest.mark.parametrize("stage", STAGES)

# One setting of each stage, and the stages whose outputs it changes.
SETTINGS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "ingestion": ({"ingestion": {"min_silence_s": 0.4}}, set(STAGES)),
    "tokenization": ({"tokenization": {"seed": 1}}, set(STAGES) - {"ingestion"}),
    "adaptation": ({"adaptation": {"training": {"learning_rate": 1e-3}}}, set(STAGES[2:])),
    "logit_caching": ({"logit_caching": {"seed": 1}}, set(STAGES[3:])),
    "distillation": ({"distillation": {"training": {"learning_rate": 2e-4}}}, set(STAGES[4:])),
    "evaluation": ({"evaluation": {"seed": 1}}, {"evaluation", "export", "generation"}),
    "export": ({"export": {"dtype": "bfloat16"}}, {"export", "generation"}),
    "generation": ({"generation": {"seed": 1}}, {"generation"}),
}


@pytest.fixture(scope="module")
def again(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A second run from scratch in another store, with other runtime settings."""
    root = tmp_path_factory.mktemp("again") / "store"
    runtime = {"workers": 1, "decode_timeout_s": 60.0, "checkpoint_every": 4}
    run_tiny(tiny_config(finished.config.source, root, runtime=runtime))
    return Store(str(root))


def of(stage: str, found: dict[str, Any]) -> dict[str, Any]:
    return {artifact_id: value for artifact_id, value in found.items() if artifact_id.startswith(f"{stage}/")}


def artifacts(stage: str, store: Store) -> list[Artifact]:
    return [store.find(artifact_id) for artifact_id in store.artifact_ids(stage)]


def planned(config: PipelineConfig) -> dict[str, list[str]]:
    """Ids of all steps by stage, as far as a run with `config` would find them in the store."""
    look = Look()
    run_pipeline(config, Store(config.root), look)
    ids: dict[str, list[str]] = {}
    for step, _ in look.steps:
        ids.setdefault(step.stage, []).append(step.id)
    return ids


@every_stage
def test_the_manifest_lists_every_file_with_its_size_and_digest(finished: Finished, stage: str):
    for artifact in artifacts(stage, finished.store):
        folder = Path(finished.config.root, artifact.id)
        found = {
            str(path.relative_to(folder)): (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in folder.rglob("*")
            if path.is_file() and path != folder / "manifest.json"
        }
        assert artifact.manifest is not None
        assert {entry.name: (entry.bytes, entry.sha256) for entry in artifact.manifest.files} == found
        assert found or artifact.part == "logits"  # totals need no file


@every_stage
def test_two_runs_from_scratch_give_the_same_bytes(finished: Finished, again: Store, stage: str):
    first = of(stage, digests(finished.store))
    assert first
    assert first == of(stage, digests(again))
    assert of(stage, summaries(finished.store)) == of(stage, summaries(again))


@every_stage
def test_a_second_run_computes_nothing(finished: Finished, stage: str):
    _, second = run_tiny(finished.config)
    assert second.of(stage)
    assert not second.ran


@every_stage
def test_a_step_that_is_in_the_store_does_not_run(finished: Finished, stage: str):
    for step in finished.computed.of(stage):
        assert compute(replace(step, run=lambda *_: pytest.fail("ran again"))).complete


@pytest.mark.parametrize(
    "runtime",
    [
        {"device": "auto"},
        {"workers": 7, "threads": 2},
        {"decode_timeout_s": 9.0, "decode_memory_mb": 1024},
        {"micro_batch_rows": 2, "checkpoint_every": 1, "retries": 0},
    ],
    ids=str,
)
def test_runtime_settings_identify_nothing(finished: Finished, runtime: dict[str, Any]):
    changed = tiny_config(finished.config.source, finished.config.root, runtime=runtime)
    assert planned(changed) == planned(finished.config)


@pytest.fixture(scope="module")
def changed_ids(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """For each stage the ids of all stages in a run in which one of its settings was changed.

    Computed as far as ids depend on what was computed (shards, totals); from there on they are known beforehand.
    """
    ids = {}
    for stage, (settings, _) in SETTINGS.items():
        root = tmp_path_factory.mktemp("changed") / "store"
        copy_store(finished.config, root)
        config = tiny_config(finished.config.source, root, **settings)
        run_tiny(config, until="logit_caching")
        ids[stage] = planned(config)
    return ids


@every_stage
def test_a_setting_changes_its_stage_and_exactly_what_builds_on_it(
    finished: Finished, changed_ids: dict[str, dict[str, list[str]]], stage: str
):
    before = planned(finished.config)
    after = changed_ids[stage]
    assert {each for each in STAGES if before[each] != after[each]} == SETTINGS[stage][1]


# A file that each stage reads: stage/part of its artifact, and its name.
READS = {
    "ingestion": ("ingestion/shard", "utterances.parquet"),
    "tokenization": ("ingestion/shard", "audio.parquet"),
    "adaptation": ("tokenization/shard", "tokens.parquet"),
    "logit_caching": ("adaptation/teacher", "teacher/model.safetensors"),
    "distillation": ("logit_caching/shard", "logits.parquet"),
    "evaluation": ("distillation/control", "model/model.safetensors"),
    "export": ("distillation/student", "model/model.safetensors"),
    "generation": ("export/model", "model/model.safetensors"),
}


@every_stage
def test_a_flipped_bit_in_an_input_is_found_and_named(finished: Finished, tmp_path: Path, stage: str):
    config = copy_store(finished.config, tmp_path / "store")
    part, name = READS[stage]
    damaged = next(step.id for step in finished.computed.steps if f"{step.stage}/{step.part}" == part)
    _flip_a_bit(Path(config.root, damaged, name))
    shutil.rmtree(Path(config.root, ".index"), ignore_errors=True)  # made from the input while it was sound
    for step in finished.computed.of(stage):
        if step.id != damaged:
            shutil.rmtree(Path(config.root, step.id))
    with pytest.raises(DamagedArtifactError, match=f"{damaged}/{name} is damaged.*tinywave repair --root"):
        run_tiny(config, until=stage)


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@every_stage
def test_a_deleted_output_is_made_again_with_the_same_bytes_and_nothing_else(
    finished: Finished, tmp_path: Path, stage: str
):
    config = copy_store(finished.config, tmp_path / "store")
    for artifact in artifacts(stage, Store(config.root)):
        shutil.rmtree(Path(config.root, artifact.id))
    _, computed = run_tiny(config)
    assert {step.stage for step in computed.ran} == {stage}
    assert len(computed.ran) == len(artifacts(stage, finished.store))
    assert digests(Store(config.root)) == digests(finished.store)

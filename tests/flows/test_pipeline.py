"""The pipeline as Prefect sees it: a run gives a student, a second run computes nothing and says why."""

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal
from transformers import AutoModelForCausalLM, AutoTokenizer

from flows.pipeline import pipeline
from flows.stages import adaptation, tokenization
from tasks import stopping
from tasks.progress import _ProgressArtifact
from tests.conftest import Finished
from tests.fixtures.tiny import CLIPS, NEW_CLIP, copy_clips, copy_store, digests, tiny_config
from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.errors import MissingInputError
from tinywave_core.progress import GOES_ON
from tinywave_core.run.record import RunRecord
from tinywave_core.storage.store import Store

pytestmark = pytest.mark.usefixtures("prefect_server")
PATIENCE_S = 30


@dataclass(frozen=True)
class Ran:
    """A flow run: what it returned, and its id in the server."""

    record: RunRecord
    id: UUID

    @property
    def statuses(self) -> dict[str, str]:
        return {row.stage: row.status for row in self.record.rows}


def run(config: PipelineConfig) -> Ran:
    state = pipeline(config, return_state=True)
    return Ran(RunRecord.model_validate(state.result()), state.state_details.flow_run_id)


def task_states(flow_run: UUID, number: int) -> Counter[str]:
    """Names of the final states of the task runs below a flow run, once the server has heard of all `number`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        stages = [r["id"] for r in listed("flow_runs", {"parent_flow_run_id": {"any_": [str(flow_run)]}})]
        states = [r["state"] for r in listed("task_runs", {"id": {"any_": stages}})]
        final = [state["name"] for state in states if state["type"] in ("COMPLETED", "FAILED", "CRASHED")]
        if len(final) >= number or time.monotonic() > deadline:
            return Counter(final)
        time.sleep(0.2)


def listed(what: str, flow_runs: dict[str, Any]) -> list[dict[str, Any]]:
    with get_client(sync_client=True) as client:
        return list(client.request("POST", f"/{what}/filter", json={"flow_runs": flow_runs, "limit": 200}).json())


def artifacts_since(start: str) -> set[str]:
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/filter", json={"limit": 200, "sort": "CREATED_DESC"}).json()
    return {artifact["key"] for artifact in found if artifact["created"] >= start}


@pytest.fixture(scope="module")
def first(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineConfig, Ran]:
    config = tiny_config(tiny_source, tmp_path_factory.mktemp("prefect") / "store")
    return config, run(config)


@pytest.fixture(scope="module")
def second(first: tuple[PipelineConfig, Ran]) -> Iterator[tuple[Ran, set[str]]]:
    with get_client(sync_client=True) as client:
        now = client.request("POST", "/artifacts/filter", json={"limit": 1, "sort": "CREATED_DESC"}).json()[0]
    ran = run(first[0])
    return ran, artifacts_since(now["created"])


def test_a_fresh_run_computes_every_stage_and_gives_the_bytes_of_the_core(
    finished: Finished, first: tuple[PipelineConfig, Ran]
):
    config, ran = first
    assert set(ran.statuses.values()) == {"run"}
    assert {row.why for row in ran.record.rows} == {"never computed in this store"}
    assert digests(Store(config.root)) == digests(finished.store)
    assert task_states(ran.id, 20) == {"Completed": 21}


def test_the_student_loads_with_plain_transformers_and_generates(first: tuple[PipelineConfig, Ran]):
    folder = first[1].record.student
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    prompt = tokenizer("[Speech][Hu1][Hu2]", return_tensors="pt")
    new = model.generate(prompt["input_ids"], attention_mask=prompt["attention_mask"], max_new_tokens=4)
    assert 1 <= new.shape[1] - prompt["input_ids"].shape[1] <= 4


def test_a_run_leaves_its_record_its_report_and_its_samples(first: tuple[PipelineConfig, Ran]):
    config, ran = first
    assert Path(ran.record.report).read_text().startswith("<!doctype html>")
    assert ran.record.samples and all(Path(sample).is_file() for sample in ran.record.samples)
    assert Store(config.root).log("runs").records()[ran.record.number - 1]["student"] == ran.record.student


def test_a_second_run_computes_nothing_and_says_why(second: tuple[Ran, set[str]]):
    ran, _ = second
    assert ran.statuses == dict.fromkeys(STAGES, "cached")
    why = {row.stage: row.why for row in ran.record.rows}
    for stage in ("tokenization", "adaptation", "export"):  # codebooks, teacher, voice
        assert why.pop(stage).startswith("pinned ")
    assert set(why.values()) == {"same settings and inputs as before"}


def test_the_tasks_of_a_second_run_are_cached(second: tuple[Ran, set[str]]):
    """Single steps are sent to Prefect; of the fan-outs over shards nothing is."""
    assert task_states(second[0].id, 14) == {"Cached": 15}


def test_a_cached_run_shows_every_stage(second: tuple[Ran, set[str]]):
    assert {stage.replace("_", "-") for stage in STAGES} | {"run", "report"} <= second[1]


def test_a_lost_output_is_made_again_and_nothing_else(first: tuple[PipelineConfig, Ran], tmp_path: Path):
    """Prefect has a record of this very result: it must not say Cached about an output that is gone."""
    config = copy_store(first[0], tmp_path / "store")
    for part in ("scores", "student"):
        shutil.rmtree(Path(config.root, first[1].record.outputs[part]))
    ran = run(config)
    computed = {f"{row.stage}/{s.part}": s.why for row in ran.record.rows for s in row.steps if not s.cached}
    assert computed == dict.fromkeys(("distillation/student", "evaluation/scores"), "its output is missing or damaged")
    assert digests(Store(config.root)) == digests(Store(first[0].root))


def test_one_more_file_runs_only_what_depends_on_it(first: tuple[PipelineConfig, Ran], tmp_path: Path):
    source = copy_clips(tmp_path / "source", (*CLIPS, NEW_CLIP))
    ran = run(copy_store(first[0], tmp_path / "store").model_copy(update={"source": str(source)}))
    assert ran.statuses == {
        "ingestion": "run",
        "tokenization": "2 of 5 run",
        "adaptation": "cached",
        "logit_caching": "2 of 4 run",
        "distillation": "run",
        "evaluation": "3 of 4 run",  # new training speech makes no new probes
        "export": "1 of 2 run",  # the voice stays
        "generation": "run",
    }
    why = {f"{row.stage}/{step.part}": step.why for row in ran.record.rows for step in row.steps if not step.cached}
    assert why["tokenization/shard"] == why["logit_caching/shard"] == "new shard"
    assert why["distillation/student"].startswith("new input: ")


def alone(stage_flow: Flow[..., Any], config: PipelineConfig) -> dict[str, Any]:
    return stage_flow(config)


def test_one_stage_alone_finds_its_inputs_in_the_store(finished: Finished, tmp_path: Path):
    config = copy_store(finished.config, tmp_path / "store")
    shutil.rmtree(Path(config.root, "tokenization"))
    returned = alone(tokenization, config)
    assert returned["outputs"] == {"tokens": finished.outputs["tokens"].id}
    assert digests(Store(config.root)) == digests(finished.store)


def test_one_stage_alone_says_which_inputs_are_missing(tiny_source: Path, tmp_path: Path):
    with pytest.raises(MissingInputError, match="needs the output of ingestion.*run `tinywave run ingestion`"):
        alone(tokenization, tiny_config(tiny_source, tmp_path / "empty"))


# A run that is cancelled ------------------------------------------------------------------------------------------


@pytest.fixture
def outlives_sigterm() -> Iterator[None]:
    """Prefect hands the signal on to whoever had it before; a process of its own would end by it."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)
    stopping.requested.clear()


@pytest.mark.usefixtures("outlives_sigterm")
def test_a_training_that_is_cancelled_keeps_its_last_step_and_the_next_run_goes_on_from_it(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Prefect cancels a run by SIGTERM to its process."""
    root = copy_store(finished.config, tmp_path / "store").root
    training = {"steps": 100_000, "learning_rate": 1e-5}  # hours, were it not stopped
    config = tiny_config(
        finished.config.source, root, adaptation={"training": training}, runtime={"checkpoint_every": 90_000}
    )
    told: list[tuple[int, str]] = []

    def cancel(_: object, done: int, total: int, note: str) -> None:
        told.append((done, note))
        if len(told) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(_ProgressArtifact, "update", cancel)
    before = digests(Store(root))
    for _ in range(2):
        first, kept = len(told), checkpoints(root)
        stopping.requested.clear()
        with pytest.raises(TerminationSignal):
            alone(adaptation, config)
        assert told[first][0] == max([0, *kept]) + 1
        assert (told[first][1] == GOES_ON) is bool(kept)
        assert checkpoints(root)[-1] == told[-1][0] + 1  # the step that was done when it heard of the stop
        assert digests(Store(root)) == before  # nothing half-written is taken for an artifact
        told.clear()


def checkpoints(root: str) -> list[int]:
    """Steps that are kept, in their order, but for the start."""
    found = Path(root, ".work").glob("adaptation-*/resume/step-*/state.json")
    return sorted(step for state in found if (step := int(state.parent.name.removeprefix("step-"))))

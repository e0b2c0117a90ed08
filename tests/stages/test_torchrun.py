"""A training step in two gloo processes: the artifact of one process, whole; its errors; its death."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Finished
from tests.fixtures.tiny import copy_store
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import ConfigError, SchemaVersionError
from tinywave_core.stages.distillation.summary import StudentSummary
from tinywave_core.steps.base import Output, Step, compute
from tinywave_core.storage.records import seal
from tinywave_core.storage.store import Store
from tinywave_core.training import launch
from tinywave_core.training.launch import MachineLostError

TWO = {"training_processes": 2, "micro_batch_rows": 1}
# Never reached: so that a step still trains when something happens to it, on however slow a machine.
MANY_STEPS = 20_000
SOME_STEPS = 60
Told = list[tuple[int, int]]


def again(finished: Finished, part: str, root: Path, **runtime: int) -> Step:
    """A training step of the finished run, in a copy of its store that does not have its output."""
    config = copy_store(finished.config, root)
    (step,) = [step for step in finished.computed.of("distillation") if step.part == part]
    shutil.rmtree(root / step.id)
    store = Store(config.root)
    inputs = {name: [store.find(a.id) for a in artifacts] for name, artifacts in step.inputs.items()}
    return replace(step, store=store, inputs=inputs, runtime=step.runtime.model_copy(update={**TWO, **runtime}))


def trained(step: Step, **training: int) -> Step:
    """The step with other settings of its training."""
    changed = step.config.training.model_copy(update=training)
    return replace(step, config=step.config.model_copy(update={"training": changed}))


def processes() -> dict[str, int]:
    """The processes of a training that this process has started, by rank, and `torchrun` above them."""
    (torchrun,) = children(os.getpid(), "torch.distributed.run")
    return {"torchrun": torchrun} | {environment(pid)["RANK"]: pid for pid in children(torchrun, launch.__name__)}


def children(parent: int, command: str) -> list[int]:
    pids = " ".join(map(told_by, Path(f"/proc/{parent}/task").glob("*/children"))).split()
    return [int(pid) for pid in pids if command in told_by(Path(f"/proc/{pid}/cmdline"))]


def told_by(path: Path) -> str:
    """A file of /proc; nothing if its thread or process has ended meanwhile."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def environment(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def checkpoints(step: Step) -> list[int]:
    states = step.store.work_folder(step.id).glob("resume/step-*/state.json")
    return sorted(json.loads(path.read_text())["step"] for path in states)


def test_the_student_of_two_processes_is_whole_and_that_of_one(finished: Finished, tmp_path: Path):
    step = again(finished, "student", tmp_path / "store", shard_teacher=True)
    told: Told = []
    made = compute(step, lambda done, total, note="": told.append((done, total)))
    # Row by row too, as two processes cut a batch of two rows: AdamW turns another rounding into 1e-4 of the weights.
    expected = compute(again(finished, "student", tmp_path / "one", training_processes=1))
    assert made.files == expected.files
    weights, of_one = (load_file(a.path("model/model.safetensors")) for a in (made, expected))
    assert weights.keys() == of_one.keys()
    assert all(torch.allclose(weights[name], of_one[name], rtol=0, atol=1e-4) for name in of_one)
    losses, losses_of_one = (pq.read_table(a.path("curves.parquet"))["loss"].to_pylist() for a in (made, expected))
    assert losses == pytest.approx(losses_of_one, rel=1e-4)
    summary, summary_of_one = ({**a.summary, "final": None, "nll_at_start": None} for a in (made, expected))
    # Sums over validation rows that are shared out otherwise: their last digits depend on the kind of CPU.
    nll, nll_of_one = (each["training"].pop("validation_nll") for each in (summary, summary_of_one))
    assert nll == pytest.approx(nll_of_one, rel=1e-4)
    assert summary == summary_of_one
    assert [done for done, total in dict.fromkeys(told) if total == 6] == [1, 2, 3, 4, 5, 6]
    assert not list(Path(step.store.root, ".work").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc: run on Linux")
def test_after_kill_9_of_a_process_the_next_run_goes_on_and_a_stop_ends_all_of_them(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    step = trained(again(finished, "control", tmp_path / "store"), steps=MANY_STEPS)

    killed: list[int] = []

    def kill_the_second(done: int, total: int, note: str = "") -> None:
        if total == MANY_STEPS and done >= 5 and not killed:
            killed.append(processes()["1"])
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(RuntimeError, match=r"failed or was killed(.|\n)*Signal 9 \(SIGKILL\) received"):
        compute(step, kill_the_second)
    assert not step.find().complete
    before = checkpoints(step)[-1]
    assert before >= 4

    told: list[int] = []
    started: dict[str, int] = {}

    def stop(done: int, total: int, note: str = "") -> None:
        """As Ctrl-C and SIGTERM arrive: with a call of `progress`."""
        if total == MANY_STEPS:
            told.append(done)
            started.update(processes())
            raise KeyboardInterrupt

    def late(process: "subprocess.Popen[bytes]", terminate=subprocess.Popen.terminate) -> None:
        """The processes have trained on, and told of it, before they hear of the stop."""
        assert process.stdout is not None
        assert len([process.stdout.readline() for _ in range(3)]) == 3
        terminate(process)

    monkeypatch.setattr(subprocess.Popen, "terminate", late)
    never = step.runtime.model_copy(update={"checkpoint_every": 10**6})
    with pytest.raises(KeyboardInterrupt):
        compute(replace(step, runtime=never), stop)
    assert told == [before + 1]
    assert started.keys() == {"torchrun", "0", "1"}
    assert not any(Path(f"/proc/{pid}").exists() for pid in started.values())
    assert before + 3 < checkpoints(step)[-1] < MANY_STEPS


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc: run on Linux")
def test_two_machines_train_together_and_when_one_falls_silent_the_other_goes_on_alone_with_the_same_batches(
    finished: Finished, tmp_path: Path
):
    """Two torchruns that share nothing but the store, and meet on a port, stand for two machines."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        rendezvous = f"127.0.0.1:{probe.getsockname()[1]}"
    meets = {
        "training_nodes": 2,
        "rendezvous": rendezvous,
        "training_processes": 1,
        "checkpoint_every": 2,
        "machine_timeout_s": 4,
    }
    step = trained(again(finished, "control", tmp_path / "store", **meets), steps=SOME_STEPS)
    join = [sys.executable, "-m", "tinywave_core.training.join", "--rendezvous", rendezvous, "--device", "cpu"]
    with (tmp_path / "joined").open("wb") as log:
        joined = subprocess.Popen(
            [*join, "--nodes=2", "--node=1", "--processes=1"], stderr=log, stdin=subprocess.DEVNULL
        )
    told: list[int] = []
    stopped: list[int] = []

    def stop_the_other_machine(done: int, total: int, note: str = "") -> None:
        if total == SOME_STEPS:
            told.append(done)
        if told[-1:] == [3] and not stopped:
            (agent,) = children(joined.pid, "torch.distributed.run")
            stopped.extend((agent, *children(agent, launch.__name__), joined.pid))
            for pid in stopped:  # as a machine without power: its connections stay open
                os.kill(pid, signal.SIGSTOP)

    try:
        with pytest.raises(
            MachineLostError, match=rf"machine 1 \({socket.gethostname()}\) gave no sign of life for 4 s"
        ):
            compute(step, stop_the_other_machine)
    finally:
        joined.kill()
        joined.wait()
        for pid in stopped[:-1]:
            os.kill(pid, signal.SIGKILL)
    assert told[:3] == [1, 2, 3] and not step.find().complete
    before = checkpoints(step)[-1]
    assert 2 <= before < SOME_STEPS
    alone = step.runtime.model_copy(update={"training_nodes": 1, "rendezvous": None})
    after: list[int] = []
    made = compute(replace(step, runtime=alone), lambda done, *_: after.append(done))
    assert after[0] == before + 1
    expected = compute(trained(again(finished, "control", tmp_path / "one", training_processes=1), steps=SOME_STEPS))
    losses, wanted = (pq.read_table(a.path("curves.parquet"))["loss"].to_pylist() for a in (made, expected))
    assert losses == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize("rendezvous", [None, "node-0", "node-0:port", "http://node-0:1"])
def test_machines_need_a_place_to_meet(rendezvous: str | None):
    with pytest.raises(ValueError, match="rendezvous"):
        RuntimeConfig(training_nodes=2, rendezvous=rendezvous)


def test_an_error_in_a_process_is_the_error_of_the_step(finished: Finished, tmp_path: Path):
    step = again(finished, "control", tmp_path / "store")
    Path(step.store.root, "store.json").write_bytes(seal({"format": "tinywave-store", "version": 99}))
    with pytest.raises(SchemaVersionError, match="has version 99, this TinyWave reads up to 2: update TinyWave"):
        compute(step)


def test_a_step_survives_its_way_to_the_processes(finished: Finished, tmp_path: Path):
    for stage in ("adaptation", "distillation"):
        for step in finished.computed.of(stage):
            store = Store(step.store.url, create=False)
            store.inherit(7)
            step = replace(step, store=store)
            output = Output(tmp_path / "output", tmp_path / "resume", step.runtime)
            found = launch.rebuilt(json.loads(json.dumps(launch._described(step, output))))
            assert found.store.lease_number == 7
            assert (found.fingerprint, found.run, found.context) == (step.fingerprint, step.run, step.context)
            assert isinstance(found.config, type(step.config))


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_more_processes_than_gpus_are_refused(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    runtime = RuntimeConfig(training_processes=2)
    with pytest.raises(ConfigError, match="training_processes is 2, but torch sees 1 GPUs here"):
        launch.run_in_processes(
            finished.computed.of("distillation")[0], Output(tmp_path, tmp_path, runtime), StudentSummary
        )


def test_machines_that_never_came_are_counted(tmp_path: Path):
    (tmp_path / "log").write_text(
        "DistStoreError: Timed out after 601 seconds waiting for clients. 2/3 clients joined."
    )
    error = launch._error(tmp_path, 1)
    assert isinstance(error, MachineLostError) and "of 3 machines only 2 came" in str(error)


def test_a_machine_waits_ten_minutes_for_the_others():
    runtime = RuntimeConfig(training_nodes=2, training_processes=8, rendezvous="node-0:29400")
    assert launch.torchrun(runtime, 1)[-5:] == [
        "--nnodes=2",
        "--node-rank=1",
        "--master-addr=node-0",
        "--master-port=29400",
        "--rdzv-conf=timeout=600",
    ]

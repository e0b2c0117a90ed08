"""One training step in several processes: the task's process starts them through torchrun, waits, and commits.

`python -m tinywave_core.training.launch FOLDER` is what each of them runs. The folder holds `step.json`, from which the
step is built again (nothing is pickled; the fingerprint must come out the same); what comes back are lines of progress on
standard output, `summary.json`, and an `error-RANK.json` of each process that failed. The first process writes the step's
output and checkpoints, the others only compute. Their standard input closes when the task's process dies, however it dies:
then they end, so that no orphan writes into a folder that the next run takes up.
"""

import contextlib
import importlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel

from tinywave_core import errors
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError, TinyWaveError
from tinywave_core.progress import Progress
from tinywave_core.steps.base import Output, Step, Summary
from tinywave_core.storage.store import Store
from tinywave_core.storage.uploads import UploadedCheckpoints
from tinywave_core.threads import cores

_LOOK_EVERY_S = 0.5  # how soon a stop of the task's process is heard while no line comes
_ABSENT = re.compile(r"waiting for clients\. (\d+)/(\d+) clients joined")  # torch's words
S = TypeVar("S", bound=Summary)
# For a process that hangs while its machine lives: then its partners give up, and torchrun ends the others. Reading inputs before the
# first step must fit in. A machine that is gone is known earlier (alive.py).
_LONGEST_WAIT = timedelta(minutes=30)
_MEETING_S = 600  # how long the first machine waits for the others
_LAST_LINES = 60  # of the processes' log, shown with a fault of ours: tracebacks, and torchrun's word on who died first


class MachineLostError(RuntimeError):
    """Another machine of a training is gone, or never came: no fault of the user's input, so a task that is tried again may do better."""


# In the task's process --------------------------------------------------------------------------------------------


def run_in_processes(step: Step[Any, S], output: Output, kind: type[S]) -> S:
    """`step.run` in runtime.training_processes processes: the summary, of that kind, or their error if one of them fails.

    Whatever ends the wait (Ctrl-C, SIGTERM, an error here) ends the processes, at a checkpoint if they still react.
    """
    _require_a_gpu_each(output.runtime)
    with tempfile.TemporaryDirectory(prefix="tinywave-launch-") as name:
        folder = Path(name)
        (folder / "step.json").write_text(json.dumps(_described(step, output)), encoding="utf-8")
        with (folder / "log").open("wb") as log:
            processes = start(torchrun(output.runtime), folder, log)
            try:
                _forward(processes, output.progress)
            finally:
                _end(processes)
        if processes.returncode:
            raise _error(folder, processes.returncode)
        return kind.model_validate(json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def _described(step: Step, output: Output) -> dict[str, Any]:
    """The step as JSON; the context of a training step is plain."""
    runtime = output.runtime
    # The processes share the cores: threads without a core of their own make the others wait (measured).
    threads = runtime.threads or max(1, cores() // runtime.training_processes)
    alone = {"training_processes": 1, "training_nodes": 1, "rendezvous": None, "threads": threads}
    return {
        "root": step.store.url,
        "lease": step.store.lease_number,
        "stage": step.stage,
        "part": step.part,
        "version": step.version,
        "module": step.run.__module__,
        "run": step.run.__name__,
        "config": step.config.model_dump(mode="json"),
        "inputs": {name: [artifact.id for artifact in artifacts] for name, artifacts in step.inputs.items()},
        "params": step.params,
        "context": step.context,
        "runtime": runtime.model_copy(update=alone).model_dump(mode="json"),
        # So that the other side can tell whether the step is the same after its way through JSON.
        "fingerprint": step.fingerprint,
        "output": str(output.folder.resolve()),
        "resume": str(output.resume.resolve()),
    }


def torchrun(runtime: RuntimeConfig, node: int = 0) -> list[str]:
    """How torchrun is called on a machine, counted from 0: that of the stage is the first."""
    # Not torchrun itself: a script of that name need not be on the path.
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={runtime.training_processes}"]
    if runtime.training_nodes == 1:
        return [*command, "--standalone"]
    assert runtime.rendezvous is not None
    host, port = runtime.rendezvous.split(":")
    # Numbered by hand: the first process must be on the machine that has the folder of the checkpoints.
    meeting = [f"--nnodes={runtime.training_nodes}", f"--node-rank={node}", f"--master-addr={host}"]
    return [*command, *meeting, f"--master-port={port}", f"--rdzv-conf=timeout={_MEETING_S}"]


def start(command: list[str], folder: Path, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """The processes of one machine, over the folder that says what they do."""
    return subprocess.Popen(
        [*command, "-m", __name__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        bufsize=0,  # a line that waits in a buffer would not wake `select`
        start_new_session=True,  # Ctrl-C in the terminal is for the task's process, which stops them in order
    )


def _forward(processes: "subprocess.Popen[bytes]", progress: Progress) -> None:
    """Tell what the first process tells, until all have ended; meanwhile give `progress` the chance to stop the step."""
    assert processes.stdout is not None
    told: tuple[int, int, str] = (0, 1, "starting processes")
    while True:
        if select.select([processes.stdout], [], [], _LOOK_EVERY_S)[0]:
            line = processes.stdout.readline()
            if not line:
                break
            with contextlib.suppress(ValueError, TypeError):  # a library's own line
                done, total, note = json.loads(line)
                told = (done, total, note)
        progress(*told)
    processes.wait()


def _end(processes: "subprocess.Popen[bytes]") -> None:
    assert processes.stdin is not None
    assert processes.stdout is not None
    if processes.poll() is None:
        processes.terminate()  # torchrun hands it on, and kills after 30 s what has not ended by then
        for _ in processes.stdout:  # a process that cannot say how far it is could not come to its checkpoint
            pass
        processes.wait()
    processes.stdout.close()
    processes.stdin.close()


def _error(folder: Path, status: int) -> Exception:
    """The error of the process that failed first: the others only lost their partner."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("error-*.json")]
    first = min(found, key=lambda fault: fault["at"], default={"kind": "", "text": ""})
    kind = getattr(errors, first["kind"], None)
    if isinstance(kind, type) and issubclass(kind, TinyWaveError):
        return kind(first["text"])
    if first["kind"] == MachineLostError.__name__:
        return MachineLostError(first["text"])
    log = (folder / "log").read_text(errors="replace", encoding="utf-8")
    if absent := _ABSENT.search(log):
        return MachineLostError(
            f"of {absent[2]} machines only {absent[1]} came to runtime.rendezvous within {_MEETING_S} s, this one among them: start "
            "tinywave_core.training.join on each of the others, with its own --node, or lower --runtime.training_nodes; then run again"
        )
    last = log.splitlines()[-_LAST_LINES:]
    return RuntimeError(
        f"a process of the training failed or was killed (torchrun's exit status is {status}); run again and training goes on "
        "from its last checkpoint. The end of their log:\n" + "\n".join(last)
    )


def _require_a_gpu_each(runtime: RuntimeConfig) -> None:
    import torch

    from tinywave_core.devices import pick_device

    device = pick_device(runtime).type
    gpus = torch.cuda.device_count() if device == "cuda" else 1
    if device != "cpu" and gpus < runtime.training_processes:
        raise ConfigError(
            f"runtime.training_processes is {runtime.training_processes}, but torch sees {gpus} GPUs here: pass at most "
            f"{gpus}, or --runtime.device cpu"
        )


# In each training process ------------------------------------------------------------------------------------------


def main(folder: Path) -> None:
    """Run the step of `folder` as one process of torchrun; on a machine that joined, that of the first machine's folder."""
    told = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log
    threading.Thread(target=_end_with_the_task, daemon=True).start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        _run(json.loads((folder / "step.json").read_text(encoding="utf-8")), folder, told, stop.is_set)
    except Exception as error:
        _leave_word(folder, error)
        raise


def _leave_word(folder: Path, error: Exception) -> None:
    """For `_error`, in the task's process."""
    fault = {"at": time.time(), "kind": type(error).__name__, "text": str(error)}
    (folder / f"error-{os.environ['RANK']}.json").write_text(json.dumps(fault), encoding="utf-8")


def _give_up(folder: Path, text: str) -> None:
    """End this process at once: what it waits for will not come. torchrun ends the others of this machine."""
    _leave_word(folder, MachineLostError(text))
    print(text, file=sys.stderr, flush=True)
    os._exit(1)


def _run(described: dict[str, Any], folder: Path, told: IO[str], stopped: Callable[[], bool]) -> None:
    from tinywave_core.training.alive import watching
    from tinywave_core.training.processes import is_first, told_by_first

    group = _group(RuntimeConfig.model_validate(described["runtime"]))
    with group, contextlib.ExitStack() as watch:
        described = told_by_first(described)
        timeout_s = described["runtime"]["machine_timeout_s"]
        watch.enter_context(watching(timeout_s, partial(_give_up, folder)))
        step = rebuilt(described)
        first = is_first()

        def progress(done: int, total: int, note: str = "") -> None:
            if first:
                print(json.dumps([done, total, note]), file=told)
            _stop_together(stopped())

        uploads = UploadedCheckpoints.of(step.store, step.id)
        output = Output(Path(described["output"]), Path(described["resume"]), step.runtime, progress, uploads)
        summary = step.run(step, output)
        if first:
            written = summary.model_dump(mode="json", exclude_unset=True)
            (folder / "summary.json").write_text(json.dumps(written), encoding="utf-8")


def rebuilt(described: dict[str, Any]) -> Step:
    """The step that `_described` described."""
    store = Store(described["root"], create=False)
    store.inherit(described["lease"])
    stage = described["stage"]
    kind = PipelineConfig.model_fields[stage].annotation
    assert isinstance(kind, type)
    assert issubclass(kind, BaseModel)
    step = Step(
        store=store,
        stage=stage,
        part=described["part"],
        version=described["version"],
        run=getattr(importlib.import_module(described["module"]), described["run"]),
        config=kind.model_validate(described["config"]),
        inputs={name: [store.find(i) for i in ids] for name, ids in described["inputs"].items()},
        params=described["params"],
        context=described["context"],
        runtime=RuntimeConfig.model_validate(described["runtime"]),
    )
    assert step.fingerprint == described["fingerprint"], "the step did not survive its way through JSON"
    return step


@contextlib.contextmanager
def _group(runtime: RuntimeConfig) -> Iterator[None]:
    import torch
    import torch.distributed as dist

    from tinywave_core.devices import pick_device

    gpu = pick_device(runtime).type == "cuda"
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Gloo beside nccl, for what processes agree on without waiting for the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_LONGEST_WAIT)
    yield
    dist.destroy_process_group()  # not after an error: it could wait for a partner that is gone


def _stop_together(stopped: bool) -> None:
    """KeyboardInterrupt in all processes, after the same optimiser step, as soon as one of them was told to stop."""
    from tinywave_core.training.processes import any_process

    if any_process(stopped):
        raise KeyboardInterrupt


def _end_with_the_task() -> None:
    while os.read(0, 1):  # not `sys.stdin`: Python aborts when it ends while a thread holds that
        pass
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

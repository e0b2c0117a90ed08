"""One Prefect task per stage, and how a flow sends steps through it.

The task's cache key is the step's fingerprint; it is refreshed when the manifest is missing, so Prefect never says
Cached about an output that is gone, and when Prefect's record is not what the store says. What is in the store is not
mapped again: a fan-out submits the missing shards only, to the workers that the runtime asks for, and never more than a few hundred
ahead: of ten thousand shards the others wait here, where they cost nothing. Tasks return small JSON, never data.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from typing import Any

from prefect import Task, task
from prefect.context import TaskRunContext
from prefect.results import get_result_store
from prefect.utilities.annotations import quote

from tasks.progress import HoursProgress, step_progress
from tasks.runners import Workers
from tinywave_core.errors import TinyWaveError, WorkerDiedError
from tinywave_core.steps.base import Step, compute, find_steps
from tinywave_core.steps.reasons import Reason, explain_all
from tinywave_core.storage.store import Artifact

IN_FLIGHT = 256
"""Task runs that are submitted and not done, at most, and eight times the workers if these are more: one slow shard then keeps nobody
waiting."""


def stage_task(stage: str, *, description: str) -> Task[..., dict[str, Any]]:
    """The cached, retried task of one stage."""

    @task(
        name=stage,
        description=description,
        task_run_name=f"{stage} {{label}}",
        # No tags: Prefect asks the server for a concurrency slot per tag, which made a cached task take 1.3 s, not 0.1 s.
        cache_key_fn=_fingerprint,
        persist_result=True,
        result_serializer="json",
        retry_delay_seconds=[2, 10, 60],
        retry_jitter_factor=0.5,
        retry_condition_fn=_worth_retrying,
    )
    def run_step(label: str, fingerprint: str, step: Step, elsewhere: bool = False) -> dict[str, Any]:  # noqa: ARG001  (run name and cache key)
        with step_progress(step, in_terminal=not elsewhere) as progress:
            artifact = compute(step, progress)
        return _record_of(artifact)

    return run_step


def _record_of(artifact: Artifact) -> dict[str, Any]:
    """What a task returns, and Prefect keeps."""
    assert artifact.manifest is not None
    return {"artifact": artifact.id, "part": artifact.part, "bytes": artifact.manifest.total_bytes}


def _fingerprint(_: TaskRunContext, parameters: dict[str, Any]) -> str:
    return str(parameters["fingerprint"])


def _worth_retrying(_task: Any, _run: Any, state: Any) -> bool:
    """Whether another try may do better: errors about the user's input come back the same every time."""
    return not isinstance(getattr(state, "data", None), TinyWaveError) and not _is_user_error(state)


def _is_user_error(state: Any) -> bool:
    try:
        state.result()
    except TinyWaveError:
        return True
    except Exception:  # noqa: BLE001  (any other failure is worth another try)
        return False
    return False


@dataclass(frozen=True)
class StepRun:
    """What became of one step in this run."""

    step: Step = field(repr=False)
    reason: Reason
    artifact: Artifact


@dataclass
class PrefectExecute:
    """An `execute` for the core's builders: what is missing goes through the stage's Prefect task."""

    run_step: Task[..., dict[str, Any]]
    workers: Workers | None = None
    """Where the shards of a fan-out go; none: threads of the flow, as all single steps."""
    runs: list[StepRun] = field(default_factory=list)

    def __call__(self, steps: Sequence[Step]) -> list[Artifact]:
        artifacts = find_steps(steps)
        reasons = explain_all(steps, artifacts)
        # A single step is always sent, so that the page of a cached run shows it as Cached; of many, only the missing.
        sent = [i for i, artifact in enumerate(artifacts) if len(steps) == 1 or not artifact.complete]
        if sent:
            self._run(steps, {i: artifacts[i] for i in sent})
        computed = dict(zip(sent, find_steps([steps[i] for i in sent]), strict=True))
        results = [computed.get(i, artifact) for i, artifact in enumerate(artifacts)]
        for step, reason, artifact in zip(steps, reasons, results, strict=True):
            self.runs.append(StepRun(step, reason, artifact))
        return results

    def _run(self, steps: Sequence[Step], sent: dict[int, Artifact]) -> None:
        """Send what is missing and wait for all of it; then raise what the first task that failed raised. Where the steps know their
        hours of speech, print from time to time how many are done."""
        elsewhere = self.workers is not None and self.workers.elsewhere and len(steps) > 1
        submit = self._send if elsewhere else self._submit
        progress = HoursProgress(steps[0].stage, sum(steps[i].hours for i in sent))
        most = max(IN_FLIGHT, 8 * steps[0].runtime.workers)
        flying: deque[tuple[int, Any]] = deque()
        failed: list[Exception] = []

        def land() -> None:
            i, future = flying.popleft()
            failed.extend(self._failure_of(steps, future))
            progress.add(steps[i].hours)

        for i, artifact in sent.items():
            if len(flying) == most:
                land()
            flying.append((i, self._sent(steps, submit, steps[i], artifact)))
        while flying:
            land()
        if failed:
            raise failed[0]

    def _sent(self, steps: Sequence[Step], submit: Callable[..., Any], step: Step, artifact: Artifact) -> Any:
        try:
            return submit(step, self._task(step, artifact))
        except BrokenExecutor as error:  # of the workers for those before it
            raise _worker_died(steps) from error

    def _failure_of(self, steps: Sequence[Step], future: Any) -> list[Exception]:
        """Wait for a task; what it raised, if it did."""
        try:
            future.wait()
        except BrokenExecutor as error:
            raise _worker_died(steps) from error
        try:
            future.result()
        except Exception as error:  # noqa: BLE001  (raised when the others are done)
            return [error]
        return []

    def _task(self, step: Step, artifact: Artifact) -> Task[..., dict[str, Any]]:
        refresh = not artifact.complete or not self._is_recorded(step, artifact)
        return self.run_step.with_options(refresh_cache=refresh, retries=step.runtime.retries)

    def _is_recorded(self, step: Step, artifact: Artifact) -> bool:
        """Whether Prefect's record of the step is, byte by byte, what the store says. Prefect reads a record with the serializer
        that the record names, and pickle runs code: one that is not ours is written anew, unread."""
        store: Any = get_result_store()  # untyped: its methods are both synchronous and not
        results = store.update_for_task(self.run_step, _sync=True)
        expected = results.create_result_record(_record_of(artifact), key=step.fingerprint).serialize()
        try:
            return bool(results.result_storage.read_path(step.fingerprint, _sync=True) == expected)
        except Exception:  # noqa: BLE001  (none is there; each kind of storage has its own errors)
            return False

    def _submit(self, step: Step, run_step: Task[..., dict[str, Any]]) -> Any:
        return run_step.submit(_label(step), step.fingerprint, quote(step))

    def _send(self, step: Step, run_step: Task[..., dict[str, Any]]) -> Any:
        assert self.workers is not None
        parameters = {"label": _label(step), "fingerprint": step.fingerprint, "step": step, "elsewhere": True}
        return self.workers.submit(run_step, parameters)


def _worker_died(steps: Sequence[Step]) -> WorkerDiedError:
    missing = [_label(step) for step, found in zip(steps, find_steps(steps), strict=True) if not found.complete]
    return WorkerDiedError(
        f"a worker of {steps[0].stage} was killed, most often by the system for lack of memory; not done are "
        f"{', '.join(missing[:4])}{f' and {len(missing) - 4} more' if len(missing) > 4 else ''}: lower --runtime.workers, and "
        "run again; finished shards are kept"
    )


def _label(step: Step) -> str:
    """What the UI calls the task run: the part, and for shards which one."""
    return f"{step.part} {step.fingerprint[:8]}"

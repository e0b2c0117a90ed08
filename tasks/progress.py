"""Progress of long steps: a bar in the terminal, and a progress artifact on the task's page in the Prefect UI."""

import contextlib
import re
import sys
import threading
import time
from collections.abc import Iterator
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tasks import stopping, terminal
from tinywave_core.escaping import markdown, visible
from tinywave_core.progress import GOES_ON
from tinywave_core.progress import Progress as StepProgress
from tinywave_core.steps.base import Step

_FIRST_ARTIFACT_S, _ARTIFACT_EVERY_S, _LINE_EVERY_S = 3.0, 5.0, 15.0
_lock = threading.Lock()
_bars: Progress | None = None
_running = 0


@contextlib.contextmanager
def step_progress(step: Step, *, in_terminal: bool = True) -> Iterator[StepProgress]:
    """A `Progress` for one step; short steps leave no trace in the UI, and a worker's steps none in its terminal."""
    bar = _Quiet() if not in_terminal else _Bar(step) if Console(stderr=True).is_terminal else _Lines(step)
    artifact = _ProgressArtifact(step)
    hours, started = step.runtime.step_timeout_hours, time.monotonic()
    goes_on = False

    def progress(done: int, total: int, note: str = "") -> None:
        nonlocal goes_on
        if stopping.requested.is_set():
            raise KeyboardInterrupt
        if hours is not None and time.monotonic() - started > hours * 3600:
            raise TimeoutError(
                f"{step.stage} {step.part} was still at {done} of {total} after runtime.step_timeout_hours, {hours:g} hours: it is "
                "given up and, if retries are left, tried again"
            )
        if note == GOES_ON and not goes_on:  # told again and again while a training in other processes is silent
            goes_on = True
            line = f"{step.stage} {step.part} {note}: {done - 1} of {total} steps were done"
            if in_terminal:
                terminal.say(f"    {line}", file=sys.stderr, flush=True)
            get_run_logger().info(line)
        bar.update(done, total, note)
        artifact.update(done, total, note)

    try:
        yield progress
        artifact.finish()
    finally:
        bar.close()


class _Bar:
    """A row in the shared live display."""

    def __init__(self, step: Step) -> None:
        global _bars, _running
        with _lock:
            if _bars is None:
                columns = (
                    TextColumn("  {task.description}"),
                    BarColumn(30),
                    MofNCompleteColumn(),
                    TextColumn("{task.fields[note]}", markup=False),
                    TimeElapsedColumn(),
                    TimeRemainingColumn(),
                )
                _bars = Progress(*columns, console=Console(stderr=True), transient=True)
                _bars.start()
            _running += 1
            self.row: TaskID = _bars.add_task(f"{step.stage} {step.part}", total=None, note="")
        self.done = 0

    def update(self, done: int, total: int, note: str) -> None:
        assert _bars is not None
        if done < self.done:  # the next round over the same things has a pace of its own
            _bars.reset(self.row)
        self.done = done
        _bars.update(self.row, completed=done, total=total, note=visible(note))

    def close(self) -> None:
        global _bars, _running
        with _lock:
            assert _bars is not None
            _bars.remove_task(self.row)
            _running -= 1
            if not _running:
                _bars.stop()
                _bars = None


class _Lines:
    """A line from time to time, where there is no terminal."""

    def __init__(self, step: Step) -> None:
        self.name = f"{step.stage} {step.part}"
        self.started = self.last = time.monotonic()
        self.done = self.before = 0

    def update(self, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if done < self.done:  # the next round over the same things has a pace of its own
            self.started, self.before = now, 0
        elif note == GOES_ON:  # so has a training that another run began
            self.started = self.last = now
            self.before = done
        self.done = done
        if now - self.last >= _LINE_EVERY_S and done < total:
            self.last = now
            left_s = (now - self.started) * (total - done) / max(done - self.before, 1)
            terminal.say(
                f"    {self.name}: {done} of {total} {note}, about {left_s:.0f} s left", file=sys.stderr, flush=True
            )

    def close(self) -> None:
        pass


class _Quiet:
    """Prints nothing: other workers write to the same terminal, or there is none."""

    def update(self, done: int, total: int, note: str) -> None:
        pass

    def close(self) -> None:
        pass


class HoursProgress:
    """Lines over all shards of a stage: hours of speech done and left, and how long that takes at the pace so far."""

    def __init__(self, stage: str, total_hours: float) -> None:
        self.stage, self.total = stage, total_hours
        self.done = 0.0
        self.started = self.last = time.monotonic()

    def add(self, hours: float) -> None:
        """Note that so many more hours of speech are done."""
        self.done += hours
        now = time.monotonic()
        if self.done and self.done < self.total and now - self.last >= _LINE_EVERY_S:
            self.last = now
            left_s = (now - self.started) * (self.total - self.done) / self.done
            line = f"{self.stage}: {self.done:.2f} of {self.total:.2f} h of speech, about {left_s / 3600:.2f} h left"
            terminal.say(f"    {line}", file=sys.stderr, flush=True)


class _ProgressArtifact:
    """Percent on the task run's page, for steps that take longer than a few seconds."""

    def __init__(self, step: Step) -> None:
        self.key = re.sub(r"[^a-z0-9]+", "-", f"progress-{step.stage}-{step.part}-{step.fingerprint[:8]}".lower())
        self.description = f"{step.stage} {step.part}"
        self.id: UUID | None = None
        self.next = time.monotonic() + _FIRST_ARTIFACT_S

    def update(self, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + _ARTIFACT_EVERY_S
        self._show(100.0 * done / max(total, 1), note)

    def finish(self) -> None:
        if self.id is not None:
            self._show(100.0, "done")

    def _show(self, percent: float, note: str) -> None:
        """A failure is ignored: a training must not end because the server is being restarted."""
        with contextlib.suppress(httpx.HTTPError):
            if self.id is None:
                self.id = create_progress_artifact(
                    percent, key=self.key, description=markdown(f"{self.description}: {note}")
                )  # type: ignore[assignment]
            else:
                update_progress_artifact(self.id, percent, description=markdown(f"{self.description}: {note}"))

"""A training that goes on -> its curve in the trackers of the settings (runtime.track_live), by a process beside it.

The training knows nothing of it: it writes checkpoints as ever, and `tinywave_core.tracking.follow` reads the curves in them. A thread
here starts that process at the first checkpoint, hears what it cannot do, and gives it the whole curve at the end. Whatever a tracker
does, hangs or breaks, the training goes on; at its end a tracker has END_S seconds to take the rest.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinywave_core.config.base import RuntimeConfig
from tinywave_core.storage.schemas import CURVES_FILE

LOOK_S = 1.0
"""Between two looks for a first checkpoint, and for what the process says."""
END_S = 30.0
"""How long a tracker may take at the end of a training."""
STOP_S = 5.0
"""The same where the training was stopped or failed: somebody waits for the command to end."""
FOLLOW = "tinywave_core.tracking.follow"


@contextlib.contextmanager
def live_curves(
    runtime: RuntimeConfig, artifact: str, part: str, settings: dict[str, Any], resume: Path, output: Path
) -> Iterator[None]:
    """Around the making of an artifact: hand over the curve of what trains with checkpoints in `resume`; nothing where nothing trains, or
    where the settings do not ask for it. `output` is where the whole curve lies in the end."""
    if not runtime.track_live:
        yield
        return
    about = {
        "id": artifact,
        "part": part,
        "settings": settings,
        "resume": str(resume),
        "places": {"mlflow": runtime.mlflow_to, "wandb": runtime.wandb_to},
    }
    beside = _Beside(about, resume)
    try:
        yield
    except BaseException:
        beside.end(None, STOP_S)
        raise
    beside.end(output / CURVES_FILE, END_S)


class _Beside:
    """The thread, and the process that it starts."""

    def __init__(self, about: dict[str, Any], resume: Path) -> None:
        self._about, self._resume = about, resume
        self._child: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        self._curve: Path | None = None
        self._ends_at = 0.0
        self._heard = b""
        self._thread = threading.Thread(target=self._watch, name="live-curves", daemon=True)
        self._thread.start()

    def end(self, curve: Path | None, seconds: float) -> None:
        """The training is over; `curve` is its whole curve, None where it was stopped."""
        self._curve, self._ends_at = curve, time.monotonic() + seconds
        self._over.set()
        self._thread.join(seconds + LOOK_S)

    def _watch(self) -> None:
        try:
            while not self._over.wait(LOOK_S):
                if self._child is None and any(self._resume.glob("step-*")):
                    self._child = self._start()
                self._hear()
            if self._child is None and self._curve and self._curve.is_file():  # over before the first look
                self._child = self._start()
            if self._child:
                self._finish(self._child)
        except OSError as error:
            self._warn(f"its process broke ({error})")
            self._kill()

    def _start(self) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", FOLLOW],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the training; the end of stdin is for this one
        )
        assert child.stdout
        os.set_blocking(child.stdout.fileno(), False)
        self._tell(child, self._about)
        return child

    def _tell(self, child: "subprocess.Popen[bytes]", line: dict[str, Any]) -> None:
        """A line of JSON; what became of a process that does not read is said at the end."""
        assert child.stdin
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(line).encode() + b"\n")
            child.stdin.flush()

    def _hear(self) -> None:
        """Pass on what the process could not do: one line of JSON each."""
        if self._child is None or self._child.stdout is None:
            return
        *lines, self._heard = (self._heard + (self._child.stdout.read() or b"")).split(b"\n")
        for line in lines:
            self._warn(str(json.loads(line)["failed"]))

    def _finish(self, child: "subprocess.Popen[bytes]") -> None:
        if self._curve:
            self._tell(child, {"curve": str(self._curve)})
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()  # type: ignore[union-attr]
        why = ""
        try:
            if status := child.wait(max(self._ends_at - time.monotonic(), 0.0)):
                why = f"the process that hands it over ended with status {status}"
        except subprocess.TimeoutExpired:
            self._kill()
            why = "a tracker had not taken all of it when the training ended"
        self._hear()
        child.stdout.close()  # type: ignore[union-attr]
        if why:
            self._warn(why)

    def _kill(self) -> None:
        if self._child:
            self._child.kill()
            self._child.wait()

    def _warn(self, why: str) -> None:
        logging.getLogger(__name__).warning(
            "the curve of %s (%s) is not whole in a tracker: %s. The training goes on; `tinywave track` hands a finished run over",
            self._about["part"],
            self._about["id"],
            why,
        )

"""The process beside a training (tinywave_core/live.py): curves of its checkpoints -> the trackers of the settings, as they are written.

stdin has one line of JSON that says what trains and where, at the end of a training another one with its whole curve, and then ends;
without that line the training was stopped. stdout has one line for each tracker that failed. A tracker that failed is asked again
at the next checkpoint, and gets what it has missed.
"""

import contextlib
import json
import os
import select
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from tinywave_core.tracking.points import LiveRun, Training, curve_of, flat, in_words, points_of

LOOK_S = 2.0
"""Between two looks for a new checkpoint."""

Open = Callable[[Training, str], LiveRun]


class Follower:
    """Hands the curve of a training over to trackers; what fails is told once for each of them."""

    def __init__(
        self,
        training: Training,
        resume: Path,
        places: Mapping[str, str],
        trackers: Mapping[str, Open],
        tell: Callable[[str], None],
    ) -> None:
        self._training, self._resume, self._places, self._trackers = training, resume, places, trackers
        self._open: dict[str, LiveRun] = {}
        self._told: set[str] = set()
        self._tell = tell
        self._newest = ""

    def look(self) -> None:
        """Hand over the curve of a checkpoint that is new."""
        newest = max(self._resume.glob("step-*"), default=None)
        if newest is None or newest.name <= self._newest:
            return
        # It may be dropped meanwhile for a newer one.
        with contextlib.suppress(FileNotFoundError):
            path = newest / "curves.json"
            points, at_ms = points_of(json.loads(path.read_text(encoding="utf-8"))), round(path.stat().st_mtime * 1000)
            self._newest = newest.name
            self._each(lambda run: run.add(points, at_ms))

    def end(self, curve: Path | None) -> None:
        """Hand over the rest; without a curve the training was stopped at its last checkpoint."""
        self.look()
        points, at_ms = ([], 0) if curve is None else (curve_of(curve), round(curve.stat().st_mtime * 1000))

        def last(run: LiveRun) -> None:
            run.add(points, at_ms)
            run.end(is_done=curve is not None)

        self._each(last)

    def _each(self, act: Callable[[LiveRun], None]) -> None:
        for name, open_run in self._trackers.items():
            try:
                if name not in self._open:
                    self._open[name] = open_run(self._training, self._places[name])
                act(self._open[name])
            except Exception as error:  # noqa: BLE001  (whatever a tracker does)
                self._open.pop(name, None)
                if name not in self._told:
                    self._told.add(name)
                    self._tell(f"{name} did not take it ({in_words(error)})")


def trackers_of(places: Mapping[str, str | None]) -> dict[str, Open]:
    """How the run of each tracker that has a place is opened."""
    from tinywave_core.tracking import mlflow_runs, wandb_runs

    every: dict[str, Open] = {"mlflow": mlflow_runs.MlflowLive, "wandb": wandb_runs.WandbLive}
    return {name: open_run for name, open_run in every.items() if places.get(name)}


def follow(lines: TextIO, tell: Callable[[str], None]) -> None:
    """Follow the training that the first line tells of until there are no more lines."""
    about: dict[str, Any] = json.loads(lines.readline())
    settings = dict(flat(about["settings"], f"{about['id'].partition('/')[0]}."))
    training, places = Training(about["id"], about["part"], settings), about["places"]
    follower = Follower(training, Path(about["resume"]), places, trackers_of(places), tell)
    while not select.select([lines], [], [], LOOK_S)[0]:
        follower.look()
    told = lines.readline()
    follower.end(Path(json.loads(told)["curve"]) if told else None)


def main() -> None:
    """As a process: in a lower priority than the training."""
    os.nice(10)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a client prints is no line of ours

    def tell(why: str) -> None:
        print(json.dumps({"failed": why}), file=out, flush=True)

    follow(sys.stdin, tell)


if __name__ == "__main__":
    main()

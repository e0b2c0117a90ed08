"""A run -> Weights & Biases, by its own client (the extra `wandb`): files on this machine unless WANDB_MODE says `online`.

What lies in the folder goes to a server by `wandb sync FOLDER/wandb/offline-run-*`.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinywave_core.tracking.points import PROJECT, Point, Training

if TYPE_CHECKING:
    from tinywave_core.tracking.base import TrackedRun

WHOLE = "tinywave-whole"
"""A file in the folder of a run that was handed over to its end."""
LAST_STEP = "tinywave-last-step"
"""The same with the last step of a training that goes on."""


def write(run: "TrackedRun", place: str) -> str:
    """Hand a run over; a sentence that says where it is. One that is there is left as it is."""
    folder = Path(place).expanduser().resolve()
    mode = os.environ.get("WANDB_MODE", "offline")
    if there := sorted(folder.glob(f"wandb/*run-*-{run.id}/{WHOLE}")):
        return f"Weights & Biases has {run.name} already: {there[0].parent}"
    folder.mkdir(parents=True, exist_ok=True)
    import wandb

    config = {**run.parameters, "lineage": run.lineage}
    with wandb.init(
        project=PROJECT, name=run.name, id=run.id, dir=str(folder), config=config, settings=_settings(mode)
    ) as made:
        for part, points in run.curves.items():
            _define(made, part)
            for point in points:
                made.log(_row(part, point))
        made.summary.update(run.figures)
        results = wandb.Artifact(f"results-{run.id}", "results", metadata=run.lineage)
        for path in run.files:
            results.add_file(str(path))
        made.log_artifact(results)
        here = Path(made.dir).parent
    (here / WHOLE).touch()
    return f"Weights & Biases has {run.name}: {here} ({mode})"


class WandbLive:
    """The run of a training that goes on; see `LiveRun`. Offline every beginning and going on has a folder, with the same id."""

    def __init__(self, training: Training, place: str) -> None:
        folder = Path(place).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        import wandb

        mode, id_ = os.environ.get("WANDB_MODE", "offline"), training.fingerprint
        noted = [int(path.read_text(encoding="utf-8")) for path in folder.glob(f"wandb/*run-*-{id_}/{LAST_STEP}")]
        self._part, self._last = training.part, max(noted, default=0)
        self._run = wandb.init(
            project=PROJECT,
            name=training.name,
            id=id_,
            dir=str(folder),
            config={**training.parameters, "training": training.id},
            resume=None if mode == "offline" else "allow",
            settings=_settings(mode),
        )
        self._note = Path(self._run.dir).parent / LAST_STEP
        _define(self._run, self._part)

    def add(self, points: list[Point], at_ms: int) -> None:
        del at_ms  # rows have the time at which they came
        try:
            for point in points:
                if point.step > self._last:
                    self._run.log(_row(self._part, point), step=point.step)
                    self._last = point.step
        finally:
            self._note.write_text(str(self._last), encoding="utf-8")

    def end(self, *, is_done: bool) -> None:
        self._run.finish(0 if is_done else 1)


def _settings(mode: str) -> Any:
    # Nothing of this machine, its console or its repository: what goes over is what TrackedRun holds.
    import wandb

    return wandb.Settings(
        mode=mode,
        console="off",
        silent=True,
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
    )


def _define(run: Any, part: str) -> None:
    """Curves of a part go by its own steps."""
    run.define_metric(f"{part}/step")
    run.define_metric(f"{part}/*", step_metric=f"{part}/step")


def _row(part: str, point: Point) -> dict[str, float]:
    return {f"{part}/step": point.step, **{f"{part}/{name}": value for name, value in point.values.items()}}

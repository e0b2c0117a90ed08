"""A run -> Weights & Biases, by its own client (the extra `wandb`): files on this machine unless WANDB_MODE says `online`.

What lies in the folder goes to a server by `wandb sync FOLDER/wandb/offline-run-*`.
"""

import os
from pathlib import Path

from tinywave_core.tracking.base import PROJECT, TrackedRun

WHOLE = "tinywave-whole"
"""A file in the folder of a run that was handed over to its end."""


def write(run: TrackedRun, place: str) -> str:
    """Hand a run over; a sentence that says where it is. One that is there is left as it is."""
    folder = Path(place).expanduser().resolve()
    mode = os.environ.get("WANDB_MODE", "offline")
    if there := sorted(folder.glob(f"wandb/*run-*-{run.id}/{WHOLE}")):
        return f"Weights & Biases has {run.name} already: {there[0].parent}"
    folder.mkdir(parents=True, exist_ok=True)
    import wandb

    # Nothing of this machine, its console or its repository: what goes over is what TrackedRun holds.
    settings = wandb.Settings(
        mode=mode,
        console="off",
        silent=True,
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
    )
    config = {**run.parameters, "lineage": run.lineage}
    with wandb.init(
        project=PROJECT, name=run.name, id=run.id, dir=str(folder), config=config, settings=settings
    ) as made:
        for part, points in run.curves.items():
            made.define_metric(f"{part}/step")
            made.define_metric(f"{part}/*", step_metric=f"{part}/step")
            for point in points:
                made.log({f"{part}/step": point.step, **{f"{part}/{n}": value for n, value in point.values.items()}})
        made.summary.update(run.figures)
        results = wandb.Artifact(f"results-{run.id}", "results", metadata=run.lineage)
        for path in run.files:
            results.add_file(str(path))
        made.log_artifact(results)
        here = Path(made.dir).parent
    (here / WHOLE).touch()
    return f"Weights & Biases has {run.name}: {here} ({mode})"

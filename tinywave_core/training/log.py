"""What a person watches while a model trains: every number of a step, as TensorBoard shows it.

Trackers get curves with each checkpoint, from a process beside the training (live.py). Logs hold wall times, so they lie outside the store: they are no part of an artifact.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

Log = Callable[[int, dict[str, float]], None]


@contextlib.contextmanager
def tensorboard_log(folder: Path | None, first_step: int) -> Iterator[Log]:
    """Writes numbers by step below `folder`, nothing without one; a resumed run replaces what was logged from its first step."""
    if folder is None:
        yield lambda *_: None
        return
    from torch.utils.tensorboard import SummaryWriter

    # Without purge_step a resumed run would show steps twice.
    with SummaryWriter(str(folder), purge_step=first_step) as writer:

        def log(step: int, numbers: dict[str, float]) -> None:
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)

        yield log

"""The log of runs: one numbered record per run of the pipeline."""

from typing import Any

from tinywave_core.storage.store import Store

RUNS = "runs"


def record_run(store: Store, record: dict[str, Any]) -> int:
    """Append to the log of runs; the number of the run."""
    while True:
        try:
            return store.log(RUNS).append(record)
        except FileExistsError:  # another run took the number on an object store: take the next
            continue

"""Which trackers get a run, and what became of it, in sentences."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tinywave_core.config.base import RuntimeConfig
from tinywave_core.extras import Extra
from tinywave_core.run.preflight import trackers_of
from tinywave_core.tracking.base import TrackedRun, tracked_run
from tinywave_core.tracking.points import in_words

if TYPE_CHECKING:
    from tinywave_core.run.record import RunRecord
    from tinywave_core.storage.store import Store


def hand_over(store: "Store", record: "RunRecord", runtime: RuntimeConfig) -> list[str]:
    """Give a run to the trackers of the settings. It is finished and kept: a tracker that fails is a sentence, and no error."""
    places, told = trackers_of(runtime), []
    if not places:
        return []
    with tracked_run(store, record) as run:
        for extra, place in places.items():
            try:
                told.append(_writer(extra)(run, place))
            except Exception as error:  # noqa: BLE001  (whatever a tracker does)
                told.append(
                    f"{extra} has nothing of {run.name} ({in_words(error)}); "
                    f"mend it, and `tinywave track --root {store.url} --{extra} {place}` hands it over"
                )
    return told


def _writer(extra: Extra) -> Callable[[TrackedRun, str], str]:
    from tinywave_core.tracking import mlflow_runs, wandb_runs

    return mlflow_runs.write if extra == "mlflow" else wandb_runs.write

"""`tinywave track`: a finished run of a store to MLflow or Weights & Biases."""

from tasks import terminal
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import ConfigError
from tinywave_core.run.preflight import require_trackers
from tinywave_core.storage.store import Store
from tinywave_core.tracking.base import record_of
from tinywave_core.tracking.handing import hand_over


def track(root: str, number: int | None, mlflow: str | None, wandb: str | None) -> int:
    """Say where it is; exit status 1 where a tracker did not take it."""
    if mlflow is None and wandb is None:
        raise ConfigError("there is no tracker: pass --mlflow FOLDER or --wandb FOLDER")
    runtime = RuntimeConfig(mlflow_to=mlflow, wandb_to=wandb)
    require_trackers(runtime)
    store = Store(root, create=False)
    told = hand_over(store, record_of(store, number), runtime)
    for sentence in told:
        terminal.say(sentence)
    return int(any(" has nothing of " in sentence for sentence in told))

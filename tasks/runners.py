"""Where the shards of a stage are worked on: in threads of the flow, in processes beside it, on a Dask or a Ray cluster.

Prefect's runners start their workers when they are entered, which takes seconds; so nothing is entered before a shard is
missing, and single steps stay in the flow (infra/decisions/0015-past-one-machine.md).
"""

import logging
import multiprocessing
import os
import signal
import threading
from contextlib import ExitStack
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

from prefect import Task
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import ConfigError

# Ray reports its use to its makers unless told otherwise, and hides a machine's GPUs from tasks that ask for none.
_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class Workers:
    """The workers of `runtime.runner`, started when the first step comes.

    Left by Ctrl-C or SIGTERM, the ones on this machine are killed: what they were at is done again by the next run, as after
    kill -9. A cluster that was running before finishes the shards that it has begun.
    """

    def __init__(self, runtime: RuntimeConfig) -> None:
        self.runtime = runtime
        self._stack = ExitStack()
        self._runner: TaskRunner[PrefectFuture[Any]] | None = None
        self._others: set[int | None] = set()
        package = {"dask": "prefect_dask", "ray": "prefect_ray"}.get(runtime.runner)
        if package and find_spec(package) is None:
            raise ConfigError(
                f"runtime.runner is {runtime.runner}, and {package.replace('_', '-')} is not installed here: "
                f"pip install 'tinywave[{runtime.runner}]', or choose threads or processes"
            )

    @property
    def elsewhere(self) -> bool:
        """Whether shards leave the flow's process."""
        return self.runtime.runner != "threads"

    def submit(self, task: Task[..., Any], parameters: dict[str, Any]) -> PrefectFuture[Any]:
        """Send a task run to the workers."""
        if self._runner is None:
            self._runner = self._started()
        return self._runner.submit(task, parameters)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            for child in multiprocessing.active_children():
                if child.pid not in self._others:
                    child.kill()
        self._stack.__exit__(kind, error, trace)

    def _started(self) -> "TaskRunner[PrefectFuture[Any]]":
        with get_client(sync_client=True) as client:
            # The address of a server that lives and dies with the flow: without it each worker would start one of its own.
            self._stack.enter_context(temporary_settings({PREFECT_API_URL: str(client.api_url)}))
        self._others = {child.pid for child in multiprocessing.active_children()}
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM)
        runner = self._stack.enter_context(task_runner(self.runtime))
        if in_main_thread:  # Ray puts a handler of its own there
            signal.signal(signal.SIGTERM, before)
        return runner


def task_runner(runtime: RuntimeConfig) -> "TaskRunner[PrefectFuture[Any]]":
    """Prefect's runner for `runtime.runner`; Dask and Ray are imported only where they are chosen."""
    runner: Any
    match runtime.runner:
        case "dask":
            from prefect_dask import DaskTaskRunner

            logging.getLogger("distributed").setLevel(logging.ERROR)  # a line for each worker that comes and goes
            # One thread each: steps set the threads of torch for the whole process.
            workers = {"n_workers": runtime.workers, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
            runner = DaskTaskRunner(address=runtime.cluster, cluster_kwargs=None if runtime.cluster else workers)
        case "ray":
            for name, value in _RAY.items():
                os.environ.setdefault(name, value)
            from prefect_ray import RayTaskRunner

            quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
            local = {} if runtime.cluster else {"num_cpus": runtime.workers, "include_dashboard": False}
            runner = RayTaskRunner(runtime.cluster, {**quiet, **local})
        case _:
            runner = ProcessPoolTaskRunner(runtime.workers, initializer=_end_with_parent)
    return runner


def _end_with_parent() -> None:
    """A worker of the process pool ends when the flow's process was killed; by itself it would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

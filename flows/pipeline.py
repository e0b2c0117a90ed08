"""The whole DAG. Every stage is a flow of its own, over cached tasks; what is in the store is not computed again."""

import copy
import time
from typing import Any, cast

from prefect import Flow, flow
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.base import RETURNED, find_outputs
from flows.hooks import HOOKS
from flows.schedules import store_slot
from flows.stages import STAGE_FLOWS
from tasks.artifacts import publish_run
from tasks.base import PrefectExecute
from tasks.stages import TASKS
from tasks.stopping import on_sigterm
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.reporting.run import finish_run
from tinywave_core.run.preflight import check_run
from tinywave_core.run.promotion import promote
from tinywave_core.run.record import StageRow
from tinywave_core.storage.store import Store


@flow(name="pipeline", flow_run_name="pipeline of {config.ingestion.corpus}", validate_parameters=True, **HOOKS)
def pipeline(config: PipelineConfig) -> dict[str, Any]:
    """Turn a folder of speech into a distilled speech language model, with its scores, samples and report.

    Args:
        config: All settings, one group per stage.
    """
    started = time.monotonic()
    store = Store(config.root)
    check_run(config)
    outputs: dict[str, str] = {}
    rows: list[StageRow] = []
    with store_slot(config), store.lock("tinywave pipeline"), on_sigterm():
        for stage_flow in STAGE_FLOWS:
            # The pipeline's own heartbeat tells that the process lives; each further one costs up to a second at its end.
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                returned = with_workers(stage_flow, config)(config, outputs)
            outputs |= returned["outputs"]
            rows.append(StageRow.model_validate(returned["row"]))
        artifacts = find_outputs(store, outputs)
        promotion = promote(config, store, artifacts, PrefectExecute(TASKS["evaluation"]))
        run = finish_run(store, config, rows, artifacts, promotion, time.monotonic() - started)
    publish_run(run)
    return run.model_dump(mode="json")


def with_workers(stage_flow: Flow[..., RETURNED], config: PipelineConfig) -> Flow[..., RETURNED]:
    """The flow with as many task threads as the runtime asks for: a copy, for `with_options` works out the form's schema anew."""
    own = copy.copy(stage_flow)
    own.task_runner = cast(TaskRunner[PrefectFuture[Any]], ThreadPoolTaskRunner[Any](config.runtime.workers))
    return own

"""The evaluation flow: teacher, student and control on held-out speech."""

from prefect import flow

from flows.base import RETURNED, run_stage
from flows.hooks import HOOKS
from tasks import evaluation as task_module
from tinywave_core.config.pipeline import PipelineConfig


@flow(name="evaluation", flow_run_name="evaluation of {config.ingestion.corpus}", validate_parameters=True, **HOOKS)
def evaluation(config: PipelineConfig, inputs: dict[str, str] | None = None) -> RETURNED:
    """Measure likelihood and continuation cloze with intervals.

    Args:
        config: All settings; only root, runtime, refresh and the groups up to evaluation matter here.
        inputs: Artifact ids by part from the stages before; looked up in the store when empty.
    """
    return run_stage("evaluation", task_module.evaluation, config, inputs)

"""The logit_caching flow: the teacher's predictions, once."""

from prefect import flow

from flows.base import RETURNED, run_stage
from flows.hooks import HOOKS
from tasks import logit_caching as task_module
from tinywave_core.config.pipeline import PipelineConfig


@flow(
    name="logit_caching", flow_run_name="logit_caching of {config.ingestion.corpus}", validate_parameters=True, **HOOKS
)
def logit_caching(config: PipelineConfig, inputs: dict[str, str] | None = None) -> RETURNED:
    """Capture sparse teacher targets for every training sequence.

    Args:
        config: All settings; only root, runtime, refresh and the groups up to logit_caching matter here.
        inputs: Artifact ids by part from the stages before; looked up in the store when empty.
    """
    return run_stage("logit_caching", task_module.logit_caching, config, inputs)

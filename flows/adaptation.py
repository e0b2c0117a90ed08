"""The adaptation flow: the teacher, fitted to the domain."""

from prefect import flow

from flows.base import RETURNED, run_stage
from flows.hooks import HOOKS
from tasks import adaptation as task_module
from tinywave_core.config.pipeline import PipelineConfig


@flow(name="adaptation", flow_run_name="adaptation of {config.ingestion.corpus}", validate_parameters=True, **HOOKS)
def adaptation(config: PipelineConfig, inputs: dict[str, str] | None = None) -> RETURNED:
    """Train a fresh teacher, or fine-tune a checkpoint, on the training tokens.

    Args:
        config: All settings; only root, runtime, refresh and the groups up to adaptation matter here.
        inputs: Artifact ids by part from the stages before; looked up in the store when empty.
    """
    return run_stage("adaptation", task_module.adaptation, config, inputs)

"""The distillation flow: the student and its undistilled control."""

from prefect import flow

from flows.base import RETURNED, run_stage
from flows.hooks import HOOKS
from tasks import distillation as task_module
from tinywave_core.config.pipeline import PipelineConfig


@flow(name="distillation", flow_run_name="distillation of {config.ingestion.corpus}", validate_parameters=True, **HOOKS)
def distillation(config: PipelineConfig, inputs: dict[str, str] | None = None) -> RETURNED:
    """Distil the student from the teacher, and train the same student without it.

    Args:
        config: All settings; only root, runtime, refresh and the groups up to distillation matter here.
        inputs: Artifact ids by part from the stages before; looked up in the store when empty.
    """
    return run_stage("distillation", task_module.distillation, config, inputs)

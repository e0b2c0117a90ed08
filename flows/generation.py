"""The generation flow: continuations of held-out prompts."""

from prefect import flow

from flows.base import RETURNED, run_stage
from flows.hooks import HOOKS
from tasks import generation as task_module
from tinywave_core.config.pipeline import PipelineConfig


@flow(name="generation", flow_run_name="generation of {config.ingestion.corpus}", validate_parameters=True, **HOOKS)
def generation(config: PipelineConfig, inputs: dict[str, str] | None = None) -> RETURNED:
    """Continue held-out speech as tokens and as audio.

    Args:
        config: All settings; only root, runtime, refresh and the groups up to generation matter here.
        inputs: Artifact ids by part from the stages before; looked up in the store when empty.
    """
    return run_stage("generation", task_module.generation, config, inputs)

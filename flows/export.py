"""The export flow: the student as a transformers directory."""

from prefect import flow

from flows.base import RETURNED, run_stage
from flows.hooks import HOOKS
from tasks import export as task_module
from tinywave_core.config.pipeline import PipelineConfig


@flow(name="export", flow_run_name="export of {config.ingestion.corpus}", validate_parameters=True, **HOOKS)
def export(config: PipelineConfig, inputs: dict[str, str] | None = None) -> RETURNED:
    """Write safetensors, tokenizer, codebooks and model card.

    Args:
        config: All settings; only root, runtime, refresh and the groups up to export matter here.
        inputs: Artifact ids by part from the stages before; looked up in the store when empty.
    """
    return run_stage("export", task_module.export, config, inputs)

"""The ingestion flow: audio files to shards of utterances."""

from prefect import flow

from flows.base import RETURNED, run_stage
from flows.hooks import HOOKS
from tasks import ingestion as task_module
from tinywave_core.config.pipeline import PipelineConfig


@flow(name="ingestion", flow_run_name="ingestion of {config.ingestion.corpus}", validate_parameters=True, **HOOKS)
def ingestion(config: PipelineConfig, inputs: dict[str, str] | None = None) -> RETURNED:
    """Take new audio files from the source into the corpus.

    Args:
        config: All settings; only root, runtime, refresh and the groups up to ingestion matter here.
        inputs: Artifact ids by part from the stages before; looked up in the store when empty.
    """
    return run_stage("ingestion", task_module.ingestion, config, inputs)

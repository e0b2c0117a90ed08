"""The tokenization flow: utterances to tokens."""

from prefect import flow

from flows.base import RETURNED, run_stage
from flows.hooks import HOOKS
from tasks import tokenization as task_module
from tinywave_core.config.pipeline import PipelineConfig


@flow(name="tokenization", flow_run_name="tokenization of {config.ingestion.corpus}", validate_parameters=True, **HOOKS)
def tokenization(config: PipelineConfig, inputs: dict[str, str] | None = None) -> RETURNED:
    """Turn every utterance into units, pitch and style tokens.

    Args:
        config: All settings; only root, runtime, refresh and the groups up to tokenization matter here.
        inputs: Artifact ids by part from the stages before; looked up in the store when empty.
    """
    return run_stage("tokenization", task_module.tokenization, config, inputs)

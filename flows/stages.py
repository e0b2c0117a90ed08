"""A flow for every stage, made from its row. Prefect finds each by its name here."""

from typing import Any

from prefect import Flow, flow

from flows.base import RETURNED, run_stage
from flows.hooks import HOOKS
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.run.stages import STAGE

_HELP = """{about}

Args:
    config: All settings; only root, runtime, refresh and the groups up to {name} matter here.
    inputs: Artifact ids by part from the stages before; looked up in the store when empty.
"""


def _flow_of(name: str) -> Flow[..., RETURNED]:
    def run(config: PipelineConfig, inputs: dict[str, str] | None = None) -> RETURNED:
        return run_stage(STAGE[name], config, inputs)

    run.__name__ = run.__qualname__ = name
    run.__doc__ = _HELP.format(name=name, about=STAGE[name].about)
    names: dict[str, Any] = {"name": name, "flow_run_name": name + " of {config.ingestion.corpus}"}
    return flow(**names, validate_parameters=True, **HOOKS)(run)


ingestion = _flow_of("ingestion")
tokenization = _flow_of("tokenization")
adaptation = _flow_of("adaptation")
logit_caching = _flow_of("logit_caching")
distillation = _flow_of("distillation")
evaluation = _flow_of("evaluation")
export = _flow_of("export")
generation = _flow_of("generation")

STAGE_FLOWS = (ingestion, tokenization, adaptation, logit_caching, distillation, evaluation, export, generation)
"""In the order of the run."""

"""All stages in the order of the run, and what each costs."""

from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.costs.estimates import Estimate
from tinywave_core.stages.adaptation.stage import STAGE as ADAPTATION
from tinywave_core.stages.distillation.stage import STAGE as DISTILLATION
from tinywave_core.stages.evaluation.stage import STAGE as EVALUATION
from tinywave_core.stages.export.stage import STAGE as EXPORT
from tinywave_core.stages.generation.stage import STAGE as GENERATION
from tinywave_core.stages.ingestion.stage import STAGE as INGESTION
from tinywave_core.stages.logit_caching.stage import STAGE as LOGIT_CACHING
from tinywave_core.stages.tokenization.stage import STAGE as TOKENIZATION

_ROWS = (INGESTION, TOKENIZATION, ADAPTATION, LOGIT_CACHING, DISTILLATION, EVALUATION, EXPORT, GENERATION)
STAGE = {stage.name: stage for stage in _ROWS}
"""By name."""
assert tuple(STAGE) == STAGES, "config/pipeline.py and the rows here name the same stages in the same order"


def estimate(config: PipelineConfig, hours: float, device: str) -> dict[str, Estimate]:
    """What every stage takes for a corpus of `hours`, if all of it has to be computed."""
    return {name: stage.cost(config, hours, device) for name, stage in STAGE.items()}

"""The whole pipeline's config: one group per stage, the refresh policies, and the runtime."""

from typing import Literal

from pydantic import Field

from tinywave_core.config.adaptation import AdaptationConfig
from tinywave_core.config.base import Config, RuntimeConfig
from tinywave_core.config.distillation import DistillationConfig
from tinywave_core.config.evaluation import EvaluationConfig
from tinywave_core.config.export import ExportConfig
from tinywave_core.config.generation import GenerationConfig
from tinywave_core.config.ingestion import IngestionConfig
from tinywave_core.config.logit_caching import LogitCachingConfig
from tinywave_core.config.promotion import PromotionConfig
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.config.validation import ValidationConfig

STAGES = (
    "ingestion",
    "tokenization",
    "adaptation",
    "logit_caching",
    "distillation",
    "evaluation",
    "export",
    "generation",
)
"""The stages in order; a stage has the same name as folder, config group, task, flow and folder of the store."""

RefreshPolicy = Literal["pinned", "growth", "always"]


class RefreshConfig(Config):
    """When things that were fitted on data are fitted again as the corpus grows. Chooses artifacts, identifies none."""

    codebooks: RefreshPolicy = "pinned"
    """`pinned`: keep the first fit; `growth`: fit again when the corpus grew enough; `always`: fit on what is there."""
    teacher: RefreshPolicy = "pinned"
    """The same for the adapted teacher."""
    student: RefreshPolicy = "always"
    """The same for the student and its control, except that `always` trains again only when there is other training speech, another
    teacher or other targets; `distillation.on_new_audio` says from where."""
    vocoder: RefreshPolicy = "pinned"
    """The same for the voice; new codebooks have a new one in any case."""
    growth_fraction: float = Field(0.5, gt=0)
    """Growth in hours of speech since the last fit at which `growth` fits again (0.5: half as much again)."""


class PipelineConfig(Config):
    """All settings of a run."""

    source: str | None = None
    """Folder or s3:// prefix with audio files; only ingestion reads it. Stores below it, links and hidden files are left out."""
    spiritlm_dir: str | None = None
    """Folder or s3:// prefix with SpiritLM's released checkpoints (speech_tokenizer/, spiritlm_model/): speech becomes exactly
    its tokens. `$NAME` is read from the environment; none: the embedded tokenizers, which need no download."""
    root: str = "store"
    """Folder or s3:// prefix of the store, where all outputs live."""
    ingestion: IngestionConfig = IngestionConfig()
    """Audio files to utterances."""
    tokenization: TokenizationConfig = TokenizationConfig()
    """Utterances to tokens."""
    adaptation: AdaptationConfig = AdaptationConfig()
    """The teacher."""
    logit_caching: LogitCachingConfig = LogitCachingConfig()
    """The teacher's cached predictions."""
    distillation: DistillationConfig = DistillationConfig()
    """The student."""
    validation: ValidationConfig = ValidationConfig()
    """Speech that tells training when to stop."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Teacher, student and control on held-out speech."""
    export: ExportConfig = ExportConfig()
    """The student as a transformers directory."""
    generation: GenerationConfig = GenerationConfig()
    """Continuations of held-out prompts."""
    promotion: PromotionConfig = PromotionConfig()
    """When a new student takes the place of the published one."""
    refresh: RefreshConfig = RefreshConfig()
    """Pinning policies."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Where and how fast."""

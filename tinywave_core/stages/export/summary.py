"""What export reports of the model and of the light vocoder."""

from typing import Literal

from pydantic import Field

from tinywave_core.evals.figures import Judges
from tinywave_core.exporters.files import GgufFile, RoundingLoss
from tinywave_core.steps.base import Summary


class ModelSummary(Summary):
    """The student as files."""

    name: str
    parameters: int
    dtype: Literal["float32", "bfloat16"]
    """Of the safetensors."""
    bytes: int
    """Of the whole directory."""
    gguf: list[GgufFile]
    perplexity: RoundingLoss
    vocabulary: Literal["full", "speech"]
    """`speech`: the rows of text were left out, in training or here."""
    vocabulary_rows: int
    trained_rows: int
    """Of the teacher's vocabulary, in which the token shards are written."""
    trained_parameters: int
    """Of the student before rows were left out."""


class Resemblance(Summary):
    """How close resynthesised speech is to the recordings: see `synthesis.quality`."""

    likeness: float
    cepstral_distance_db: float


class VocoderQuality(Summary):
    """Means over held-out recordings; nothing is set where there are too few of them."""

    clips: int = 0
    vocoders: dict[str, Resemblance] = Field(default_factory=dict)
    """By what spoke: `draft`, `light`, and `floor` and `ceiling` to measure them by."""


class JudgesSummary(Summary, Judges):
    """Part `judges`: originals, resynthesis and continuations as the judges hear them."""


class VocoderSummary(Summary):
    """The light vocoder after its training."""

    parameters: int
    hours: float
    """Of speech that it learned from."""
    utterances: int
    voices: list[str]
    """Speakers with enough speech for a voice of their own."""
    steps: int
    look_ahead_frames: int
    final: dict[str, float]
    """Losses of the last step."""
    quality: VocoderQuality

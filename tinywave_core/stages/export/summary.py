"""What export reports of the model and of its voice."""

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
    trained_on: dict[str, int]
    """Training sequences of `speech`, of `text`, and `mixed`: of both in turns."""
    inputs: list[str]
    """What it can be given, and what it can be asked for: see `tokenizers.trained_on`."""
    outputs: list[str]


class Resemblance(Summary):
    """How close resynthesised speech is to the recordings: see `synthesis.quality`."""

    likeness: float
    cepstral_distance_db: float


class VocoderQuality(Summary):
    """Means over held-out recordings; nothing is set where there are too few of them."""

    clips: int = 0
    vocoders: dict[str, Resemblance] = Field(default_factory=dict)
    """`voice`, and `floor` and `ceiling` to measure it by."""


class VoiceSummary(Summary):
    """One of the voices, and whose recordings it is made of."""

    name: str
    speakers: list[str]
    """Empty where the recordings name none."""
    recordings: list[str]
    """Ids, as in `files.parquet`."""
    utterances: int
    seconds: float
    runs: int
    """Stretches of one unit, out of which it speaks."""


class JudgesSummary(Summary, Judges):
    """Part `judges`: originals, resynthesis and continuations as the judges hear them."""


class TrainedVocoder(Summary):
    """A unit HiFi-GAN and its training."""

    parameters: int
    hours: float
    """Of speech that it learned from."""
    steps: int
    final: dict[str, float]
    """Losses of the last step: see `training.hifigan`."""


class VocoderSummary(Summary):
    """The voice that the export carries."""

    voices: list[VoiceSummary]
    """The first one speaks where none is asked for."""
    quality: VocoderQuality
    trained: TrainedVocoder | None = None
    """Unset where it speaks with recordings."""

"""Settings of evaluation on the held-out recordings."""

from pydantic import Field

from tinywave_core.config.base import Config


class ProbesConfig(Config):
    """Pairs of recordings made from held-out speech, of which a model should find the right one likelier (after SALMon)."""

    items: int = Field(40, ge=0, le=1000)
    """Most pairs per probe; 0 makes no probes."""
    max_s: float = Field(6.0, ge=2, le=30)
    """Longest recording of a pair, in seconds: of a longer utterance a stretch between pauses is taken."""
    min_part_s: float = Field(0.8, gt=0.1, le=10)
    """Shortest part before and after the splice, in seconds."""
    min_pause_s: float = Field(0.12, ge=0.064, le=1)
    """Shortest pause at which recordings are spliced, in seconds; utterances without one in their middle are skipped."""
    snr_db: float = Field(10.0, ge=-10, le=40)
    """Level of the speech over the noise of the probe `background_noise`, in decibels."""
    genders: str = Field("", pattern=r"^(\s*[^=,\s][^=,]*=\s*[^=,\s]+\s*(,|$))*$")
    """Gender of speakers as the corpus names them, such as `84=f,1272=m`: no layout of recordings tells it. The probe
    `gender_swap` needs two that differ."""
    seed: int = Field(0, ge=0)
    """Seed of all that is drawn: utterances, partners, noises, rooms, and the bootstrap of the scores."""

    @property
    def gender_of(self) -> dict[str, str]:
        """Gender by speaker."""
        pairs = [pair.partition("=") for pair in self.genders.split(",") if pair.strip()]
        return {speaker.strip(): gender.strip() for speaker, _, gender in pairs}


class GapConfig(Config):
    """Where the student differs from its teacher: per block, per stream, per position, and in which utterances."""

    utterances: int = Field(200, ge=0, le=100_000)
    """Most held-out utterances on which the models run side by side, drawn by a hash of their ids; 0 leaves the gap out."""
    attention_rows: int = Field(32, ge=1, le=4096)
    """Query positions per utterance whose attention is compared."""
    attention_heads: int = Field(8, ge=1, le=256)
    """Heads per block whose attention is compared."""
    worst: int = Field(4, ge=0, le=50)
    """Utterances with the largest loss against the teacher that are kept to listen to."""
    worst_min_tokens: int = Field(30, ge=1)
    """Shortest of these, in tokens: the mean over a handful is chance."""
    costly_tokens: int = Field(12, ge=0, le=1000)
    """Tokens whose predictions cost the student most against the teacher that are listed."""
    costly_min_count: int = Field(5, ge=1)
    """How often such a token must have come."""
    seed: int = Field(0, ge=0)
    """Seed of the utterances, of positions and heads, and of the bootstrap."""


class EvaluationConfig(Config):
    """What is measured on teacher, student and undistilled control."""

    cloze_prompt_share: float = Field(0.5, gt=0, lt=1)
    """Share of an utterance's tokens that is the prompt of the continuation cloze."""
    cloze_min_tokens: int = Field(24, ge=4)
    """Shortest prompt and shortest continuation of a cloze item, in tokens."""
    cloze_items: int = Field(500, ge=1)
    """Most cloze items (drawn by utterance id); each pits the true continuation against one of another utterance."""
    cloze_min_words: int = Field(4, ge=1)
    """Fewest words in either half of an item of the cross-modal cloze, which needs transcribed held-out speech."""
    seed: int = Field(0, ge=0)
    """Seed of the wrong continuations and of the bootstrap."""
    probes: ProbesConfig = ProbesConfig()
    """Probes of voice, order, background and room."""
    gap: GapConfig = GapConfig()
    """Where the student differs from its teacher."""

    def without_parts(self) -> "EvaluationConfig":
        """The settings that identify `scores`: probes and gap are parts of their own, which these do not touch."""
        return self.model_copy(update={"probes": ProbesConfig(), "gap": GapConfig()})

"""What evaluation measures, as frozen types: parts fill them in, summaries hold them, words, pages and model cards read them.

A figure `x` has its 95 % interval beside it as `x_interval`. What a float64 cannot hold, or what is not defined, is None; what
was not measured at all is not set, and so not written. "By model" is by teacher, student and control.
"""

from pydantic import BaseModel, ConfigDict

from tinywave_core.evals.intervals import McNemar, Retention

FEW_RECORDINGS = 10
"""Below this many, resampled utterances say little about other speech."""
Interval = tuple[float, float]
MODELS = ("teacher", "student", "control")


class Figures(BaseModel):
    """Numbers that belong together; equal ones are equal JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# Likelihood ------------------------------------------------------------------------------------------------------


class PerToken(Figures):
    """NLL in nats, and its exponential."""

    nll: float
    nll_interval: Interval
    perplexity: float | None
    """None where the model diverged so far that a float64 cannot hold it."""
    perplexity_interval: Interval | None


class PerSecond(Figures):
    """What one second of audio costs: comparable across vocabularies."""

    bits_per_second: float
    bits_per_second_interval: Interval


class Likelihood(PerToken):
    """What a model, or a table of counts, makes of all held-out tokens."""

    bits_per_second: float | None
    """None where a part of the sequences is text: seconds of audio say nothing there."""
    bits_per_second_interval: Interval | None = None
    nll_by_kind: dict[str, float]
    """By kind of token, `switch` included."""
    nll_by_modality: dict[str, float]
    by_stream: dict[str, PerSecond]


class ModelFigures(Likelihood):
    """A model on all held-out tokens."""

    cloze: float | None = None
    """Accuracy of the continuation cloze; not set where no item could be built."""
    cloze_interval: Interval | None = None
    parameters: int


class NllRatio(Figures):
    """NLL over the teacher's on the same tokens; None where the teacher's can be 0."""

    nll: float | None
    nll_interval: Interval | None


class Ratio(NllRatio):
    """The same with perplexities; None where a float64 cannot hold one."""

    perplexity: float | None
    perplexity_interval: Interval | None


class ModelRatio(Ratio):
    """A model over the teacher on all held-out tokens, and by stream."""

    by_stream: dict[str, NllRatio]


class ContinuationFigures(PerToken):
    """A model on the tokens after the prompts."""

    bits_per_second: float
    bits_per_second_interval: Interval


class Continuation(Figures):
    """All models on what comes after a prompt; by no model where no utterance is long enough."""

    prompt_s: float
    min_s: float
    utterances: int
    tokens: int
    seconds: float
    models: dict[str, ContinuationFigures]
    ratios: dict[str, Ratio]


class HeldOut(Figures):
    """What was scored."""

    recordings: int
    utterances: int
    hours: float
    tokens: int
    cloze_items: int
    drawn_from: int | None = None
    """Utterances that there were, where `evaluation.utterances` drew some of them."""


class ModelComparison(Figures):
    """Student, teacher and control on the same utterances: what distillation gained."""

    distillation_gain_nll: float
    """Nats per token that the student is better than the control."""
    distillation_gain_nll_interval: Interval
    distillation_helps: bool
    nll_gap_closed: float | None
    """Share of the way from the control to the teacher; None where the control is as good as the teacher."""
    nll_gap_closed_interval: Interval | None
    """None where the gap is not surely above 0."""
    student_is_better_than_teacher: bool
    cloze_retention: Retention | None = None
    """Not set, as the next, where there are no cloze items."""
    cloze_gain_interval: Interval | None = None


class AboveFloor(Figures):
    """By how much a model is worse than a floor, in nats per token, paired over recordings; below 0 it is better."""

    nll: float
    interval: Interval

    @property
    def is_better(self) -> bool:
        """Whether the model is better than the floor beyond noise."""
        return self.interval[1] < 0

    @property
    def is_worse(self) -> bool:
        return self.interval[0] > 0


class Floors(Figures):
    """What needs no model: guessing, and tables of counts of the student's training tokens (`evals/ngrams.py`)."""

    guessing: Likelihood
    """Every id is as likely as any other."""
    counts: list[Likelihood]
    """By how many tokens are counted together: 1, 2, …"""
    order: int
    """Which of the counts has the lowest NLL of all held-out tokens: the floor."""
    above_guessing: dict[str, AboveFloor]
    """By model."""
    above_counts: dict[str, AboveFloor]
    """By model, above the floor."""
    recordings: int
    """That the intervals are over."""
    counted_tokens: int
    """Of training speech and text."""
    training_tokens: int
    """All that there are; of more than `evals.ngrams.MOST_TOKENS` a part is counted."""

    @property
    def floor(self) -> Likelihood:
        """The best of the tables of counts."""
        return self.counts[self.order - 1]


class DirectionAccuracy(Figures):
    """A model in one direction of the cross-modal cloze."""

    accuracy: float
    interval: Interval
    items: int


class Direction(Figures):
    """The models in one direction of the cross-modal cloze, such as speech to text; chance is 0.5."""

    teacher: DirectionAccuracy
    student: DirectionAccuracy
    control: DirectionAccuracy
    gain_interval: Interval
    """Of the student's accuracy less the control's."""

    @property
    def models(self) -> dict[str, DirectionAccuracy]:
        return {"teacher": self.teacher, "student": self.student, "control": self.control}


class Scores(Figures):
    """The three models on held-out speech."""

    held_out: HeldOut
    models: dict[str, ModelFigures]
    comparison: ModelComparison
    floors: Floors
    ratios: dict[str, ModelRatio]
    """Over the teacher, of student and control."""
    continuation: Continuation
    directions: dict[str, Direction] = {}
    """Not set where no words have times."""


# Probes ----------------------------------------------------------------------------------------------------------


class ProbeAccuracy(Figures):
    """A model on the pairs of one probe, by scores of whole recordings and of what follows the splice."""

    accuracy: float
    interval: Interval
    continuation_accuracy: float
    continuation_interval: Interval


class ProbeFigures(Figures):
    """The models on the pairs of one probe."""

    items: int
    models: dict[str, ProbeAccuracy]
    mcnemar: dict[str, McNemar]
    """The student against control and teacher."""
    retention: Retention
    """Of the teacher's accuracy by the student."""


class OverallAccuracy(Figures):
    """A model on the pairs of all probes."""

    accuracy: float
    interval: Interval


# The gap to the teacher ------------------------------------------------------------------------------------------


class CloserFigure(Figures):
    """By how much the student is closer to the teacher than the control, on the same utterances."""

    measure: str
    group: str
    """All tokens, those of a kind, or of a stretch of positions."""
    student_block: int | None
    """None, as the next, for what is about predictions."""
    teacher_block: int | None
    value: float
    interval: Interval


class GapFigure(Figures):
    """How far a model is from the teacher."""

    model: str
    measure: str
    group: str
    student_block: int | None
    teacher_block: int | None
    value: float
    interval: Interval
    count: int
    """Values that it is the mean of."""


class TokenCost(Figures):
    """A token whose predictions cost the student more than the teacher, in nats."""

    id: int
    count: int
    mean: float
    total: float


# Continuations as text -------------------------------------------------------------------------------------------


class JudgedFigures(Figures):
    """Continuations from one source."""

    gen_ppl: float | None
    """Generative perplexity; None where a float64 cannot hold it."""
    gen_ppl_interval: Interval | None
    auto_bleu: float | None
    """None where no continuation has two words."""
    auto_bleu_interval: Interval | None
    empty: int
    """In how many nothing was heard."""
    without_bigrams: int
    seconds: float
    """Mean length."""
    silent: int
    """How many have no unit to speak."""


class JudgedRatio(Figures):
    """Generative perplexity over the teacher's on the same prompts."""

    gen_ppl: float | None
    gen_ppl_interval: Interval | None


class Generated(Figures):
    """Continuations of the same prompts from all sources, judged as text."""

    items: int
    prompt_s: float
    max_new_tokens: int
    why: str = ""
    """Why nothing was continued; not set where something was."""
    sources: dict[str, JudgedFigures]
    """By model, and `recording` for how it really went on."""
    ratios: dict[str, JudgedRatio]
    """Over the teacher's, of the others."""
    vocoder: str = ""
    """Not set where nothing was continued."""


# Units ----------------------------------------------------------------------------------------------------------


class Measured(Figures):
    """A figure over utterances."""

    value: float
    interval: Interval


# How it sounds ---------------------------------------------------------------------------------------------------


class Mean(Figures):
    """A mean over clips."""

    value: float
    interval: Interval
    clips: int


class Rated(Figures):
    """Continuations of one source, rated 1 to 5 by a language model of text."""

    rating: Mean | None
    """Over those that have a rating; None where none has."""
    at_worst: Mean
    """Over all, where each failure counts as 1."""
    failures: dict[str, int]
    """How many have no rating, by reason."""


class WordErrors(Figures):
    """Substituted, missing and added words over the words of the reference texts."""

    rate: float
    interval: Interval
    """Over utterances."""
    errors: int
    words: int
    utterances: int


class Heard(Figures):
    """What the judges say of one source; what was not judged is None."""

    clips: int
    silent: int
    """More, which have nothing to hear."""
    seconds: float
    """Mean length."""
    sig: Mean | None
    """DNSMOS, 1 to 5: of the speech, the background, and all."""
    bak: Mean | None
    ovrl: Mean | None
    wer: WordErrors | None
    """Against the transcripts."""
    wer_heard: WordErrors | None
    """Against what the recogniser hears in the original."""
    similarity: Mean | None
    """Cosine of the voice with that in the first half of the original."""


class Judges(Figures):
    """Originals, resynthesis and continuations as the judges hear them."""

    utterances: int
    """Originals, and as many resynthesised."""
    why: str = ""
    """Why nothing was judged; not set where something was."""
    sources: dict[str, Heard]
    """`original`, `resynthesis`, the models by name, and `stranger`: other speakers' originals, for the voices alone."""
    judges: dict[str, str]
    """SHA-256 of `dnsmos`, `asr` and `speaker_model`; what is missing was absent."""
    vocoder: str = ""

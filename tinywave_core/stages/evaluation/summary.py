"""What the parts of evaluation report."""

from typing import Any

from pydantic import Field

from tinywave_core.config.preference import JudgeName
from tinywave_core.evals.figures import (
    CloserFigure,
    Figures,
    GapFigure,
    Generated,
    Interval,
    Mean,
    OverallAccuracy,
    ProbeFigures,
    Rated,
    Scores,
)
from tinywave_core.evals.units import UnitFigures
from tinywave_core.steps.base import Summary

Blocks = tuple[int, int]
"""A block of the student and the one of the teacher that it is compared with."""


class ScoresSummary(Summary, Scores):
    """Part `scores`."""


class AgainstSummary(Summary):
    """Part `against`: a new student against the published one, in nats per token on the same utterances."""

    comparable: bool
    why: str = ""
    """Why they cannot be compared: then no field below is set."""
    difference: float = 0.0
    """New minus published."""
    interval: Interval = (0.0, 0.0)
    recordings: int = 0
    tokens: int = 0
    nll: dict[str, float] = Field(default_factory=dict)
    """Of `student` and `published`."""


class ProbesSummary(Summary):
    """Part `probes`: what pairs could be made."""

    items: dict[str, int]
    """Pairs by probe."""
    absent: dict[str, str]
    """By probe of which there is no pair, why."""
    utterances: int
    """That were looked at."""
    without_pause: int
    skipped: dict[str, dict[str, int]]
    """By probe, of how many utterances it made no pair, by reason."""
    seconds: float
    """Of all recordings, both versions."""


class ProbeScoresSummary(Summary):
    """Part `probe_scores`."""

    items: int
    probes: dict[str, ProbeFigures]
    overall: dict[str, OverallAccuracy]
    """By model; empty where there are no pairs."""
    absent: dict[str, str]
    truncated: int
    """Recordings of more tokens than a model reads."""


class CostlyToken(Figures):
    """A token by name, and what its predictions cost the student more than the teacher, in nats."""

    token: str | None
    id: int
    count: int
    mean: float
    total: float


class GapSummary(Summary):
    """Part `gap`: student and control beside the teacher."""

    utterances: int
    tokens: int
    figures: list[GapFigure]
    closer: list[CloserFigure]
    cosines: dict[str, list[list[float]]]
    """By model, of every block of its with every block of the teacher."""
    pairs: list[Blocks]
    costly: list[CostlyToken]
    worst: int
    """Utterances that can be listened to."""

    def find(self, model: str, measure: str, group: str = "all", blocks: Blocks | None = None) -> GapFigure | None:
        """One figure; None where no token is of the group."""
        wanted = (model, measure, group, *(blocks or (None, None)))
        named = ((f.model, f.measure, f.group, f.student_block, f.teacher_block) for f in self.figures)
        return next((f for f, name in zip(self.figures, named, strict=True) if name == wanted), None)

    def figure(self, model: str, measure: str, group: str = "all", blocks: Blocks | None = None) -> GapFigure:
        """One figure that is surely there."""
        figure = self.find(model, measure, group, blocks)
        assert figure is not None, (model, measure, group, blocks)
        return figure

    def difference(self, measure: str, group: str = "all", blocks: Blocks | None = None) -> CloserFigure:
        """By how much the student is closer than the control in one figure."""
        wanted = (measure, group, *(blocks or (None, None)))
        return next(f for f in self.closer if (f.measure, f.group, f.student_block, f.teacher_block) == wanted)


class ContinuationsSummary(Summary):
    """Part `continuations`."""

    items: int
    why: str
    """Why nothing was continued; empty where something was."""
    vocabulary: dict[str, Any]
    """Of the ids."""


class UnitsSummary(Summary):
    """Part `units`."""

    figures: UnitFigures | None
    """None where there is no speech."""
    split: str
    why: str
    """Why there are no figures of phones, or none at all; empty where there are some."""
    refused: dict[str, int]
    """Utterances without times, by reason."""
    drift: float | None
    """The largest of a shard, in bits, from the codebooks' fit; None for given models."""


class GeneratedSummary(Summary, Generated):
    """Part `generated`."""


class RatingsSummary(Summary):
    """Part `ratings`."""

    items: int
    why: str = ""
    """Why nothing was rated; not set where something was."""
    sources: dict[str, Rated]
    """By model, and `recording`."""
    gaps: dict[str, Mean]
    """Paired differences, by name; only those prompts count of which both continuations have a rating."""


class BeforeAndAfter(Figures):
    """A mean over continuations of held-out prompts, before and after preference tuning."""

    before: float
    after: float
    difference: float
    """After less before, on the same prompts."""
    interval: Interval
    """Of the difference, over recordings."""
    prompts: int
    """After which both continuations have a value."""


class DraftingSummary(Summary):
    """Part `drafting`: how much of what the drafter proposes the student keeps."""

    recordings: int
    tokens: int
    kept: float
    """Share of the proposals, at temperature 1, 0 to 1."""
    interval: tuple[float, float]
    """Of `kept`, 95 %, over recordings."""
    proposed: int
    """Tokens at a time."""
    tokens_a_round: float
    """That one reading of the student then yields on average."""
    parameters: int
    """Of the drafter."""
    layers: int
    """Of the drafter."""


class PreferenceSummary(Summary):
    """Part `preference`."""

    judge: JudgeName
    prompts: int
    recordings: int
    why: str = ""
    """Why nothing was compared; not set where something was."""
    measures: dict[str, BeforeAndAfter]
    """`teacher` (log-probability per token), `judge` where another one ranked, `repetition`, `tokens`."""
    failures: dict[str, dict[str, int]]
    """By model, continuations without a score, by reason."""

"""Which student is published: a new one takes the place of the old only if held-out speech shows that it is no worse.

`published/NNNNNN.json` is an append-only log; its latest record is what users of the model load. The test is paired: both students
score the same held-out utterances of today, and the upper end of the 95 % bootstrap interval of the difference in nats per
token must stay below a margin (a test for non-inferiority). Without enough held-out speech the interval is wide and the old one stays.
No student is published, the first one neither, that is not better than a table of counts beyond noise. One that is worse than its
undistilled control is published with a warning: `infra/decisions/0049-published-with-a-warning.md`.
"""

from typing import Any, Literal

from pydantic import BaseModel, field_serializer

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.counts import count
from tinywave_core.errors import MissingInputError
from tinywave_core.stages.evaluation.floor_words import below_control, shortfall
from tinywave_core.stages.evaluation.scores import against
from tinywave_core.stages.evaluation.summary import AgainstSummary, ScoresSummary
from tinywave_core.steps.base import Execute, Outputs
from tinywave_core.storage.store import Artifact, Log, Store, utc_now

LOG = "published"
_REMEDY = (
    "Add speech, start from a teacher that knows more (--adaptation.teacher), or publish it all the same with "
    "`tinywave publish`"
)


class Published(BaseModel):
    """One record of the log."""

    number: int = 0
    model: str
    """Id of the export."""
    student: str
    """Id of the student in it."""
    replaces: str | None
    """Id of the export that was published before."""
    why: str
    warning: str = ""
    """What speaks against it all the same, as the rest of a sentence about it; empty where nothing does."""
    published_at: str


class Promotion(BaseModel):
    """What a run decided."""

    outcome: Literal["published", "already", "kept"]
    """The run's student is published now, it was published already, or the one before stays."""
    model: str
    """Id of the export that is published after the run; the run's own where none is."""
    why: str
    warning: str = ""
    """What speaks against the run's student where that is published, as the rest of a sentence about it; else empty."""
    test: AgainstSummary | None = None
    """The paired test, where there was one."""

    @field_serializer("test")
    def _as_reported(self, test: AgainstSummary | None) -> dict[str, Any] | None:
        """As in the artifact: without what is not known of students that cannot be compared."""
        return None if test is None else test.model_dump(mode="json", exclude_unset=True)

    @property
    def sentences(self) -> list[str]:
        """For people: what was decided, and before it the warning where there is one."""
        words = {"published": "Published", "already": "Published before", "kept": "Not published"}
        said = f"{words[self.outcome]}: {self.why}."
        return [f"Warning: the published student {self.warning}.", said] if self.warning else [said]


def promote(config: PipelineConfig, store: Store, outputs: Outputs, execute: Execute) -> Promotion:
    """Decide about the student of a run that is complete, and write it down."""
    model, student = outputs["model"], outputs["student"]
    log, now = store.log(LOG), published(store)
    if now is not None and now.model == model.id:
        return Promotion(
            outcome="already",
            model=model.id,
            why=f"the same student as {now.published_at[:10]}",
            warning=_warning(model),
        )
    policy = config.promotion.policy
    if policy == "never":
        return _kept(now, model, "promotion.policy is never")
    wants_more = policy == "not_worse" and config.promotion.floor == "counts"
    if wants_more and (why := shortfall(ScoresSummary.of(outputs["scores"]), "student")):
        return _kept(now, model, f"it {why}. {_REMEDY}")
    if now is None or policy == "always":
        why = "the first student of this store" if now is None else "promotion.policy is always"
        return _publish(log, model, student, now, why)
    before = store.find(now.student, "student")
    if not before.complete:
        return _publish(log, model, student, now, "the one before is no longer in the store")
    if not store.find(now.model, "model").complete:
        return _publish(log, model, student, now, "the export before is no longer in the store")
    if before.id == student.id:
        return _publish(log, model, student, now, "the same weights, exported anew")
    test = AgainstSummary.of(against(config, outputs["tokens"], student, before, execute))
    if not test.comparable:
        return _kept(now, model, f"{test.why}: compare by ear and by benchmark, and publish by hand", test)
    return _judge(config.promotion.margin, log, model, student, now, test)


def _judge(
    margin: float, log: Log, model: Artifact, student: Artifact, now: Published, test: AgainstSummary
) -> Promotion:
    low, high = test.interval
    measured = (
        f"{test.difference:+.4f} nats per token against the published one (95 % interval {low:+.4f} to {high:+.4f}, paired over "
        f"{count(test.recordings, 'held-out recording')})"
    )
    if high <= margin:
        better = "better" if high < 0 else f"no worse by more than {margin:g}"
        return _publish(log, model, student, now, f"{better}: {measured}", test)
    worse = "worse" if low > 0 else f"not shown to be no worse by more than {margin:g}"
    return _kept(now, model, f"{worse}: {measured}", test)


def publish(store: Store, model: Artifact, why: str) -> Published:
    """Publish an export by hand; MissingInputError if it is none or not whole."""
    if model.stage != "export" or model.manifest is None:
        raise MissingInputError(f"{model.id} is no whole export; expected one of those in `tinywave inspect`")
    student = store.find(model.manifest.inputs["student"][0], "student")
    _publish(store.log(LOG), model, student, published(store), why)
    now = published(store)
    assert now is not None
    return now


def published(store: Store) -> Published | None:
    """The latest record; None if nothing was published yet."""
    record = store.log(LOG).latest()
    return None if record is None else Published.model_validate(record)


def _publish(
    log: Log, model: Artifact, student: Artifact, now: Published | None, why: str, test: AgainstSummary | None = None
) -> Promotion:
    record = Published(
        number=1 if now is None else now.number + 1,
        model=model.id,
        student=student.id,
        replaces=None if now is None else now.model,
        why=why,
        warning=_warning(model),
        published_at=utc_now(),
    )
    log.append(record.model_dump(mode="json"))
    return Promotion(outcome="published", model=model.id, why=why, warning=record.warning, test=test)


def _warning(model: Artifact) -> str:
    """By the scores that the export was made with: no better than counts, where that was not asked for, or worse than the control."""
    assert model.manifest is not None
    scores = ScoresSummary.of(model.store.find(model.manifest.inputs["scores"][0], "scores"))
    return shortfall(scores, "student") or below_control(scores)


def _kept(now: Published | None, model: Artifact, why: str, test: AgainstSummary | None = None) -> Promotion:
    return Promotion(outcome="kept", model=now.model if now else model.id, why=why, test=test)

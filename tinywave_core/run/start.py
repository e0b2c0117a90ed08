"""From where the teacher of a corpus starts: `adaptation.teacher` = `auto` becomes `base` or `fresh` here, and nowhere else.

`auto` takes the base where there is little training speech, the other settings go with it, and it has heard no held-out recording.
The first decision for a corpus is a record of the log `starts/<corpus>` and holds while the corpus grows, unless held-out speech
turns up that the base has heard: then the start is fresh, and stays so. Nothing here writes but `Start.keep`.
"""

from dataclasses import dataclass, replace
from typing import Any

from tinywave_core.audio.utterances import FILES_FILE
from tinywave_core.base.leaks import heard_recordings
from tinywave_core.base.opening import Base, base_of, require_base, why_not
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.counts import count
from tinywave_core.errors import LeakError
from tinywave_core.stages.ingestion.summary import CorpusSummary
from tinywave_core.steps.inputs import corpus_key
from tinywave_core.storage.shards import rows_of, where
from tinywave_core.storage.store import Artifact, Log, Store, utc_now
from tinywave_core.wording import duration

_PHRASES = {"base": "starts from the base", "fresh": "starts fresh"}


@dataclass(frozen=True)
class Start:
    """What was decided, and why."""

    config: PipelineConfig
    """The settings for all stages after ingestion: `auto` is no longer in them."""
    why: str
    """Empty where the settings name the teacher."""
    is_new: bool = False
    """Not yet in the log."""

    @property
    def sentence(self) -> str:
        """For people."""
        teacher = self.config.adaptation.teacher
        phrase = _PHRASES.get(teacher, f"starts from {teacher}")
        return f"{phrase}: {self.why or 'adaptation.teacher says so'}"

    def keep(self, store: Store) -> None:
        """Write a new decision down."""
        if self.is_new:
            asked = self.config.adaptation
            record = {"teacher": asked.teacher, "below_hours": asked.base_below_hours, "why": self.why}
            _log(self.config, store).append({**record, "decided_at": utc_now()})


def choose_start(config: PipelineConfig, store: Store, corpus: Artifact) -> Start:
    """The start for this corpus; NotYetComputedError where it has to be ingested first, LeakError where `base` is asked for and
    has heard held-out recordings."""
    if config.adaptation.teacher == "base":
        base = require_base(config)
        if fault := _heard(base, corpus):
            raise LeakError(explicit_leak(fault))
        return Start(_from_base(config, base), "")
    early = settled_by_settings(config)
    if early is not None:
        return early
    start = _recorded(config, store) or start_by_hours(config, CorpusSummary.of(corpus).hours_train)
    fault = _heard(base_of(config), corpus) if start.config.adaptation.teacher == "base" else ""
    return _fresh(config, fault, is_new=True) if fault else start


def settled_by_settings(config: PipelineConfig) -> Start | None:
    """The start where settings alone decide; None where it takes the corpus."""
    if config.adaptation.teacher != "auto":
        return Start(config, "")
    base = base_of(config)
    fault = why_not(config, base) or _another_shape(config, base)
    return None if fault is None else _fresh(config, fault)


def start_by_hours(config: PipelineConfig, hours: float) -> Start:
    """The start of `auto` by the amount of training speech."""
    limit = config.adaptation.base_below_hours
    if hours < limit:
        return Start(
            _from_base(config, base_of(config)), f"{duration(hours)} of training speech, below {limit:g} h", True
        )
    return _fresh(config, f"{duration(hours)} of training speech, not below {limit:g} h", is_new=True)


def expected_start(config: PipelineConfig, store: Store, hours: float) -> Start:
    """The start before anything is ingested, for a plan: `hours` is what the source seems to hold of training speech."""
    if config.adaptation.teacher == "base":
        return Start(_from_base(config, require_base(config)), "")
    if decided := settled_by_settings(config) or _recorded(config, store):
        return decided
    start = start_by_hours(config, hours)
    is_base = start.config.adaptation.teacher == "base"
    # Only the sound tells, and a plan decodes nothing.
    return replace(start, why=f"{start.why}, unless it has heard what is held out") if is_base else start


def possible_configs(config: PipelineConfig) -> list[PipelineConfig]:
    """The settings with each teacher that they may come to: what is checked before a run."""
    if config.adaptation.teacher == "base":
        return [_from_base(config, require_base(config))]
    early = settled_by_settings(config)
    return [early.config] if early else [_from_base(config, base_of(config)), _fresh(config, "").config]


def after_a_leak(config: PipelineConfig, error: LeakError) -> Start:
    """The start of `auto` after tokenization found held-out speech that the base has heard."""
    return _fresh(config, str(error), is_new=True)


def _recorded(config: PipelineConfig, store: Store) -> Start | None:
    """What was decided for this corpus; None with another limit, which is a new question."""
    record = _log(config, store).latest()
    if record is None or record["below_hours"] != config.adaptation.base_below_hours:
        return None
    settled = _from_base(config, base_of(config)) if record["teacher"] == "base" else _fresh(config, "").config
    return Start(settled, record["why"])


def explicit_leak(fault: str) -> str:
    """The error where the settings name the base."""
    return (
        f"adaptation.teacher is base, but {fault}: figures of held-out speech would be a lie. Pass --adaptation.teacher fresh, or take "
        "other recordings"
    )


def _heard(base: Base, corpus: Artifact) -> str:
    """How many held-out recordings the base has heard, in words; empty for none."""
    held_out = held_out_recordings(corpus)
    heard = held_out & heard_recordings(base)
    return f"the base has heard {len(heard)} of the {count(len(held_out), 'held-out recording')}" if heard else ""


def held_out_recordings(corpus: Artifact) -> set[str]:
    """Ids of the recordings that a corpus holds out."""
    # Every stage asks: in Arrow, or each would turn the table of all files into Python objects.
    return {
        row["recording_id"]
        for row in rows_of(corpus.path(FILES_FILE), ["recording_id", "split"], where("split", "held_out"))
    }


def _log(config: PipelineConfig, store: Store) -> Log:
    return store.log(f"starts/{corpus_key(config)}")


def _fresh(config: PipelineConfig, why: str, *, is_new: bool = False) -> Start:
    return Start(_with(config, teacher="fresh"), why, is_new)


def _from_base(config: PipelineConfig, base: Base) -> PipelineConfig:
    return _with(config, teacher="base", fresh=base.shape)


def _with(config: PipelineConfig, **changes: Any) -> PipelineConfig:
    return config.model_copy(update={"adaptation": config.adaptation.model_copy(update=changes)})


def _another_shape(config: PipelineConfig, base: Base) -> str | None:
    mine, its = config.adaptation.fresh.model_dump(), base.shape.model_dump()
    name = next((name for name in its if mine[name] != its[name]), None)
    return None if name is None else f"adaptation.fresh.{name} is {mine[name]}, the base's is {its[name]}"

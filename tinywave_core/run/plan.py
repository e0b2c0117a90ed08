"""What a run would do, before it: which steps are cached, which have to run and why, what they cost. Computes and writes nothing.

In come settings; out comes a `Plan`, for `tinywave plan` and `tinywave.plan` alike. Recordings are known by their headers only.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from tinywave_core.audio.catalog import Catalog
from tinywave_core.audio.source import Source
from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.costs.estimates import FLAC_BYTES_PER_S, Estimate
from tinywave_core.costs.expectations import expectation
from tinywave_core.devices import pick_device
from tinywave_core.errors import MissingInputError, SourceError, TrainingError
from tinywave_core.run.pipeline import Look, build_stage
from tinywave_core.run.preflight import check_plan
from tinywave_core.run.stages import estimate
from tinywave_core.run.start import Start, choose_start, expected_start
from tinywave_core.stages.generation.lengths import why_no_prompt
from tinywave_core.stages.ingestion import corpus as ingestion
from tinywave_core.stages.ingestion.labels import summary_of
from tinywave_core.stages.ingestion.look import said
from tinywave_core.stages.ingestion.quality_words import plan_lines
from tinywave_core.stages.ingestion.summary import CorpusSummary
from tinywave_core.stages.ingestion.words import label_facts
from tinywave_core.steps.base import Outputs, Step
from tinywave_core.steps.inputs import corpus_key
from tinywave_core.steps.reasons import Reason, explain_all
from tinywave_core.storage.store import NotYetComputedError, Store

_PROBED = 2000  # headers that a plan reads at most; the rest is scaled by bytes


@dataclass(frozen=True)
class StagePlan:
    """One stage of a plan."""

    stage: str
    """Its name."""
    steps: int
    """Steps that are known now; there may be more where `is_whole` is False."""
    to_run: int
    """Those of them that are not in the store."""
    is_whole: bool
    """Whether these are all of its steps. What is built on something that is not computed yet cannot be listed."""
    why: str
    """Why it runs or is cached, or what forbids to run it."""
    seconds: float
    """Estimate of what is missing, on `Plan.device`."""
    bytes: float
    """The same for what it writes."""


@dataclass(frozen=True)
class Plan:
    """What a run with these settings would do."""

    hours: float
    """Hours of speech in the source, or in the store where there is none."""
    recordings: int
    """Files there, or in the store."""
    device: str
    """`cpu`, `cuda` or `mps`."""
    stages: tuple[StagePlan, ...]
    """In the order of the run."""
    teacher: str
    """From where the teacher starts, and why: a sentence."""
    source: tuple[str, ...]
    """What a look at the source says, in lines; empty without one."""
    notes: tuple[str, ...]
    """What thresholds leave out, and what so much speech gave when it was measured, in lines."""
    audio_shards: int
    """Shards of audio that there are and that would be made."""
    config: PipelineConfig = field(repr=False)
    """The settings, with the start of the teacher settled."""
    costs: dict[str, Estimate] = field(repr=False)
    """What each stage takes if all of it is computed."""
    all_steps: "tuple[tuple[Step, Reason], ...]" = field(repr=False)
    """Every step that is known, and why it is cached or runs."""

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def bytes(self) -> float:
        """Of all stages together."""
        return sum(stage.bytes for stage in self.stages)


def make_plan(config: PipelineConfig, until: str = STAGES[-1], *, whole: bool = True) -> Plan:
    """The plan of the stages up to `until`; with `whole` the whole pipeline's settings are checked, as its run does.

    What a run would refuse at once is refused here too, but for SpiritLM's release, which need not be there yet; SourceError for a source
    that is not there.
    """
    if whole:
        check_plan(config)
    store = Store(config.root, create=False)
    (hours, recordings), device = hours_of_speech(config, store), pick_device(config.runtime).type
    walk = Walk(config, store)
    source = _source_lines(config, store) if config.source is not None else []
    looked = {stage: walk.look_at(stage) for stage in STAGES[: STAGES.index(until) + 1]}
    start = walk.start(hours)
    if "generation" in looked and (fault := walk.no_prompt()):
        looked["generation"] = (*looked["generation"][:2], fault)
    costs = estimate(start.config, hours, device)
    stages = []
    for stage, (reasons, known, problem) in looked.items():
        missing = [reason for reason in reasons if not reason.cached]
        share = len(missing) / len(reasons) if reasons and known else 1.0
        why, cost = problem or _why(reasons, missing, known), costs[stage]
        stages.append(
            StagePlan(stage, len(reasons), len(missing), known, why, share * cost.seconds, share * cost.bytes)
        )
    training = hours * (1 - config.ingestion.held_out_fraction)
    told = expectation(start.config.adaptation.teacher, training) if whole else ""
    notes = [*walk.left_out(), *([told] if told else [])]
    return Plan(
        hours,
        recordings,
        device,
        tuple(stages),
        start.sentence,
        tuple(source),
        tuple(notes),
        walk.audio_shards(),
        start.config,
        costs,
        tuple(walk.steps),
    )


def _why(reasons: Sequence[Reason], missing: Sequence[Reason], known: bool) -> str:
    if missing:
        return missing[0].why
    return reasons[0].why if reasons and known else "depends on what comes before"


def _source_lines(config: PipelineConfig, store: Store) -> list[str]:
    today = ingestion.scan(config, store)
    return [*said(today), *(f"{what}: {value}" for what, value in label_facts(summary_of(today.labels)))]


@dataclass
class Walk:
    """A walk over the stages in their order, which computes nothing: what is known of each from those before it."""

    config: PipelineConfig
    store: Store
    steps: list[tuple[Step, Reason]] = field(default_factory=list)
    _outputs: Outputs = field(default_factory=dict)
    _blocked: str = ""
    """The first part that is not computed yet: what is built on it cannot be listed."""

    def look_at(self, stage: str) -> tuple[list[Reason], bool, str]:
        """Why each of the stage's steps is cached or runs, whether these are all of its steps, and what forbids to run it."""
        look, known, problem = Look(), True, ""
        try:
            if self._blocked:
                raise NotYetComputedError(self._outputs[self._blocked])
            self._outputs |= build_stage(stage, self.config, self.store, self._outputs, look)
        except NotYetComputedError as error:
            known, self._blocked = False, self._blocked or error.artifact.part or "corpus"
            self._outputs.setdefault(self._blocked, error.artifact)
        except KeyError:  # an output that a stage before would have, had it not stopped at the same place
            known = False
        except (MissingInputError, TrainingError) as error:
            # A teacher's folder that is not there, say, or a teacher that has nothing to teach: the plan says so and goes on.
            known, problem = False, str(error)
        reasons = explain_all([step for step, _ in look.steps], [artifact for _, artifact in look.steps])
        self.steps += zip((step for step, _ in look.steps), reasons, strict=True)
        return reasons, known, problem

    def start(self, hours: float) -> Start:
        """From where the teacher starts; by the hours that the source seems to hold where nothing is ingested yet."""
        corpus = self._outputs.get("corpus")
        if corpus is not None and corpus.complete:
            return choose_start(self.config, self.store, corpus)
        return expected_start(self.config, self.store, hours * (1 - self.config.ingestion.held_out_fraction))

    def no_prompt(self) -> str:
        """Why generation will have no prompt; empty where it will, or where nobody can know before ingestion."""
        corpus = self._outputs.get("corpus")
        return why_no_prompt(self.config, corpus) if corpus is not None and corpus.complete else ""

    def audio_shards(self) -> int:
        """Those that were made and those that would be."""
        new = {step.id for step, _ in self.steps if (step.stage, step.part) == ("ingestion", "shard")}
        return len(new.union(Catalog(self.store, corpus_key(self.config)).shard_ids()))

    def left_out(self) -> list[str]:
        """What thresholds leave out: of the corpus as it will be, or as it is where recordings are new."""
        corpus = self._outputs.get("corpus")
        more = corpus is None or not corpus.complete
        if more and self.config.ingestion.keep.thresholds:
            before = self.config.model_copy(update={"source": None})
            with contextlib.suppress(SourceError):  # nothing is taken yet
                corpus = ingestion.build(before, self.store, Look())
        return plan_lines(self.config, corpus if corpus is not None and corpus.complete else None, more=more)


def hours_of_speech(config: PipelineConfig, store: Store) -> tuple[float, int]:
    """Hours of speech in the source, from headers of local files, or from the bytes as if they were FLAC; and its recordings."""
    if config.source is None:
        found = [
            CorpusSummary.of(artifact)
            for artifact in map(store.find, store.artifact_ids("ingestion"))
            if artifact.part == "corpus"
        ]
        return sum(corpus.hours for corpus in found), sum(corpus.files.found for corpus in found)
    files = Source(config.source).listing().audio
    probed = files[:: max(1, len(files) // _PROBED)]
    seconds = 0.0
    for file in probed:
        if not Path(file.location).is_file():
            seconds += file.bytes / FLAC_BYTES_PER_S
            continue
        # Ingestion will reject it with its reason. By its descriptor, since soundfile takes no name that is not UTF-8.
        with (
            contextlib.suppress(soundfile.SoundFileError, OSError),
            Path(file.location).open("rb") as opened,
            soundfile.SoundFile(opened.fileno(), closefd=False) as sound,
        ):
            seconds += min(sound.frames / sound.samplerate, 86_400)
    hours = seconds * sum(f.bytes for f in files) / max(sum(f.bytes for f in probed), 1) / 3600
    return hours, len(files)

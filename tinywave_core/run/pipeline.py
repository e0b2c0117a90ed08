"""The DAG, written once: which stage builds on which outputs. The caller decides what `execute` does.

`compute_all` computes in this process, the Prefect flows map tasks, `Look` only looks up what is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.errors import LeakError, MissingInputError
from tinywave_core.run.preflight import check_run
from tinywave_core.run.stages import STAGE
from tinywave_core.run.start import after_a_leak, choose_start, explicit_leak
from tinywave_core.stages.generation.lengths import require_prompt
from tinywave_core.steps.base import Execute, Outputs, Step, compute_all, find_steps
from tinywave_core.storage.store import Artifact, NotYetComputedError, Store


def build_stage(stage: str, config: PipelineConfig, store: Store, done: Outputs, execute: Execute) -> Outputs:
    """The outputs that `stage` adds to those of the stages before it; from where the teacher starts is settled after ingestion."""
    if stage == STAGES[0]:
        return STAGE[stage].build(config, store, done, execute)
    start = choose_start(config, store, done["corpus"])
    keeps = stage == STAGES[1] and not isinstance(execute, Look)  # who only looks writes nothing
    if keeps:
        start.keep(store)
    try:
        return STAGE[stage].build(start.config, store, done, execute)
    except LeakError as error:
        if config.adaptation.teacher != "auto":
            raise LeakError(explicit_leak(str(error))) from error
        start = after_a_leak(config, error)
    if keeps:
        start.keep(store)
    return STAGE[stage].build(start.config, store, done, execute)


def run_pipeline(
    config: PipelineConfig, store: Store, execute: Execute = compute_all, until: str = STAGES[-1]
) -> Outputs:
    """Build the stages in order, up to and including `until`."""
    if until == STAGES[-1]:
        check_run(config)
    done: Outputs = {}
    for stage in STAGES[: STAGES.index(until) + 1]:
        done |= build_stage(stage, config, store, done, execute)
        if stage == STAGES[0] and until == STAGES[-1]:
            require_prompt(config, done["corpus"])
    return done


@dataclass
class Look:
    """An `execute` that computes nothing: it collects the steps and looks up which of them are in the store."""

    steps: list[tuple[Step, Artifact]] = field(default_factory=list)

    def __call__(self, steps: Sequence[Step]) -> list[Artifact]:
        artifacts = find_steps(steps)
        self.steps += zip(steps, artifacts, strict=True)
        return artifacts


def outputs_before(stage: str, config: PipelineConfig, store: Store) -> Outputs:
    """Outputs of all stages before `stage`; MissingInputError naming the first stage whose outputs are not there."""
    done: Outputs = {}
    for earlier in STAGES[: STAGES.index(stage)]:
        try:
            done |= build_stage(earlier, config, store, done, Look())
        except NotYetComputedError as error:
            raise _missing(stage, earlier, config) from error
        if not all(artifact.complete for artifact in done.values()):
            raise _missing(stage, earlier, config)
    return done


def _missing(stage: str, earlier: str, config: PipelineConfig) -> MissingInputError:
    return MissingInputError(
        f"{stage} needs the output of {earlier}, which is not in the store {config.root} for these settings: run "
        f"`tinywave run {earlier}` with the same flags first, or `tinywave run pipeline` for everything"
    )

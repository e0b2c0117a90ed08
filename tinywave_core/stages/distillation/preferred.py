"""The student after preference tuning: DPO on pairs of its own continuations (pairs.py), by the trainer of all other trainings.

Part `preferred`, which evaluation, export and generation take in the place of the distilled student; that one stays an artifact and is
compared with it. Files: model/, curves.parquet. Kept are the weights that did best on the pairs that validate: those of the start, where
nothing was better. The log-probabilities of the student before are made once, and a training that goes on reads them.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from tinywave_core.config.base import TrainingConfig
from tinywave_core.config.distillation import DistillationConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.preference import PreferenceConfig
from tinywave_core.stages.adaptation.teacher import validation_config, validation_of
from tinywave_core.stages.distillation import pairs
from tinywave_core.stages.distillation.student import write_student
from tinywave_core.stages.distillation.summary import PairsSummary, Preferred, StudentSummary
from tinywave_core.stages.evaluation.continuations import kept
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from tinywave_core.training.preference import PairDataset
    from tinywave_core.training.trainer import Trained

PreferredStep = Step[DistillationConfig, StudentSummary]
VERSION = 1
_WARM_UP = 10  # steps at most; a tenth of a short training (recipe.py)


def build(
    config: PipelineConfig, tokens: Artifact, teacher: Artifact, student: Artifact, execute: Execute
) -> dict[str, Artifact]:
    """The `student` after preference tuning, with `distilled`, the one before, and `pairs`; that one alone where it is not asked for."""
    if not config.distillation.preference.share:
        return {"student": student}
    ranked = pairs.build(config, tokens, teacher, student, execute)
    (tuned,) = execute(
        [
            Step(
                store=tokens.store,
                stage="distillation",
                part="preferred",
                version=VERSION,
                run=run_preferred,
                config=config.distillation.preferred(),
                params={"validation": validation_of(config)},
                # Its shards too: what a model heard is told by its own inputs.
                inputs={**pairs.shards_of(student, tokens), "student": [student], "pairs": [ranked]},
                runtime=config.runtime,
            )
        ]
    )
    return {"student": tuned, "distilled": student, "pairs": ranked}


def run_preferred(step: PreferredStep, output: Output) -> StudentSummary:
    """Tune the student, from a checkpoint where there is one."""
    from tinywave_core.models.llama import load_llama
    from tinywave_core.training.preference import PreferenceObjective
    from tinywave_core.training.recipe import settle
    from tinywave_core.training.trainer import train
    from tinywave_core.training.validation import Validation

    config, distilled = step.config.preference, step.input("student")
    student = load_llama(distilled.path("model"))
    dataset = _dataset(step, student, validates=False)
    checks = _dataset(step, student, validates=True)
    _refer(output, student, dataset, checks)
    training = settle(_training(config), dataset, 0, "checkpoint")
    rules = validation_config(step.params["validation"])
    validation = Validation(checks, rules) if len(checks.sequences) else None
    run = train(
        student,
        dataset,
        PreferenceObjective(config),
        training,
        output.runtime,
        output.resume,
        output.progress,
        validation=validation,
        uploads=output.uploads,
    )
    write_student(student, run, output)
    return StudentSummary(
        **distilled.summary,
        preference=Preferred(
            pairs=len(dataset.sequences),
            validation_pairs=len(checks.sequences),
            planned_steps=run.steps,
            steps=len(run.curves),
            passes=round(len(run.curves) * dataset.batch_rows / len(dataset.sequences), 2),
            best_step=run.best.step if run.best else None,
            checked=_checked(run),
            final={name: run.last[name] for name in ("loss", "accuracy", "margin")},
        ),
    )


def _training(config: PreferenceConfig) -> TrainingConfig:
    """As the trainer takes it: a row is a pair. Nothing regularises but the student before."""
    return TrainingConfig(
        steps=config.steps,
        passes=config.passes,
        batch_tokens=config.batch_pairs * config.row_tokens,
        sequence_length=config.row_tokens,
        learning_rate=config.learning_rate,
        warmup_steps=_WARM_UP,
        weight_decay=0.0,
        dropout=0.0,
        seed=config.seed,
    )


def _dataset(step: PreferredStep, student: "LlamaForCausalLM", *, validates: bool) -> "PairDataset":
    """The pairs in the student's own ids."""
    from tinywave_core.models.trim import renumbering
    from tinywave_core.sequences.table import SequenceTable
    from tinywave_core.training.preference import PairDataset

    made = step.input("pairs")
    vocabulary = Vocabulary.from_json(PairsSummary.of(made).vocabulary)
    found = SequenceTable.of(pairs.read_pairs(made, validates=validates))
    table = renumbering(student, vocabulary)
    config = step.config.preference
    return PairDataset(found if table is None else found.renumbered(table), config, config.batch_pairs)


def _refer(output: Output, student: "LlamaForCausalLM", *datasets: "PairDataset") -> None:
    """Log-probabilities under the student before: made once, in the same passes as training, so that the first loss is log 2."""
    from tinywave_core.devices import pick_device
    from tinywave_core.models.llama import on_device
    from tinywave_core.threads import use_threads
    from tinywave_core.training.preference import reference_of

    use_threads(output.runtime)
    device = pick_device(output.runtime)
    on_device(student, device)

    def make() -> list[list[list[float]]]:
        return [reference_of(student, each, output.runtime.micro_batch_rows, device).tolist() for each in datasets]

    for dataset, found in zip(datasets, kept(output.resume / "reference.json", make), strict=True):
        dataset.reference_P2 = np.array(found, np.float64).reshape(-1, 2)


def _checked(run: "Trained") -> dict[str, float]:
    """What the kept weights reached on the pairs that validate."""
    if run.best is None or run.best.step == 0:
        return {}
    record: dict[str, Any] = run.curves[run.best.step - 1]
    return {"loss": record["validation"]} | {n: record[f"validation_{n}"] for n in ("accuracy", "margin")}

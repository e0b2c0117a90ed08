"""What a run at full size takes, in words that people decide by: parameters, memory of a GPU, GPU-hours, bytes, money.

Counts: 6 operations per parameter and token for training, 2 for a forward pass; 22 bytes per trained parameter (float32 weights,
gradients, two moments, the best weights so far, and the copy in bfloat16 that autocast computes with), 2 per parameter of a frozen model
in bfloat16. Activations are those that PyTorch keeps of a Llama's block, counted (tests/core/test_budget.py): per token 34 bytes for each
unit of the width and 8 for each of the intermediate width, attention not kept; in float32 40 and 16. With activation_checkpointing the
input of each block, 4 bytes a unit, and one block's activations. Whether caching the teacher's logits pays follows from the price of its
forward pass and of storage.
"""

from dataclasses import dataclass

from tinywave_core.config.base import TrainingConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import (
    FLOPS,
    for_hours,
    live_operations,
    logit_bytes,
    speaking_operations,
    split_tokens,
    student_parameters,
    teacher_parameters,
    teacher_shape,
    vocabulary_rows,
)

DOLLARS_PER_GPU_HOUR = 2.5
DOLLARS_PER_BYTE_MONTH = 2.3e-11
GIB = 1 << 30


@dataclass(frozen=True)
class Budget:
    """Of the three large stages together; GPU figures are for one data-centre GPU in bfloat16."""

    teacher_parameters: int
    student_parameters: int
    train_tokens: float
    """Tokens of one pass over the corpus."""
    adaptation_gib: float
    """Memory of each process while the teacher is adapted."""
    distillation_gib: float
    """Memory of each process while the student is trained."""
    gpu_hours: float
    """Adaptation, logit caching, student and control."""
    logit_bytes: float
    dollars: float
    """GPU-hours and a month of the cached logits."""
    passes_that_pay: float
    """Passes over the corpus (epochs times students) from which caching is cheaper than running the teacher each time."""


def budget(config: PipelineConfig, hours: float) -> Budget:
    """The budget for a corpus of so many hours."""
    config = for_hours(config, hours)
    shape, teacher, student = teacher_shape(config), teacher_parameters(config), student_parameters(config)
    tokens, _ = split_tokens(config, hours)
    adaptation, distillation = config.adaptation.own_training, config.distillation.training
    operations = (
        adaptation.planned_tokens * 6 * teacher
        + tokens * 2 * teacher
        + distillation.planned_tokens * 12 * student
        + live_operations(config)
        + speaking_operations(config)
    )
    held_teacher = frozen_bytes(config, teacher) if config.distillation.live_steps else 0
    gpu_hours = operations / FLOPS["cuda"] / 3600
    cached = tokens * logit_bytes(config.logit_caching.entries)
    return Budget(
        teacher_parameters=teacher,
        student_parameters=student,
        train_tokens=tokens,
        adaptation_gib=_gib(
            2 * teacher if config.adaptation.method == "lora" else trained_bytes(config, teacher, shape.layers),
            config,
            adaptation,
            shape.layers,
        ),
        distillation_gib=_gib(
            trained_bytes(config, student, config.distillation.layers) + held_teacher,
            config,
            distillation,
            config.distillation.layers,
        ),
        gpu_hours=gpu_hours,
        logit_bytes=cached,
        dollars=gpu_hours * DOLLARS_PER_GPU_HOUR + cached * DOLLARS_PER_BYTE_MONTH,
        passes_that_pay=1
        + logit_bytes(config.logit_caching.entries) * DOLLARS_PER_BYTE_MONTH / _forward_dollars(teacher),
    )


def trained_bytes(config: PipelineConfig, parameters: int, layers: int) -> float:
    """What a process holds of a model that is trained: all of it, or its share and what is gathered at a time, which is what lies outside
    of the blocks, and of one block the weights and gradients."""
    each, runtime = parameter_bytes(config, autocast=True), config.runtime
    sharers = runtime.training_processes if runtime.shard_over == "machine" else runtime.all_training_processes
    if sharers == 1:
        return each * parameters
    outside = _outside(config)
    gathered = 8 * parameters if runtime.accumulate_whole else 4 * outside + 8 * (parameters - outside) / layers
    return each * parameters / sharers + gathered


def frozen_bytes(config: PipelineConfig, teacher: int) -> float:
    """What a process holds of the live teacher, in bfloat16: all of it, or its share of the blocks, one block that is gathered, and the
    rest."""
    sharers = config.runtime.training_processes
    if not config.runtime.shard_teacher or sharers == 1:
        return 2 * teacher
    outside = _outside(config)
    blocks = teacher - outside
    return 2 * (outside + blocks / sharers + blocks / config.adaptation.fresh.layers)


def _outside(config: PipelineConfig) -> int:
    """Parameters outside of the blocks: embeddings and head; the final norm is nothing beside them."""
    return 2 * vocabulary_rows(config) * config.adaptation.fresh.width


def parameter_bytes(config: PipelineConfig, *, autocast: bool) -> int:
    """Of each parameter that is trained: float32 weights, gradients and two moments; the copy of autocast; the best weights so far."""
    return 16 + (2 if autocast else 0) + (4 if config.validation.fraction else 0)


def activation_bytes(config: PipelineConfig, training: TrainingConfig, layers: int, *, autocast: bool) -> float:
    """What is kept for the backward pass of a micro-batch in bfloat16 (autocast) or float32, and the logits of the chunk that is at work."""
    shape, tokens = teacher_shape(config), min(config.runtime.micro_batch_rows * training.sequence_length, training.batch_tokens)  # fmt: skip
    per_width, per_intermediate, beside = (34, 8, 600) if autocast else (40, 16, 1100)
    block = tokens * (per_width * shape.width + per_intermediate * shape.intermediate + beside)
    inputs = tokens * 4 * shape.width * layers
    kept = inputs + block if config.runtime.activation_checkpointing else block * layers
    return kept + _LOGITS_AT_ONCE * 3 * 4 * vocabulary_rows(config)


_LOGITS_AT_ONCE = 256  # positions, as losses/logits.py takes them; logits, their softmax and gradient


def _gib(parameters: float, config: PipelineConfig, training: TrainingConfig, layers: int) -> float:
    return (parameters + activation_bytes(config, training, layers, autocast=True)) / GIB


def _forward_dollars(teacher: int) -> float:
    """Price of the teacher's forward pass over one token."""
    return 2 * teacher / FLOPS["cuda"] / 3600 * DOLLARS_PER_GPU_HOUR

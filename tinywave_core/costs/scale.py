"""What a run of full size takes beside time and bytes of the store: shards and task runs, host memory, local disk, requests on S3.

Measured on small runs and counted up in a straight line (infra/decisions/0046-what-a-run-holds.md): requests of 16 and 48 shards on a
local S3 server, memory of a training process at 0.5 M and 26 M parameters, a listing of 100,000 files.
"""

import math
from dataclasses import dataclass

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.budget import GIB, activation_bytes, parameter_bytes
from tinywave_core.costs.estimates import (
    FLAC_BYTES_PER_S,
    UTTERANCE_S,
    Estimate,
    for_hours,
    split_tokens,
    student_parameters,
    teacher_parameters,
    teacher_shape,
)
from tinywave_core.tokenizers.opening import choose_tokenizer

PART_BYTES = 16 << 20  # of a large file on its way to S3, as in storage/s3.py, whose import takes long

SEQUENCE_BYTES = 160
"""Of each sequence of the corpus, in every training process (`make bench-scale`): arrays of where it lies. Tokens and targets are read
from files."""
PROCESS_BYTES = 850 << 20
"""Of a training process before it has a model: Python, PyTorch and what they import."""
CHECKPOINT_BYTES = 12
"""Of each parameter, on the first process while a checkpoint is written: weights and two moments in float32."""
LISTED_FILES_PER_S = {"local": 15_000, "s3": 5_000}

STEPS = {"ingestion": 1, "tokenization": 2, "adaptation": 1, "logit_caching": 1, "distillation": 2, "evaluation": 4, "export": 2, "generation": 1}  # fmt: skip
"""Steps of a stage that are no shards: each is one task run, also where it is cached."""
SHARDED = ("ingestion", "tokenization", "logit_caching")
REQUESTS = {
    "ingestion": (30, 16),
    "tokenization": (30, 15),
    "adaptation": (30, 4),
    "logit_caching": (40, 11),
    "distillation": (45, 3),
    "evaluation": (20, 11),
    "export": (100, 8),
    "generation": (15, 5),
}
"""On S3, of a stage that computes everything: once, and for each shard that it makes or reads."""

UPLOAD_REQUESTS = 19
"""Of each checkpoint that is uploaded to S3, beside its parts: its files, a look at the lease before each, a listing, and the oldest
one's removal."""


@dataclass(frozen=True)
class Scale:
    """Of a whole run that computes everything."""

    shards: int
    """Of each of the stages in SHARDED."""
    task_runs: int
    listing_s: float
    """To list the source, each time that it is looked at."""
    host_gib: float
    """Of the largest training process; the first one, which writes checkpoints."""
    disk_bytes: float
    """On the machine that trains: the store, or of one on S3 the copies of what is read from it."""
    s3_requests: int
    s3_up_bytes: float
    """Artifacts, and each checkpoint of training."""
    s3_down_bytes: float


def shards_of(config: PipelineConfig, hours: float) -> int:
    """Audio shards of so many hours, if the source is as large as FLAC."""
    return max(1, math.ceil(hours * 3600 * FLAC_BYTES_PER_S / (config.ingestion.shard_megabytes * 1e6)))


def scale(
    config: PipelineConfig, hours: float, costs: dict[str, Estimate], device: str, files: int, shards: int | None = None
) -> Scale:
    """The figures for a corpus of so many hours in `files` recordings; `shards` where they are known, as from a scan."""
    shards = shards_of(config, hours) if shards is None else shards
    written = sum(cost.bytes for cost in costs.values())
    # Sound is read for tokens, tokens and logits for training; what one stage left on this machine is not fetched again.
    read = sum(costs[name].bytes for name in ("ingestion", "tokenization", "logit_caching"))
    is_remote = "://" in config.root and not config.root.startswith("file://")
    uploads, uploaded = uploaded_checkpoints(config, hours) if is_remote else (0, 0.0)
    source = "s3" if "://" in (config.source or "") else "local"
    return Scale(
        shards=shards,
        task_runs=sum(STEPS.values()) + len(SHARDED) * shards,
        listing_s=files / LISTED_FILES_PER_S[source],
        host_gib=max(host_bytes(config, hours, device, of=of) for of in ("teacher", "student")) / GIB,
        disk_bytes=read if is_remote else written,
        s3_requests=sum(once + each * shards for once, each in REQUESTS.values()) + uploads if is_remote else 0,
        s3_up_bytes=written + uploaded if is_remote else 0.0,
        s3_down_bytes=read if is_remote else 0.0,
    )


def uploaded_checkpoints(config: PipelineConfig, hours: float) -> tuple[int, float]:
    """Requests and bytes of all checkpoints of the teacher, the student and the control, where each of them is uploaded: a slow network
    takes fewer. Adapters (LoRA) and curves are not counted."""
    config = for_hours(config, hours)
    bytes_each = CHECKPOINT_BYTES + (4 if config.validation.fraction else 0)
    teacher = 0 if config.adaptation.method == "lora" else teacher_parameters(config)
    student = config.distillation.training
    trainings = [(config.adaptation.own_training, teacher), *[(student, student_parameters(config))] * 2]
    requests, total = 0, 0.0
    for training, parameters in trainings:
        count = (training.planned_steps - 1) // config.runtime.checkpoint_every  # the last step is the artifact
        requests += count * upload_requests(bytes_each * parameters)
        total += count * bytes_each * parameters
    return requests, total


def upload_requests(size: float) -> int:
    """Of one checkpoint of so many bytes."""
    return UPLOAD_REQUESTS + int(size / PART_BYTES)


def host_bytes(config: PipelineConfig, hours: float, device: str, *, of: str) -> float:
    """Memory of the machine that the first process of a training takes: of the teacher's adaptation or the student's distillation."""
    config = for_hours(config, hours)
    teacher = of == "teacher"
    parameters = teacher_parameters(config) if teacher else student_parameters(config)
    training = config.adaptation.own_training if teacher else config.distillation.training
    layers = teacher_shape(config).layers if teacher else config.distillation.layers
    tokens, _ = split_tokens(config, hours)
    length = min(UTTERANCE_S * choose_tokenizer(config).tokens_per_s, training.sequence_length)
    held = PROCESS_BYTES + SEQUENCE_BYTES * tokens / length
    if teacher and config.adaptation.method == "lora":  # nothing of it is trained but a little beside it
        held += 4 * parameters
    elif device == "cpu":
        held += parameters * (CHECKPOINT_BYTES + parameter_bytes(config, autocast=False))
    else:
        held += parameters * (CHECKPOINT_BYTES + 4)  # as it is read, before the device takes it
    return held + (activation_bytes(config, training, layers, autocast=False) if device == "cpu" else 0)

"""Base of all configs. Imports pydantic only: the CLI's help and the Prefect form must not import torch."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    model_serializer,
    model_validator,
)

Device = Literal["auto", "cpu", "cuda", "mps"]


class Config(BaseModel):
    """A frozen group of settings that refuses unknown names; the docstring under a field is its help text."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        # The form labels settings and groups as the command line and the errors name them.
        field_title_generator=lambda name, _: name,
    )
    came_later: ClassVar[tuple[str, ...]] = ()
    """Fields that were not there at first: at their defaults they are not written, so that what was made before is found."""

    @model_serializer(mode="wrap")
    def _without_what_came_later(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unwritten = self.unwritten()
        return {name: value for name, value in write(self).items() if name not in unwritten}

    def unwritten(self) -> list[str]:
        """Fields that are no part of what is written, and so of no identity."""
        return [name for name in self.came_later if getattr(self, name) == type(self).model_fields[name].default]

    @classmethod
    def filled(cls, written: Mapping[str, Any]) -> dict[str, Any]:
        """What was written, with what came later at its default; what else is missing or unknown stays as it is."""
        values = dict(written)
        for name, field in cls.model_fields.items():
            if name in cls.came_later:
                values.setdefault(name, TypeAdapter(Any).dump_python(field.default, mode="json"))
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, Config) and isinstance(values.get(name), Mapping):
                values[name] = inner.filled(values[name])
        return values


class RuntimeConfig(Config):
    """Where and how fast things run. Nothing in this group changes a result, so nothing in it identifies one."""

    came_later = ("track_live",)

    device: Device = "auto"
    """Device of models; `auto` takes the GPU when there is one: `cuda` for NVIDIA's and AMD's, `mps` for Apple's."""
    threads: int = Field(0, ge=0, le=256)
    """CPU threads of one process; 0 takes all cores."""
    workers: int = Field(2, ge=1, le=64)
    """Shards that are computed at the same time; each takes one CPU thread. A running cluster has a number of its own."""
    runner: Literal["threads", "processes", "dask", "ray"] = "threads"
    """Where shards are worked on (Prefect's task runner): `threads` of this process, for most runs; `processes` of this
    machine where many small shards keep the threads from using all cores; a `dask` or `ray` cluster past one machine, with a
    store that all of them reach. Workers take seconds to start and each shard half a second more, so make shards of minutes."""
    cluster: str | None = None
    """Address of the running cluster: Dask's scheduler (tcp://host:8786) or Ray (ray://host:10001); none: a local one with
    `workers` workers."""
    training_processes: int = Field(1, ge=1, le=64)
    """Processes of one training run, started by torchrun on the machine that runs the stage: one per GPU. They share each
    batch, whose rows must be a multiple of all of them; differs in the last digits."""
    training_nodes: int = Field(1, ge=1, le=64)
    """Machines that train one model together, with `training_processes` on each of them. The stage runs on the first, and every other
    one runs `python -m tinywave_core.training.join`; all of them reach the store under the same name, and nothing else."""
    rendezvous: str | None = Field(None, pattern=r"^[^:/\s]+:\d{1,5}$")
    """Where these machines meet: name of the first one and a free port there, such as node-0:29400. Whoever reaches that port takes
    part in the training: keep it inside the cluster's network."""
    shard_teacher: bool = False
    """With several training processes: each machine's processes hold the blocks of the live teacher together, which are gathered one by
    one in its forward pass, and not each of them the whole. Saves up to 2 bytes per parameter of the teacher on each GPU, and takes the
    gathering."""
    shard_over: Literal["all", "machine"] = "all"
    """Who holds a trained model together: `all` processes of a training, or those of each `machine`, so that every machine has a whole
    copy and only gradients go between them. Faster where the network between machines is slow; takes the memory of one machine's share;
    differs in the last digits."""
    machine_timeout_s: float = Field(120.0, ge=0.1)
    """Seconds without a sign of life after which one of several machines counts as lost: the others end the training and say which one
    it was, and the same command goes on from the last checkpoint."""
    micro_batch_rows: int = Field(8, ge=1, le=1024)
    """Packed rows of a training batch that go through the model at once, per process; gradients are accumulated over the
    rest."""
    checkpoint_every: int = Field(100, ge=1)
    """Optimiser steps between two training checkpoints: what a crash can cost."""
    accumulate_whole: bool = False
    """With several training processes: keep whole weights and gradients in each of them between the micro-batches of a step, so that
    they are gathered and summed once a step and not for each micro-batch. Faster where micro-batches are many or the network is
    slow; takes 8 bytes more per trained parameter in each process (18 GiB for 2.3 billion)."""
    activation_checkpointing: float = Field(0.0, ge=0, le=1)
    """Share of the decoder blocks, evenly spaced, of which only the inputs are kept and the rest is computed again in the backward
    pass: the same gradients, less memory, at 1 about a third more time. Raise it until a step fits."""
    attention: Literal["auto", "dense", "block_sparse"] = "auto"
    """How packed rows attend within their sequences: `dense` by a mask of all pairs of positions, `block_sparse` by a compiled kernel
    that skips the blocks in which nothing is seen; `auto` takes that one on a GPU. Differs in the last digits."""
    compile: bool = False
    """Compile the decoder blocks (torch.compile): faster steps on a GPU after minutes of compiling; differs in the last digits."""
    stop_after_hours: float | None = Field(None, gt=0)
    """Hours after which one training run stops with a checkpoint; the same command goes on from there."""
    step_timeout_hours: float | None = Field(None, gt=0)
    """Hours after which a shard or any other step is stopped: its task fails, is tried again as `retries` says, and continues from
    its checkpoint. None: never."""
    local_cache_gb: float | None = Field(None, ge=0)
    """Room on this machine for copies of cached logits, in GB, where the store is elsewhere: shards that do not fit are read in parts
    over the network while training runs. None: room for all."""
    tensorboard_dir: str | None = None
    """Folder for TensorBoard logs of training runs, one folder below it for each; none are written without it."""
    mlflow_to: str | None = None
    """Where MLflow keeps finished runs (the extra mlflow): a folder, or an address such as sqlite:///runs.db or that of a server; none are
    handed over without it."""
    wandb_to: str | None = None
    """Folder in which Weights & Biases keeps finished runs (the extra wandb), on this machine alone unless the variable WANDB_MODE is
    `online`; none are handed over without it."""
    track_live: bool = False
    """Trackers of mlflow_to and wandb_to get the curve of a training while it goes on as well, with each checkpoint: a run of its own there,
    which one that was stopped goes on with. A process beside the training does it, so that no tracker can hold the training up."""
    gradient_report_every: int | None = Field(None, ge=0)
    """Every so many steps of distillation: how hard and which way each term of the loss pulls the student, beside its curves and in the
    report. A report costs as many steps as there are terms: 8 % at 50. Only of what is trained from now on, by one training process.
    0 or None: never."""
    decode_timeout_s: float = Field(120.0, gt=0)
    """Seconds after which the decoding of one audio file is given up (the file is rejected)."""
    decode_memory_mb: int = Field(2048, ge=256)
    """Address space of the child process that decodes audio, in MiB (Linux; macOS sets no such limit)."""
    retries: int = Field(1, ge=0, le=10)
    """How often Prefect runs a failed task again; errors about the user's input are never tried again."""

    @model_validator(mode="after")
    def _cluster_has_a_runner(self) -> Self:
        if self.cluster and self.runner not in ("dask", "ray"):
            raise ValueError(f"cluster is {self.cluster}, but runner is {self.runner}: choose the runner dask or ray")
        return self

    @model_validator(mode="after")
    def _machines_meet(self) -> Self:
        if self.training_nodes > 1 and self.rendezvous is None:
            raise ValueError(
                f"training_nodes is {self.training_nodes}, but they have no place to meet: set rendezvous to the first machine's name "
                "and a free port there, such as node-0:29400"
            )
        return self

    @model_validator(mode="after")
    def _one_process_reports(self) -> Self:
        if self.gradient_report_every and self.all_training_processes > 1:
            raise ValueError(
                f"gradient_report_every is {self.gradient_report_every}, and {self.all_training_processes} processes train together, each "
                "with a part of the gradient: leave it out, or train with one process"
            )
        return self

    @model_validator(mode="after")
    def _live_curves_have_a_tracker(self) -> Self:
        if self.track_live and self.mlflow_to is None and self.wandb_to is None:
            raise ValueError("track_live is set, but there is no tracker: set mlflow_to or wandb_to")
        return self

    @property
    def all_training_processes(self) -> int:
        """Of one training run, on all machines."""
        return self.training_nodes * self.training_processes


class TrainingConfig(Config):
    """One training run: AdamW with linear warm-up and cosine decay."""

    steps: int = Field(..., ge=1)
    """Optimiser steps at most; fewer where `passes` are over before."""
    passes: float | None = Field(None, gt=0)
    """Passes over the training speech at most: a small folder takes fewer steps, and the learning rate follows these. None: `steps`
    alone."""
    stop_after_tokens: int | None = Field(None, ge=1)
    """Stop after the step that reaches this many tokens, padding included, if that is before `steps`; the learning rate
    follows `steps` all the same."""
    batch_tokens: int = Field(4096, ge=64)
    """Tokens in one optimiser step, padding included: rows of `sequence_length` tokens."""
    sequence_length: int = Field(512, ge=32, le=8192)
    """Tokens in one packed row; utterances are packed side by side and never attend to one another."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Peak learning rate."""
    final_learning_rate_ratio: float = Field(0.1, ge=0, le=1)
    """Learning rate at the last step, as a share of the peak (cosine decay)."""
    warmup_steps: int = Field(20, ge=0)
    """Steps of linear warm-up."""
    weight_decay: float | None = Field(None, ge=0, le=1)
    """AdamW's decoupled weight decay, on matrices only. None: 1.0 for a model that starts from random weights, else 0.1."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Share of the embeddings, and of the numbers that each block adds to them, that is set to 0 in a step: keeps a model from learning
    a small folder by heart. None: by the amount of training speech (training/recipe.py), and 0 for a teacher that is given."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient over all parameters."""
    seed: int = Field(0, ge=0)
    """Seed of data order, initialisation, dropout and sampled attention rows."""

    @property
    def rows(self) -> int:
        """Packed rows of a batch."""
        return max(1, self.batch_tokens // self.sequence_length)

    def for_tokens(self, tokens: float) -> Self:
        """The settings with as many steps as `passes` over so many training tokens are, if that is fewer; what a plan counts."""
        if self.passes is None:
            return self
        steps = max(1, round(self.passes * tokens / (self.rows * self.sequence_length)))
        return self.model_copy(update={"steps": min(self.steps, steps)})

    @property
    def planned_steps(self) -> int:
        """Optimiser steps that a run takes at most: all, or those that stop_after_tokens allows."""
        if self.stop_after_tokens is None:
            return self.steps
        return min(self.steps, -(-self.stop_after_tokens // (self.rows * self.sequence_length)))

    @property
    def planned_tokens(self) -> int:
        """Tokens of these steps, padding included."""
        return self.planned_steps * self.rows * self.sequence_length

"""Distillation: a shallow student of the teacher's own blocks learns from tokens, logits, hidden states and attention.

Two artifacts come out: the `student`, and the `control`, the same start and steps without the teacher's signals.
Files: model/ (Hugging Face directory), curves.parquet.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from tinywave_core.config.distillation import DistillationConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import TrainingError
from tinywave_core.stages.base import Execute, Output, Step, Summary
from tinywave_core.stages.logit_caching import FORMAT, training_shards
from tinywave_core.storage.store import Artifact

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from tinywave_core.sequences.dataset import PackedDataset, TokenSequence
    from tinywave_core.teacher.logit_cache import LogitCache

VERSION = 2
_CHECKED_ROWS = 8  # rows of the first batch on which teacher and student are compared


def build(
    config: PipelineConfig, tokens: Artifact, teacher: Artifact, logits: Artifact, execute: Execute
) -> tuple[Artifact, Artifact]:
    """The `student` and the `control`."""
    shards = training_shards(tokens)
    cached = [tokens.store.find(i, "shard") for i in logits.summary["shards"]]

    def step(part: str, settings: DistillationConfig) -> Step:
        inputs = {"tokens": shards, "teacher": [teacher]}
        if settings.needs_cache:
            inputs["logits"] = cached
        live_only = settings.weights.logits and not settings.needs_cache  # else the cache has its temperature
        return Step(
            store=tokens.store,
            stage="distillation",
            part=part,
            version=VERSION,
            run=run_student,
            config=settings,
            params={"temperature": config.logit_caching.temperature} if live_only else {},
            inputs=inputs,
            runtime=config.runtime,
        )

    # One after the other: each takes the whole machine.
    (student,) = execute([step("student", config.distillation)])
    (control,) = execute([step("control", config.distillation.control())])
    return student, control


def run_student(step: Step, output: Output) -> Summary:
    """Train one student; the teacher is in memory only as long as some step needs it."""
    from tinywave_core.losses.attention import IMPLEMENTATION
    from tinywave_core.models.llama import load_llama, save_llama, student_from
    from tinywave_core.sequences.dataset import load_sequences
    from tinywave_core.storage.shards import write_table
    from tinywave_core.teacher.layer_map import layer_map
    from tinywave_core.tokenizers.directory import read_directory
    from tinywave_core.tokenizers.vocabulary import Vocabulary
    from tinywave_core.training.objective import DistillationObjective
    from tinywave_core.training.trainer import make_dataset, train

    config = step.config
    assert isinstance(config, DistillationConfig)
    sequences = load_sequences(step.inputs["tokens"], "train", config.training.sequence_length)
    dataset = make_dataset(sequences, config.training)
    vocabulary = read_directory(step.input("teacher").path("teacher"))
    for shard in step.inputs["tokens"]:
        vocabulary.require_same(
            Vocabulary.from_json(shard.summary["vocabulary"]), "the teacher", f"the token shard {shard.id}"
        )
    teacher = load_llama(step.input("teacher").path("teacher"))
    layers = layer_map(
        config.layer_map, teacher.config.num_hidden_layers, config.layers, config.layer_pairs, config.copied_blocks
    )
    student = student_from(teacher, layers)
    teacher_parameters = sum(p.numel() for p in teacher.parameters())
    cache, temperature = _cache(step, config)
    start = _require_better_teacher(teacher, student, cache, dataset, config, output)
    for model in (student, teacher):
        model.set_attn_implementation(IMPLEMENTATION)
    rows = vocabulary.tokens
    objective = DistillationObjective(config, layers, sequences, cache, temperature, teacher, rows)
    del teacher, model  # the objective holds it while it needs it, and nobody else
    curves = train(student, dataset, objective, config.training, output.runtime, output.resume, output.progress)

    student.set_attn_implementation("sdpa")
    save_llama(student.cpu(), output.folder / "model")
    write_table(pa.Table.from_pylist(curves), output.folder / "curves.parquet")
    parameters = sum(p.numel() for p in student.parameters())
    return {
        "parameters": parameters,
        "teacher_parameters": teacher_parameters,
        "layers": config.layers,
        "layers_copied": list(layers.copied),
        "layers_aligned": [list(pair) for pair in layers.targets],
        "weights": config.weights.model_dump(),
        "live_steps": sum(map(config.is_live, range(len(curves)))),
        "nll_at_start": start,
        "steps": config.training.steps,
        "tokens_seen": config.training.steps * dataset.batch_rows * dataset.row_length,
        "train_sequences": len(sequences),
        "final": {name: curves[-1][name] for name in curves[-1] if name not in ("step", "learning_rate")},
    }


def _require_better_teacher(
    teacher: "LlamaForCausalLM",
    student: "LlamaForCausalLM",
    cache: "LogitCache | None",
    dataset: "PackedDataset",
    config: DistillationConfig,
    output: Output,
) -> dict[str, float]:
    """Both models' NLL on rows of the first batch, in nats per token; TrainingError unless the teacher is better.

    Training speech, for with held-out speech as an input new held-out recordings would train every student anew. The
    teacher's NLL comes from the cache if it is there: a cached run needs no forward pass of the teacher.
    """
    from tinywave_core.evals.scoring import mean_nll

    if not (config.weights.logits or config.live_terms):
        return {}
    sequences = [dataset.sequences[i] for row in dataset.batch(0).rows[:_CHECKED_ROWS] for i in row]
    if cache is None:
        teacher_nll = _nll(teacher, sequences, output)
    else:
        teacher_nll = mean_nll([cache[s.id].target_logp[:-1] for s in sequences])
    student_nll = _nll(student, sequences, output)
    if not teacher_nll < student_nll:
        raise TrainingError(
            f"the teacher is no better than the untrained student that was copied from it: {teacher_nll:.4f} nats per token on "
            f"training speech, the copy of some of its blocks {student_nll:.4f}. There is nothing to learn from it: raise "
            "adaptation.training.steps, or take another teacher"
        )
    return {"teacher": teacher_nll, "student": student_nll}


def _nll(model: "LlamaForCausalLM", sequences: "Sequence[TokenSequence]", output: Output) -> float:
    """On the run's device; the model is on the CPU again afterwards."""
    import torch

    from tinywave_core.evals.scoring import mean_nll, token_log_probabilities
    from tinywave_core.models.llama import on_device, pick_device
    from tinywave_core.threads import use_threads

    use_threads(output.runtime)
    on_device(model, pick_device(output.runtime)).eval()
    scores = token_log_probabilities(model, [s.ids for s in sequences])
    on_device(model, torch.device("cpu"))
    return mean_nll(scores)


def _cache(step: Step, config: DistillationConfig) -> "tuple[LogitCache | None, float]":
    """The teacher's cached targets and their temperature; TrainingError when they are another teacher's or format's."""
    import json

    from tinywave_core.storage.shards import read_table
    from tinywave_core.teacher.logit_cache import LogitCache

    if not config.needs_cache:
        return None, step.params.get("temperature", 1.0)
    tables, temperatures = [], set()
    for shard in step.inputs["logits"]:
        table = read_table(shard.path("logits.parquet"))
        about = json.loads(table.schema.metadata[b"tinywave"])
        wanted = {
            "format": FORMAT,
            "teacher": step.input("teacher").id,
            "sequence_length": config.training.sequence_length,
        }
        for name, expected in wanted.items():
            if about[name] != expected:
                raise TrainingError(
                    f"{shard.id} was captured with {name} {about[name]!r}, this student is trained with {expected!r}: "
                    "run logit_caching again with the same settings"
                )
        tables.append(table)
        temperatures.add(about["temperature"])
    (temperature,) = temperatures
    return LogitCache(tables), temperature

"""Distillation: a shallow student of the teacher's own blocks learns from tokens, logits, hidden states and attention.

Two artifacts come out: the `student`, and the `control`, the same start and steps without the teacher's signals; and a `drafter`, a
smaller student that proposes tokens for the first, where it is asked for (distillation.drafter_layers). Each starts
from the teacher's blocks, from random weights, from another run's student (start.py) or, where on_new_audio is `continue`, from the one before it
(infra/decisions/0012-warm-start.md).
Files: model/ (Hugging Face directory), curves.parquet; gradients.parquet where runtime.gradient_report_every asks for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tinywave_core.checkpoints.model_shape import ModelShape
from tinywave_core.config.distillation import ON_POLICY, DistillationConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import TrainingError
from tinywave_core.stages.adaptation.teacher import (
    teacher_identity,
    training_parts,
    validation_config,
    validation_of,
)
from tinywave_core.stages.distillation.start import require_same_units, start_folder, start_params
from tinywave_core.stages.distillation.summary import KeptParts, Start, StudentSummary
from tinywave_core.stages.logit_caching import taught
from tinywave_core.stages.logit_caching.summary import LogitsSummary
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import training_hours, training_key, training_shards
from tinywave_core.steps.pins import Pin, as_pinned, ids_of, obtainable, pinned
from tinywave_core.storage.fingerprint import fingerprint, place_of
from tinywave_core.storage.schemas import CURVES_FILE
from tinywave_core.storage.store import Artifact

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from tinywave_core.models.prune import Kept
    from tinywave_core.sequences.dataset import PackedDataset
    from tinywave_core.sequences.table import SequenceTable
    from tinywave_core.teacher.layer_map import LayerMap
    from tinywave_core.teacher.logit_cache import SequenceTargets
    from tinywave_core.tokenizers.vocabulary import Vocabulary
    from tinywave_core.training.objective import DistillationObjective
    from tinywave_core.training.on_policy import OwnContinuations
    from tinywave_core.training.trainer import Trained

StudentStep = Step[DistillationConfig, StudentSummary]
VERSION = 3
_WATCHED = 64  # sequences, the first by their ids, on which it is looked what matters in a teacher
_CHECKED_ROWS = 8  # rows of the first batch on which teacher and student are compared


def build(
    config: PipelineConfig, tokens: Artifact, teacher: Artifact, logits: Artifact, execute: Execute
) -> dict[str, Artifact]:
    """The `student`, the `control` and, where it is wanted, the `drafter`: trained again as config.refresh.student says."""
    shards = training_shards(tokens)
    cached = tokens.store.find_all(LogitsSummary.of(logits).shards, "shard")
    start = start_folder(config.distillation)
    given = {} if start is None else start_params(start)
    if start is not None:
        summary = TokensSummary.of(tokens)
        require_same_units(start, summary.vocabulary, summary.tokenizer, config.distillation.vocabulary)

    def fitted(part: str, settings: DistillationConfig) -> Artifact:
        inputs = {"tokens": shards, "teacher": [teacher]}
        starts = settings.starts_given
        if settings.sequence_level.share:
            inputs["taught"] = taught.build(config, tokens, teacher, execute)
        if settings.needs_cache:
            inputs["logits"] = cached
        live_only = settings.learns_from_logits and not settings.needs_cache  # else the cache has its temperature
        first = StudentStep(
            store=tokens.store,
            stage="distillation",
            part=part,
            version=VERSION,
            run=run_student,
            config=settings.first(),
            params={"validation": validation_of(config)}
            | (given if starts else {})
            | ({"temperature": config.logit_caching.temperature} if live_only else {}),
            inputs=inputs,
            context={"start": start} if starts else {},
            runtime=config.runtime,
        )
        fit = _Fit(first, settings, execute)
        return pinned(
            first,
            config.refresh.student,
            config.refresh,
            lambda: training_hours(tokens),
            execute,
            corpus=_lineage(config, tokens, settings),
            again=fit.again,
            refit=fit.refit,
        )

    # One after the other: each takes the whole machine.
    asked = config.distillation
    made = {"student": fitted("student", asked), "control": fitted("control", asked.control())}
    return {**made, "drafter": fitted("drafter", asked.drafter())} if asked.drafter_layers else made


def _lineage(config: PipelineConfig, tokens: Artifact, settings: DistillationConfig) -> str:
    """What a student's pin belongs to besides its own config: corpus, tokens, how the teacher is made and captured."""
    capture = config.logit_caching if settings.needs_cache else None
    tokenizer = tokens.summary["tokenizer"]
    return fingerprint(
        [training_key(config, tokens), config.tokenization, tokenizer, teacher_identity(config), capture]
    )


@dataclass(frozen=True)
class _Fit:
    """The steps that a student can take from what is pinned."""

    first: StudentStep
    """From the teacher, on all speech of today."""
    settings: DistillationConfig
    execute: Execute

    def again(self, pin: Pin) -> StudentStep:
        """The step that made what is pinned, with the continuation's settings of today if it was one."""
        step = as_pinned(self.first, pin)
        return replace(step, config=self.settings.continued()) if "previous" in step.inputs else step

    def refit(self, pin: Pin) -> StudentStep:
        """From the teacher; or on from what is pinned, unless nothing changed since or something forbids it."""
        if self.settings.on_new_audio == "restart":
            return self.first
        then, now = pin["inputs"], ids_of(self.first)
        heard = {*then["tokens"], *then.get("heard", [])}
        names = ("teacher", "logits")
        if heard == set(now["tokens"]) and all(set(then.get(n, [])) == set(now.get(n, [])) for n in names):
            again = self.again(pin)
            return again if obtainable(again) else self._restarted("the student before it is gone")
        if then["teacher"] != now["teacher"]:
            return self._restarted("the teacher is another")
        # Text is drawn anew as speech grows: it is replayed, never new.
        if any(self.first.store.find(i).part != "text" for i in heard - set(now["tokens"])):
            return self._restarted("speech that it heard was removed")
        new = [shard for shard in self.first.inputs["tokens"] if shard.id not in heard and shard.part != "text"]
        if not new:
            return self._restarted("what it learned from changed, and no speech is new")
        previous = self.first.store.find(pin["artifact"], self.first.part)
        if not previous.complete:
            if not obtainable(again := self.again(pin)):
                return self._restarted("the student before it is gone")
            (previous,) = self.execute([again])
        return self._on_from(previous, new)

    def _on_from(self, previous: Artifact, new: list[Artifact]) -> StudentStep:
        ids = {shard.id for shard in new}
        old = [shard for shard in self.first.inputs["tokens"] if shard.id not in ids]
        inputs = {**self.first.inputs, "tokens": new, "heard": old, "previous": [previous]}
        return replace(self.first, config=self.settings.continued(), inputs=inputs)

    def _restarted(self, why: str) -> StudentStep:
        return replace(self.first, context=self.first.context | {"restarted": why})


def run_student(step: StudentStep, output: Output) -> StudentSummary:
    """Train one student; the teacher is in memory only as long as some step needs it."""
    from tinywave_core.losses.attention import IMPLEMENTATION
    from tinywave_core.models.llama import load_llama, student_from
    from tinywave_core.models.prune import add_alignment, without_alignment
    from tinywave_core.teacher.layer_map import layer_map
    from tinywave_core.tokenizers.directory import read_directory
    from tinywave_core.training.launch import run_in_processes
    from tinywave_core.training.recipe import settle
    from tinywave_core.training.trainer import make_dataset, train
    from tinywave_core.training.validation import Validation

    if output.runtime.all_training_processes > 1:
        return run_in_processes(step, output, StudentSummary)
    config = step.config
    material = _material(step)
    vocabulary = read_directory(step.input("teacher").path("teacher"))
    _require_one_vocabulary(step, vocabulary)
    teacher = load_llama(step.input("teacher").path("teacher"))
    teacher_parameters = sum(p.numel() for p in teacher.parameters())
    layers = layer_map(
        config.layer_map, teacher.config.num_hidden_layers, config.layers, config.layer_pairs, config.copied_blocks
    )
    parts = _kept_parts(step, teacher, material)
    student, kept = _start(step, teacher, layers, vocabulary if config.vocabulary == "speech" else None, parts)
    sequences = _in_ids_of(student, vocabulary, material.sequences)
    dataset = make_dataset(sequences, config.training, keep=output.resume / "rows")
    is_random = config.start == "fresh" and "previous" not in step.inputs
    training = settle(config.training, dataset, material.tokens, "random weights" if is_random else "teacher's blocks")
    config = config.model_copy(update={"training": training})
    heard = _in_ids_of(student, vocabulary, material.validation)
    own = _own_continuations(step, config, dataset, vocabulary.speech_only() if kept else vocabulary)
    rules = validation_config(step.params["validation"])
    validation = Validation.on(heard, config.training.sequence_length, rules, own.first if own else 0)
    dataset.reader = cached = _cached(step, vocabulary, sequences)
    first = [number for row in dataset.rows_of_step(0)[:_CHECKED_ROWS] for number in row]
    # Of a student that starts without text the whole copy: what it lacks makes it look better than it is.
    goes_on = "previous" in step.inputs or "start" in step.params
    compared = student if (kept is None and parts is None) or goes_on else student_from(teacher, layers)
    start = _nll_at_start(teacher, compared, cached, material.sequences, first, vocabulary, config, output)
    if start and not goes_on:
        _require_better_teacher(**start)
    for model in (student, teacher):
        model.set_attn_implementation(IMPLEMENTATION)
    objective = _objective(step, output, config, layers, teacher, vocabulary, cached, kept, parts)
    if parts is not None and config.weights.hidden:
        add_alignment(student, parts, teacher.config.hidden_size, len(layers.targets))
    del teacher, model  # the objective holds it while it needs it, and nobody else
    run = train(
        student,
        dataset,
        objective,
        config.training,
        output.runtime,
        output.resume,
        output.progress,
        validation=validation,
        uploads=output.uploads,
        own=own,
    )
    without_alignment(student)
    student.set_attn_implementation("sdpa")
    write_student(student, run, output)
    return StudentSummary(
        parameters=sum(p.numel() for p in student.parameters()),
        teacher_parameters=teacher_parameters,
        vocabulary=config.vocabulary,
        layers=config.layers,
        layers_copied=list(layers.copied),
        layers_aligned=list(layers.targets),
        **(
            {}
            if parts is None
            else {"kept": KeptParts(channels=parts.channels, heads=parts.heads, neurons=parts.neurons)}
        ),
        weights=_weights(config, own),
        **({"own_share": own.share_of(len(run.curves))} if own else {}),
        live_steps=sum(at < len(run.curves) for at in config.live_steps),
        nll_at_start=start,
        steps=len(run.curves),
        training=run.summary(config.training, dataset, validation),
        tokens_seen=len(run.curves) * dataset.batch_rows * dataset.row_length,
        started_from=_started_from(step),
        **({"start": Start(**step.params["start"])} if "start" in step.params else {}),
        continuations=_continuations(step),
        train_sequences=len(sequences),
        new_sequences=len(material.new),
        new_tokens=int(material.new.lengths.sum()),
        replayed_sequences=len(material.replayed),
        replayed_tokens=int(material.replayed.lengths.sum()),
        **{name: step.context[name] for name in ("restarted",) if name in step.context},
        final={name: value for name, value in run.last.items() if name not in ("step", "learning_rate", "validation")},
    )


def _objective(
    step: StudentStep,
    output: Output,
    config: DistillationConfig,
    layers: "LayerMap",
    teacher: "LlamaForCausalLM",
    vocabulary: "Vocabulary",
    cached: "SequenceTargets | None",
    kept: list[int] | None,
    parts: "Kept | None",
) -> "DistillationObjective":
    """What the student learns from, with the teacher in it where some step needs it: sharded, if the runtime says so."""
    from tinywave_core.devices import pick_device
    from tinywave_core.training.objective import DistillationObjective
    from tinywave_core.training.sharding import shard_frozen

    temperature = step.params.get("temperature", 1.0) if cached is None else cached.cache.temperature
    rows = len(kept) if kept else vocabulary.tokens
    heads = None if parts is None else dict(enumerate(parts.heads))
    objective = DistillationObjective(config, layers, temperature, teacher, rows, kept, heads)
    if output.runtime.shard_teacher and objective.teacher is not None:
        shard_frozen(objective.teacher, pick_device(output.runtime))
    return objective


def write_student(student: "LlamaForCausalLM", run: "Trained", output: Output) -> None:
    """The model, its curves and, where they were asked for, its gradients."""
    from tinywave_core.models.llama import save_llama
    from tinywave_core.storage.shards import write_table
    from tinywave_core.training.processes import is_first

    # Every process of a sharded training comes to the same summary; only the first writes.
    if is_first():
        save_llama(student.cpu(), output.folder / "model")
        write_table(pa.Table.from_pylist(run.curves), output.folder / CURVES_FILE)
        if run.gradients:
            write_table(pa.Table.from_pylist(run.gradients), output.folder / "gradients.parquet")


def _own_continuations(
    step: StudentStep, config: DistillationConfig, dataset: "PackedDataset", vocabulary: "Vocabulary"
) -> "OwnContinuations | None":
    """What the student says itself, in the kinds of tokens that it is trained on; None where it does not learn from it."""
    from tinywave_core.tokenizers.allowed import allowed_ids
    from tinywave_core.training.on_policy import OwnContinuations

    if not config.learns_from_itself:
        return None
    has_text = any(shard.part in ("interleaved", "text") for shard in _shards(step))
    allowed = allowed_ids(vocabulary, "arbitrary" if has_text else "speech")
    return OwnContinuations(config.on_policy, dataset, allowed, config.training)


def _require_one_vocabulary(step: StudentStep, vocabulary: "Vocabulary") -> None:
    from tinywave_core.tokenizers.vocabulary import Vocabulary

    for shard in _shards(step):
        vocabulary.require_same(
            Vocabulary.from_json(shard.summary["vocabulary"]), "the teacher", f"the token shard {shard.id}"
        )


def _continuations(step: StudentStep) -> int:
    """How many continuations led to this student."""
    return 1 + int(step.input("previous").summary.get("continuations", 0)) if "previous" in step.inputs else 0


def _started_from(step: StudentStep) -> str:
    """As the summary has it."""
    if "previous" in step.inputs:
        return step.input("previous").id
    if step.config.start == "fresh":
        return "random weights"
    return "student" if "start" in step.params else "teacher"


def _weights(config: DistillationConfig, own: "OwnContinuations | None") -> dict[str, float]:
    """Of the terms that are in the loss."""
    of_data = config.weights.model_dump() if config.learns_from_data else {}
    return of_data | ({ON_POLICY: config.on_policy.weight} if own else {})


def _shards(step: StudentStep) -> list[Artifact]:
    """All token shards whose speech a student may be trained on."""
    return [*step.inputs["tokens"], *step.inputs.get("heard", [])]


@dataclass(frozen=True)
class _Material:
    """The sequences that a student is trained on."""

    new: "SequenceTable"
    replayed: "SequenceTable"
    validation: "SequenceTable"
    """Of all speech: none of it is trained on."""
    tokens: int
    """To train on, in all speech that it has heard by then."""

    @property
    def sequences(self) -> "SequenceTable":
        from tinywave_core.sequences.table import SequenceTable

        return SequenceTable.joined([self.new, self.replayed])


def _material(step: StudentStep) -> _Material:
    """All training sequences of the step's tokens, and of what was heard before as many as are replayed."""
    from tinywave_core.sequences.index import load_sequences
    from tinywave_core.sequences.table import SequenceTable, replayed
    from tinywave_core.training.recipe import tokens_of

    config, length = step.config, step.config.training.sequence_length
    arrived = load_sequences(step.inputs["tokens"], "train", length)
    heard = load_sequences(step.inputs["heard"] if "previous" in step.inputs else [], "train", length)
    # Of both together, or the speech that validated before would be replayed.
    train, validation = training_parts(SequenceTable.joined([arrived, heard]), step.params["validation"])
    train = share_of(train, config.share)
    tokens = tokens_of(train)
    new, heard = (part.take(np.isin(part.ids, train.ids)) for part in (arrived, heard))
    if not heard:
        return _Material(_taught(step, new, validation), heard, validation, tokens)
    key = f"{config.training.seed}/replay/{_continuations(step)}"
    # New speech that all validates is none to train on; the old is, or there would be nothing.
    again = replayed(heard, new or arrived, config.continuation.replay, key)
    return _Material(new, again if again or new else heard, validation, tokens)


def share_of(sequences: "SequenceTable", share: float) -> "SequenceTable":
    """Those of the recordings below the share, by a hash of the recording's id alone; TrainingError where that is none of many."""
    if share == 1:
        return sequences
    numbers, names = sequences.codes("recording_id")
    is_kept = np.array([place_of(f"share/{name}") < share for name in names.to_pylist()], dtype=bool)
    if len(is_kept) and not is_kept.any():
        raise TrainingError(
            f"distillation.share is {share:g}, and none of the {len(is_kept)} training recordings lies in it: raise it, or add recordings"
        )
    return sequences.take(is_kept[numbers])


def _taught(step: StudentStep, new: "SequenceTable", validation: "SequenceTable") -> "SequenceTable":
    """The training sequences as the teacher goes on with some of them, where that is asked for; none of an utterance that validates."""
    import pyarrow.compute as pc

    from tinywave_core.sequences.index import load_sequences

    if "taught" not in step.inputs:
        return new
    sequences = load_sequences(step.inputs["taught"], "train", step.config.training.sequence_length)
    validates = pc.is_in(sequences.column("utterance_id"), validation.column("utterance_id").combine_chunks())
    return share_of(sequences.take(~validates.to_numpy()), step.config.share)


def _start(
    step: StudentStep,
    teacher: "LlamaForCausalLM",
    layers: "LayerMap",
    trimmed: "Vocabulary | None",
    parts: "Kept | None",
) -> "tuple[LlamaForCausalLM, list[int] | None]":
    """The student before its first step: blocks of the teacher, random weights, or the student before it; without text where
    `trimmed` is the teacher's vocabulary, and then with the teacher's ids of its tokens."""
    from tinywave_core.models.llama import reset, student_from
    from tinywave_core.models.prune import narrowed
    from tinywave_core.models.trim import trim

    student, kept = student_from(teacher, layers), None
    if parts is not None:
        student = narrowed(student, layers.copied, parts, _shape(teacher).narrowed(step.config.width))
    if step.config.start == "fresh":
        reset(student, step.config.training.seed)
    if trimmed is not None:
        student, _, kept = trim(student, trimmed)
    if "previous" in step.inputs:
        return _loaded(step.input("previous").path("model"), step.input("previous").id, student), kept
    if "start" in step.params:
        folder = step.context["start"]
        if start_params(folder)["start"] != step.params["start"]:
            raise TrainingError(
                f"{folder} is not the student that the run was planned with: run again, with one on all machines"
            )
        return _loaded(folder, f"the student in {folder}", student), kept
    return student, kept


def _shape(model: "LlamaForCausalLM") -> ModelShape:
    return ModelShape.of_config(model.config.to_dict())


def _kept_parts(step: StudentStep, teacher: "LlamaForCausalLM", material: "_Material") -> "Kept | None":
    """What stays of the teacher in a narrower student, by its first training sequences; a student that goes on has what it had. None for
    one of the teacher's width."""
    from tinywave_core.models.prune import Kept, most_important

    shape = _shape(teacher).narrowed(step.config.width)
    if shape == _shape(teacher):
        return None
    if "previous" in step.inputs:
        before = StudentSummary.of(step.input("previous")).kept
        if before is None:
            raise TrainingError(
                f"{step.input('previous').id} has the teacher's width, distillation.width is {shape.width}: it cannot go on from there; "
                "pass --distillation.on_new_audio restart"
            )
        return Kept(before.channels, before.heads, before.neurons)
    some = material.sequences.tokens(np.arange(min(_WATCHED, len(material.sequences))))
    return most_important(teacher, some, shape)


def _loaded(folder: Path, name: str, first: "LlamaForCausalLM") -> "LlamaForCausalLM":
    """The student in a directory; TrainingError where it has another shape than `first`, the one of these settings."""
    from tinywave_core.models.llama import load_llama

    student = load_llama(folder)
    for size in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"):
        found, wanted = getattr(student.config, size), getattr(first.config, size)
        if found != wanted:
            raise TrainingError(
                f"{name} has {size} {found}, the student of these settings {wanted}: it cannot go on from there; pass "
                "--distillation.on_new_audio restart, or another --distillation.start"
            )
    return student


def _in_ids_of(student: "LlamaForCausalLM", vocabulary: "Vocabulary", sequences: "SequenceTable") -> "SequenceTable":
    from tinywave_core.models.trim import renumbering

    table = renumbering(student, vocabulary)
    return sequences if table is None else sequences.renumbered(table)


def _nll_at_start(
    teacher: "LlamaForCausalLM",
    student: "LlamaForCausalLM",
    cached: "SequenceTargets | None",
    sequences: "SequenceTable",
    numbers: list[int],
    vocabulary: "Vocabulary",
    config: DistillationConfig,
    output: Output,
) -> dict[str, float]:
    """Both models' NLL on some sequences, in nats per token; none for a student without a teacher's signals.

    Training speech, for with held-out speech as an input new held-out recordings would train every student anew. The
    teacher's NLL comes from the cache if it is there: a cached run needs no forward pass of the teacher.
    """
    from tinywave_core.evals.scoring import mean_nll

    if not (config.learns_from_logits or config.live_terms):
        return {}
    tokens = sequences.tokens(np.array(numbers))
    if cached is None:
        teacher_nll = _nll(teacher, tokens, vocabulary, output)
    else:
        teacher_nll = mean_nll([cached.target_logp(number)[:-1] for number in numbers])
    return {"teacher": teacher_nll, "student": _nll(student, tokens, vocabulary, output)}


def _require_better_teacher(teacher: float, student: float) -> None:
    """TrainingError unless the teacher's NLL is below that of the copy of some of its blocks."""
    if not teacher < student:
        raise TrainingError(
            f"the teacher is no better than the untrained student that was copied from it: {teacher:.4f} nats per token on "
            f"training speech, the copy of some of its blocks {student:.4f}. There is nothing to learn from it: raise "
            "adaptation.training.passes or its steps, or take another teacher"
        )


def _nll(model: "LlamaForCausalLM", tokens: "Sequence[np.ndarray]", vocabulary: "Vocabulary", output: Output) -> float:
    """On the run's device; the model is on the CPU again afterwards."""
    import torch

    from tinywave_core.devices import pick_device
    from tinywave_core.evals.scoring import mean_nll, token_log_probabilities
    from tinywave_core.models.llama import on_device
    from tinywave_core.models.trim import in_ids_of
    from tinywave_core.threads import use_threads

    use_threads(output.runtime)
    on_device(model, pick_device(output.runtime)).eval()
    scores = token_log_probabilities(model, in_ids_of(model, vocabulary, tokens))
    on_device(model, torch.device("cpu"))
    return mean_nll(scores)


def _cached(step: StudentStep, vocabulary: "Vocabulary", sequences: "SequenceTable") -> "SequenceTargets | None":
    """The teacher's cached targets of the sequences; TrainingError when they are another teacher's or format's, or not there."""
    from tinywave_core.teacher.logit_cache import LogitCache

    if not step.config.needs_cache:
        return None
    wanted = {
        "teacher": step.input("teacher").id,
        "sequence_length": step.config.training.sequence_length,
        "vocabulary": vocabulary.to_json(),
    }
    room = step.runtime.local_cache_gb
    return LogitCache.of_shards(step.inputs["logits"], wanted, math.inf if room is None else room * 1e9).of(sequences)

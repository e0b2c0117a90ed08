"""Adaptation: the teacher, fitted to the domain. Tokens (and a checkpoint) in, a merged Hugging Face directory out.

A fresh small Llama is trained from random weights; the base that comes with TinyWave is adapted briefly; a checkpoint is fine-tuned whole or with LoRA (the paper's "teacher
correction"), merged before anything is cached (Minitron in practice, arXiv 2408.11796). Files: teacher/, curves.parquet.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from tinywave_core.base.opening import base_of, why_not
from tinywave_core.checkpoints.teacher import checkpoint_digest, teacher_folder
from tinywave_core.config.adaptation import AdaptationConfig
from tinywave_core.config.pipeline import PipelineConfig, RefreshPolicy
from tinywave_core.config.validation import ValidationConfig
from tinywave_core.errors import ConfigError, TrainingError
from tinywave_core.stages.adaptation.summary import TeacherSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import training_hours, training_key
from tinywave_core.steps.pins import pinned
from tinywave_core.storage.schemas import CURVES_FILE
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from tinywave_core.sequences.table import SequenceTable

VERSION = 2


def build(config: PipelineConfig, tokens: Artifact, execute: Execute) -> Artifact:
    """The `teacher` artifact: pinned after its first fit unless config.refresh.teacher says otherwise."""
    folder = teacher_folder(config)
    step = Step(
        store=tokens.store,
        stage="adaptation",
        part="teacher",
        version=VERSION,
        run=run_teacher,
        config=identifying(config.adaptation),
        params={
            "teacher_sha256": None if folder is None else checkpoint_digest(folder),
            "validation": validation_of(config),
        },
        inputs={"tokens": [tokens]},
        context={"teacher": None if folder is None else str(folder)},
        runtime=config.runtime,
    )

    def fitted(policy: RefreshPolicy) -> Artifact:
        return pinned(
            step, policy, config.refresh, lambda: training_hours(tokens), execute, corpus=_lineage(config, tokens)
        )

    teacher = fitted(config.refresh.teacher)
    if config.adaptation.floor == "counts" and teacher.complete and is_below_floor(TeacherSummary.of(teacher)):
        teacher = fitted("always")  # what it learned from may have grown since, and it is of no use as it is
    return teacher


def teacher_identity(config: PipelineConfig) -> list[Any]:
    """What a teacher is, whatever speech it was fitted on: what other pins belong to."""
    folder = teacher_folder(config)
    digest = None if folder is None else checkpoint_digest(folder)
    return [VERSION, identifying(config.adaptation), digest, validation_of(config)]


def validation_of(config: PipelineConfig) -> dict[str, Any]:
    """Which of the training speech validates: the parameter of every training step."""
    return {**config.validation.model_dump(mode="json"), "split_by": config.ingestion.split_by}


def _lineage(config: PipelineConfig, tokens: Artifact) -> str:
    """What a teacher's pin belongs to besides its own config: the corpus and the tokens it was trained on."""
    return f"{training_key(config, tokens)}/{config.tokenization.model_dump_json()}"


def identifying(config: AdaptationConfig) -> AdaptationConfig:
    """What has a say in a teacher: a checkpoint is identified by its content, not by where it lies, and training is its own;
    no teacher is by what it is measured against."""
    assert config.teacher != "auto"
    kept = {name: getattr(AdaptationConfig(), name) for name in ("base", "base_below_hours", "base_training", "floor")}
    teacher = config.teacher if config.teacher in ("fresh", "base") else "checkpoint"
    return config.model_copy(update={**kept, "teacher": teacher, "training": config.own_training})


@dataclass(frozen=True)
class Speech:
    """What a training stage needs of the tokens."""

    train: "SequenceTable"
    validation: "SequenceTable"
    held_out: "SequenceTable"
    vocabulary: Vocabulary


def load_speech(tokens: Artifact, sequence_length: int, validation: dict[str, Any]) -> Speech:
    """Sequences of both splits behind a `tokens` artifact, and their vocabulary; `validation` is that of `validation_of`."""
    from tinywave_core.sequences.index import load_sequences

    shards = tokens.store.find_all([shard["id"] for shard in tokens.summary["shards"]])
    return Speech(
        *training_parts(load_sequences(shards, "train", sequence_length), validation),
        load_sequences(shards, "held_out", sequence_length),
        Vocabulary.from_json(tokens.summary["vocabulary"]),
    )


def training_parts(sequences: "SequenceTable", validation: dict[str, Any]) -> "tuple[SequenceTable, SequenceTable]":
    """What is trained on and what validates, by the parameter of a step."""
    from tinywave_core.sequences.validation import split_validation

    return split_validation(sequences, validation_config(validation), validation["split_by"])


def validation_config(validation: dict[str, Any]) -> ValidationConfig:
    """The settings in a step's parameter."""
    return ValidationConfig.model_validate({k: v for k, v in validation.items() if k != "split_by"})


def run_teacher(step: Step[AdaptationConfig, TeacherSummary], output: Output) -> TeacherSummary:
    """Train or fine-tune the teacher; TrainingError if it got worse on held-out speech, a fresh one than its random weights, and no
    speech validated."""
    from tinywave_core.models.llama import save_llama
    from tinywave_core.storage.shards import write_table
    from tinywave_core.training.launch import run_in_processes
    from tinywave_core.training.objective import LanguageModelObjective
    from tinywave_core.training.processes import is_first
    from tinywave_core.training.recipe import Start, settle, tokens_of
    from tinywave_core.training.trainer import make_dataset, train
    from tinywave_core.training.validation import Validation

    if output.runtime.all_training_processes > 1:
        return run_in_processes(step, output, TeacherSummary)
    config = step.config
    length = config.training.sequence_length
    speech = load_speech(step.input("tokens"), length, step.params["validation"])
    dataset = make_dataset(
        speech.train, config.training, separate=config.packing == "separate", keep=output.resume / "rows"
    )
    start: Start = "random weights" if config.teacher == "fresh" else "checkpoint"
    training = settle(config.training, dataset, tokens_of(speech.train), start)
    validation = Validation.on(speech.validation, length, validation_config(step.params["validation"]))
    model = _start(step, config, speech.vocabulary)
    before = _held_out_nll(model, speech, output)
    trained, merge = _with_adapters(model, config)
    run = train(
        trained,
        dataset,
        LanguageModelObjective(),
        training,
        output.runtime,
        output.resume,
        output.progress,
        validation=validation,
        uploads=output.uploads,
    )
    # Every process of a sharded training comes to the same summary, or the same error; only the first writes.
    model = merge()
    after = _held_out_nll(model, speech, output)
    if run.best is None:  # with validation speech the start would have been kept
        _require_no_worse(before, after)
    if is_first():
        save_llama(model.cpu(), output.folder / "teacher")
        _write_tokenizer(step, output.folder / "teacher", speech.vocabulary)
        write_table(pa.Table.from_pylist(run.curves), output.folder / CURVES_FILE)
    return TeacherSummary(
        parameters=sum(p.numel() for p in model.parameters()),
        layers=model.config.num_hidden_layers,
        width=model.config.hidden_size,
        method=config.method,
        started_from={"fresh": "random weights"}.get(config.teacher, config.teacher),
        train_sequences=len(speech.train),
        train_tokens=int(speech.train.lengths.sum()),
        train_hours=sum(speech.train.seconds[speech.train.variants <= 0].tolist()) / 3600,
        steps=len(run.curves),
        training=run.summary(training, dataset, validation),
        held_out_nll_before=before,
        held_out_nll_after=after,
        held_out_floor_nll=_floor_nll(speech),
        train_loss=run.last["loss"],
    )


def _require_no_worse(before: float | None, after: float | None) -> None:
    """Nothing is known without held-out speech; otherwise whatever is worse than its start has nothing to teach."""
    if before is not None and after is not None and after > before:
        raise TrainingError(
            f"adaptation made the teacher worse on held-out speech: {before:.4f} nats per token before, {after:.4f} "
            "after, and no speech validated. Raise validation.fraction, or lower adaptation.training.learning_rate or its steps, and "
            "run again"
        )


def _start(step: Step, config: AdaptationConfig, vocabulary: Vocabulary) -> "LlamaForCausalLM":
    from tinywave_core.models.enlarge import enlarge
    from tinywave_core.models.llama import fresh_llama, load_llama
    from tinywave_core.tokenizers.directory import read_directory
    from tinywave_core.tokenizers.enlarged import is_text_model
    from tinywave_core.tokenizers.text_model import sources_of

    path = step.context["teacher"]
    if path is None:
        length = max(config.training.sequence_length, 2048)
        return fresh_llama(config.fresh, vocabulary.rows, length, config.training.seed)
    if is_text_model(Path(path)):
        text = sources_of(Path(path), vocabulary, config.most_text_tokens)
        return enlarge(load_llama(Path(path)), text.sources, vocabulary, config.training.seed)
    # Before hours of training, not after:
    read_directory(Path(path), config.id_convention).require_same(vocabulary, f"the teacher {path}", "the token shards")
    _check_tokenizer(Path(path), vocabulary)
    model = load_llama(Path(path))
    if model.config.vocab_size < vocabulary.tokens:
        raise ConfigError(
            f"the teacher {path} has {model.config.vocab_size} embedding rows, its tokenizer needs {vocabulary.tokens}: they do "
            "not belong together"
        )
    return model


def _with_adapters(
    model: "LlamaForCausalLM", config: AdaptationConfig
) -> "tuple[LlamaForCausalLM, Callable[[], LlamaForCausalLM]]":
    """The module to train, and how to get the plain model back from it."""
    if config.method == "full":
        return model, lambda: model
    import torch
    from peft import LoraConfig, get_peft_model

    from tinywave_core.models.parts import architecture

    targets = list(architecture(model).projections)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        adapters = LoraConfig(
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,  # type: ignore[arg-type]  # peft says int and takes any number
            target_modules=targets,
            bias="none",
        )
        wrapped = get_peft_model(model, adapters)
    trained = cast("LlamaForCausalLM", wrapped.get_base_model())
    return trained, lambda: cast("LlamaForCausalLM", wrapped.merge_and_unload())


def _held_out_nll(model: "LlamaForCausalLM", speech: Speech, output: Output) -> float | None:
    from tinywave_core.devices import pick_device
    from tinywave_core.evals.scoring import mean_nll, token_log_probabilities
    from tinywave_core.models.llama import on_device
    from tinywave_core.threads import use_threads

    if not speech.held_out:
        return None
    use_threads(output.runtime)
    on_device(model, pick_device(output.runtime)).eval()
    return mean_nll(token_log_probabilities(model, [s.ids for s in speech.held_out]))


def _write_tokenizer(step: Step, folder: Path, vocabulary: Vocabulary) -> None:
    """A fresh teacher gets the pipeline's own tokenizer, a text model its own with units; a checkpoint keeps the one it came with."""
    from tinywave_core.tokenizers.directory import VOCABULARY, copy_tokenizer
    from tinywave_core.tokenizers.enlarged import is_text_model, write_enlarged_tokenizer
    from tinywave_core.tokenizers.text import write_tokenizer

    if step.context["teacher"] is not None and is_text_model(Path(step.context["teacher"])):
        write_enlarged_tokenizer(Path(step.context["teacher"]), folder, vocabulary)
    elif step.context["teacher"] is None:
        write_tokenizer(vocabulary, folder)
        (folder / VOCABULARY).write_text(json.dumps(vocabulary.to_json()), encoding="utf-8")
    else:
        copy_tokenizer(Path(step.context["teacher"]), folder, vocabulary)


def _check_tokenizer(folder: Path, vocabulary: Vocabulary) -> None:
    """The checkpoint's tokenizer must give the unit tokens the ids that the token shards have."""
    if (folder / "tokenizer.model").is_file():  # the vocabulary was read from it
        return
    from tinywave_core.tokenizers.directory import open_as_transformers

    tokenizer = open_as_transformers(folder)
    names = vocabulary.names()
    for name, expected in (
        (names[0], vocabulary.text),
        (names[2], vocabulary.text + 2),
        (names[-1], vocabulary.tokens - 1),
    ):
        found = tokenizer.convert_tokens_to_ids(name)
        if found != expected:
            raise ConfigError(
                f"the teacher's tokenizer gives {name} the id {found}, the token shards {expected}: teacher and tokens "
                "have different vocabularies; tokenize with the teacher's, or choose another teacher"
            )


def _floor_nll(speech: Speech) -> float | None:
    """NLL of the best table of counts of the training tokens; None without held-out speech."""
    from tinywave_core.evals.floors import lowest_nll

    return lowest_nll(speech.train, speech.held_out, speech.vocabulary.tokens) if speech.held_out else None


def is_below_floor(teacher: TeacherSummary) -> bool:
    """Whether counting is as good: never known without held-out speech."""
    after, floor = teacher.held_out_nll_after, teacher.held_out_floor_nll
    return after is not None and floor is not None and after >= floor


def other_starts(config: PipelineConfig) -> str:
    """Teachers that know more and go with these settings, as advice."""
    folder = "a Llama's folder as --adaptation.teacher"
    if config.adaptation.teacher == "base":
        return f"start from a teacher that knows more than the base ({folder})"
    if (fault := why_not(config, base_of(config))) is not None:
        return f"start from a teacher that knows more ({folder}; the base does not go with these settings: {fault})"
    return f"start from a teacher that knows more (--adaptation.teacher base, or {folder})"


def require_above_floor(teacher: TeacherSummary, config: PipelineConfig) -> None:
    """TrainingError for a teacher that is no better than counting: what it would teach, a table tells as well."""
    if is_below_floor(teacher):
        raise TrainingError(
            f"the teacher is no better than a table of counts of its training speech: {teacher.held_out_nll_after:.4f} nats per token "
            f"on held-out speech, the counts {teacher.held_out_floor_nll:.4f}. It has nothing to teach, so nothing was cached or "
            f"distilled. Add speech, {other_starts(config)}, pass over the "
            "speech another number of times (--adaptation.training.passes), or go on all the same with --adaptation.floor none"
        )

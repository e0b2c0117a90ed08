"""Export: the student as a directory that plain `LlamaForCausalLM` and `AutoTokenizer` load and generate from.

Files: model/ with safetensors, config.json, generation_config.json, processor_config.json, the tokenizer, GGUF files for llama.cpp, speech.json (token
ids, rates, convention, golden prompts, digests), speech_tokenizer/ (codebooks and voice, or which files of SpiritLM's
release turn audio into prompts and units into audio), drafter/ (a smaller model that proposes tokens for this one, where the run
made one: weights, tokenizer, GGUF files), README.md (the model card), and the teacher's LICENSE where it has one.

Everything goes through one tensor at a time: the 2B student is exported in less than 8 GiB (`make bench-generation`).
"""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinywave_core.base.opening import LICENCES, require_base
from tinywave_core.checkpoints.teacher import teacher_folder
from tinywave_core.config.export import ExportConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.exporters.files import GgufFile, files_section
from tinywave_core.exporters.licence import Licence, licence_file, licence_of, licence_of_base
from tinywave_core.runtimes.base import DRAFTER, DRAFTER_FILE
from tinywave_core.stages.evaluation.preference_words import tuned_words
from tinywave_core.stages.evaluation.summary import (
    AgainstSummary,
    DraftingSummary,
    GeneratedSummary,
    ProbeScoresSummary,
    ScoresSummary,
)
from tinywave_core.stages.evaluation.words import drafting_text
from tinywave_core.stages.export.hifigan import FOLDER as HIFIGAN
from tinywave_core.stages.export.summary import JudgesSummary, ModelSummary, VocoderSummary
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import held_out_shards
from tinywave_core.storage.schemas import TOKENS_FILE
from tinywave_core.storage.store import MANIFEST, Artifact, describe_files, sha256_of
from tinywave_core.tokenizers.release import RELEASE
from tinywave_core.tokenizers.streams import STREAMS, Rates
from tinywave_core.tokenizers.trained_on import KEY, TrainedOn
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from transformers import PretrainedConfig

    from tinywave_core.exporters.model_card import Data

VERSION = 9
DESCRIBED = (
    "scores",
    "probe_scores",
    "generated",
    "judges",
    "against",
)  # parts of evaluation that the model card tells of, where they are

ModelStep = Step[ExportConfig, ModelSummary]


def build(
    config: PipelineConfig,
    tokens: Artifact,
    teacher: Artifact,
    student: Artifact,
    done: dict[str, Artifact],
    execute: Execute,
) -> Artifact:
    """The `model` artifact; its card tells of what was evaluated, and it carries the voice, where there is one."""
    tokenizer = TokensSummary.of(tokens).tokenizer_artifact(tokens)
    licence, text = _licence(config, tokens)
    (model,) = execute(
        [
            Step(
                store=tokens.store,
                stage="export",
                part="model",
                version=VERSION,
                run=run_model,
                config=config.export,
                params={
                    "temperature": config.generation.temperature,
                    "top_p": config.generation.top_p,
                    "licence": asdict(licence),
                    "licence_sha256": None if text is None else sha256_of(text),
                },
                context={"licence_file": text},
                inputs={
                    "student": [student],
                    "teacher": [teacher],
                    "tokenizer": [tokenizer],
                    **{part: [done[part]] for part in (*DESCRIBED, "vocoder", "drafter", "drafting") if part in done},
                    "tokens": held_out_shards(tokens) if config.export.perplexity_tokens else [],
                },
                runtime=config.runtime,
            )
        ]
    )
    return model


def _licence(config: PipelineConfig, tokens: Artifact) -> tuple[Licence, Path | None]:
    """What the student's licence is, and the text of it that its teacher came with."""
    teacher, folder = config.adaptation.teacher, teacher_folder(config)
    if teacher == "base":
        base = require_base(config)
        return licence_of_base(base.attribution), base.place(LICENCES)
    # A release may have it at its top, two folders above its language models.
    places = [] if folder is None else [folder, *([folder.parent.parent] if teacher == "spiritlm" else [])]
    text, summary = licence_file(places), TokensSummary.of(tokens)
    released = summary.tokenizer_kind == RELEASE.name
    return licence_of(teacher, folder, text, summary.vocabulary, released_tokens=released), text


def run_model(step: Step[ExportConfig, ModelSummary], output: Output) -> ModelSummary:
    """Write the directory, check that it is what plain transformers expect, and measure what the GGUF files lose."""
    from tinywave_core.devices import pick_device
    from tinywave_core.exporters.gguf import write_gguf_files
    from tinywave_core.exporters.perplexity import rounding_loss
    from tinywave_core.exporters.transformers_files import check_export, write_processor_config
    from tinywave_core.threads import use_threads
    from tinywave_core.tokenizers.directory import read_directory
    from tinywave_core.tokenizers.opening import SPEECH_TOKENIZER

    config, teacher = step.config, step.input("teacher").path("teacher")
    use_threads(output.runtime)
    folder = output.folder / "model"
    folder.mkdir()
    trained = read_directory(teacher)
    vocabulary, rows = _choose_rows(step, trained)
    seen = trained_on(step.input("student"), vocabulary)
    shape = _write_model(step, "student", folder, vocabulary, trained, rows)
    write_processor_config(folder)
    output.progress(1, 4, "weights")
    _copy_speech_tokenizer(step.input("tokenizer"), step.inputs.get("vocoder", []), folder / SPEECH_TOKENIZER)
    licence = Licence(**step.params["licence"])
    files = write_gguf_files(folder, vocabulary, config.gguf, config.name, licence.name or licence.id)
    if "drafter" in step.inputs:
        _write_drafter(step, folder / DRAFTER, vocabulary, trained, rows)
    output.progress(2, 4, "GGUF files")
    prompts = _golden_prompts(vocabulary, teacher, trained)
    (folder / "speech.json").write_text(
        json.dumps(_speech(folder, vocabulary, trained, seen, prompts, files, step), indent=1), encoding="utf-8"
    )
    parameters = check_export(folder, vocabulary, [(prompt["string"], prompt["ids"]) for prompt in prompts])
    output.progress(3, 4, "checked")
    sequences = _held_out(step, vocabulary, trained, shape)
    losses = rounding_loss(folder, shape, sequences, files, pick_device(output.runtime))
    _write_card(step, folder, vocabulary, seen, parameters, files_section(files, losses, vocabulary, config.dtype))
    output.progress(4, 4, "model card")
    return ModelSummary(
        name=config.name,
        parameters=parameters,
        dtype=config.dtype,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        gguf=files,
        perplexity=losses,
        vocabulary="full" if vocabulary == trained else "speech",
        vocabulary_rows=vocabulary.rows,
        trained_rows=trained.rows,
        trained_parameters=step.input("student").summary["parameters"],
        trained_on=seen.to_json(),
        inputs=seen.modalities,
        outputs=seen.outputs,
    )


def _choose_rows(step: ModelStep, trained: Vocabulary) -> tuple[Vocabulary, list[int] | None]:
    """The vocabulary of the export, and which rows of the student's embedding it takes; None: all of them."""
    if step.input("student").summary["vocabulary"] == "speech":  # trained so: its embedding has no other rows
        return trained.speech_only(), None
    if step.config.vocabulary == "speech":
        return trained.speech_only(), trained.speech_only_ids()
    return trained, None


def _write_drafter(
    step: ModelStep, folder: Path, vocabulary: Vocabulary, trained: Vocabulary, rows: list[int] | None
) -> None:
    """The drafter in the forms of the model, with what a runtime reads of it; sound goes through the model's own speech tokenizer."""
    from tinywave_core.exporters.gguf import write_gguf_files

    folder.mkdir()
    _write_model(step, "drafter", folder, vocabulary, trained, rows)
    licence = Licence(**step.params["licence"])
    name = f"{step.config.name}-drafter"
    files = write_gguf_files(folder, vocabulary, step.config.gguf, name, licence.name or licence.id)
    about = {"vocabulary": vocabulary.to_json(), "gguf": [file.model_dump() for file in files]}
    # No speech.json and no processor: it is no model to speak with.
    (folder / DRAFTER_FILE).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _write_model(
    step: ModelStep, part: str, folder: Path, vocabulary: Vocabulary, trained: Vocabulary, rows: list[int] | None
) -> "PretrainedConfig":
    """Configs, weights and tokenizer of the student or the drafter, as plain transformers loads them."""
    import torch

    from tinywave_core.exporters.transformers_files import pad_on_the_left, write_config
    from tinywave_core.exporters.weights import copy_weights
    from tinywave_core.tokenizers.directory import copy_tokenizer, write_speech_tokenizer

    student, teacher = step.input(part).path("model"), step.input("teacher").path("teacher")
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[step.config.dtype]
    sampling = {name: step.params[name] for name in ("temperature", "top_p")}
    shape = write_config(student, folder, vocabulary, dtype, **sampling)
    copy_weights(student, folder, dtype, rows)
    if vocabulary != trained:
        write_speech_tokenizer(folder, vocabulary)
    else:
        copy_tokenizer(teacher, folder, vocabulary)
    pad_on_the_left(folder)
    return shape


def _copy_speech_tokenizer(tokenizer: Artifact, vocoders: Sequence[Artifact], folder: Path) -> None:
    """The folder that an export carries: the tokenizer of the tokens, and the voice where one was made."""
    from tinywave_core.synthesis import voice

    # Without the manifest: it says when it was made, and the same model has the same bytes.
    shutil.copytree(tokenizer.path(), folder, ignore=shutil.ignore_patterns(MANIFEST))
    for vocoder in vocoders:
        if VocoderSummary.of(vocoder).trained is not None:
            shutil.copytree(vocoder.path(HIFIGAN), folder / HIFIGAN)
            continue
        for name in (voice.SOUND, voice.TENSORS, voice.DESCRIPTION):
            shutil.copyfile(vocoder.path(name), folder / name)


def _write_card(
    step: ModelStep, folder: Path, vocabulary: Vocabulary, seen: TrainedOn, parameters: int, about_files: str
) -> None:
    """README.md; and the text of the teacher's licence beside it, which has to travel with what was made from it."""
    from tinywave_core.exporters.model_card import Card, CardVoice, model_card

    made = step.input("student").manifest
    card = Card(
        step.config.name,
        step.input("student").summary | {"parameters": parameters},
        vocabulary,
        seen,
        ScoresSummary.of(step.input("scores")),
        _data(step.input("student")),
        Licence(**step.params["licence"]),
        {name: artifacts[0].id for name, artifacts in step.inputs.items() if name != "tokens"},
        ProbeScoresSummary.of(step.input("probe_scores")).probes if "probe_scores" in step.inputs else {},
        GeneratedSummary.of(step.input("generated")) if "generated" in step.inputs else None,
        JudgesSummary.of(step.input("judges")) if "judges" in step.inputs else None,
        [
            CardVoice(voice.name, voice.speakers, voice.recordings, voice.seconds)
            for artifact in step.inputs.get("vocoder", [])
            # Weights are no recordings: whose speech they heard is in the data's list, as for the model's own.
            for voice in ([] if VocoderSummary.of(artifact).trained else VocoderSummary.of(artifact).voices)
        ],
        {} if made is None else made.config,
        _drafted(step),
        tuned_words(AgainstSummary.of(step.input("against"))) if "against" in step.inputs else "",
    )
    (folder / "README.md").write_text(model_card(card) + about_files, encoding="utf-8")
    if step.context["licence_file"] is not None:
        shutil.copyfile(step.context["licence_file"], folder / "LICENSE")


def _drafted(step: ModelStep) -> str | None:
    if "drafter" not in step.inputs:
        return None
    return drafting_text(DraftingSummary.of(step.input("drafting"))) if "drafting" in step.inputs else ""


def trained_on(student: Artifact, vocabulary: Vocabulary) -> TrainedOn:
    """What a student was trained on, by its lineage: the sequences of this training and of those before it, all drawings of an utterance
    among them, by what is in them.

    `vocabulary` is that of the export: what it has no rows for the export cannot do.
    """
    import pyarrow.compute as pc

    from tinywave_core.storage.shards import read_table

    counts = Counter[str]()
    for shard in _heard(student):
        if shard.part == "shard":  # of speech alone, which has no column for it
            counts["speech"] += shard.summary["train_utterances"]
            continue
        table = read_table(shard.path(TOKENS_FILE), ["split", "modalities"])
        for row in table.filter(pc.equal(table["split"], "train"))["modalities"].value_counts().to_pylist():
            counts[{"S": "speech", "T": "text"}.get(row["values"], "mixed")] += row["counts"]
    seen = TrainedOn(counts["speech"], counts["text"], counts["mixed"])
    return seen.without_text() if vocabulary.is_speech_only else seen


def _heard(student: Artifact) -> list[Artifact]:
    """Token shards that a student was trained on, now and before."""
    inputs = student.manifest.inputs if student.manifest else {}
    return student.store.find_all([i for name in ("tokens", "heard") for i in inputs.get(name, [])])


def _data(student: Artifact) -> "Data":
    """The training speech behind a student, by its lineage: what it heard in this training and in those before it."""
    from tinywave_core.audio.utterances import UTTERANCES_FILE
    from tinywave_core.exporters.model_card import Data
    from tinywave_core.stages.ingestion.counts import compact_id
    from tinywave_core.steps.inputs import audio_of
    from tinywave_core.storage.shards import rows_of, where

    spoken = [shard for shard in _heard(student) if shard.manifest and shard.manifest.part != "text"]
    columns = ["recording_id", "split"]
    recordings = {
        compact_id(row["recording_id"])
        for audio in audio_of(spoken)
        for row in rows_of(audio.path(UTTERANCES_FILE), columns, where("split", "train"))
    }
    hours = sum(shard.summary["train_seconds"] for shard in spoken) / 3600
    return Data(hours, sum(shard.summary["train_utterances"] for shard in spoken), len(recordings))


def _golden_prompts(vocabulary: Vocabulary, teacher: Path, trained: Vocabulary) -> list[dict[str, Any]]:
    """Prompts and the ids that the shards would have for them, for every tokenizer that comes with the model to be held to."""
    from tinywave_core.tokenizers.directory import load_tokenizer

    last = f"[Hu{vocabulary.hubert - 1}]"
    speech = ["[Speech][Hu0][Hu1]", f"[Speech]{last}[Hu0]{last}"]
    if vocabulary.pitch:
        speech.append(f"[Speech][St0][Pi{vocabulary.pitch - 1}][Hu0][Hu1][Pi0]{last}[St{vocabulary.style - 1}]")
    prompts = []
    for string in speech:
        units = string.removeprefix("[Speech]")
        ids = [*vocabulary.prompt_ids(vocabulary.speech_marker), *vocabulary.encode(units)]
        prompts.append({"string": string, "ids": ids})
    if not vocabulary.is_speech_only:
        tokenizer = load_tokenizer(teacher, trained)
        texts = (
            "[Text]The cat sat on the mat.",
            f"[Text]So he said[Speech][Hu0]{last}[Text]and left",
            "[Text]Grüße, 世界\n",
        )
        prompts += [{"string": text, "ids": tokenizer.encode(text).ids} for text in texts]
    return prompts


def rate_fields(rates: Rates) -> dict[str, int | float]:
    """Codes per second of audio as speech.json has them; a rate that is whole is written so: 25, not 25.0."""
    named = zip(("unit", "pitch", "style"), rates.frames_hz.values(), strict=True)
    return {f"{name}_rate_hz": int(hz) if hz == int(hz) else hz for name, hz in named}


def _speech(
    folder: Path,
    vocabulary: Vocabulary,
    trained: Vocabulary,
    seen: TrainedOn,
    prompts: list[dict[str, Any]],
    files: list[GgufFile],
    step: ModelStep,
) -> dict[str, Any]:
    """speech.json: what a program needs to speak with the model."""
    from tinywave_core.tokenizers.opening import SPEECH_TOKENIZER

    return {
        "format": "tinywave-speech/2",
        "vocabulary": vocabulary.to_json(),
        "trained_vocabulary": trained.to_json(),  # of the token shards; another one where the text was left out here
        KEY: seen.to_json(),
        "inputs": seen.modalities,
        "outputs": seen.outputs,
        "text_marker": vocabulary.text_marker,
        "speech_marker": vocabulary.speech_marker,
        "first_id": vocabulary.first,
        **rate_fields(vocabulary.rates),
        "deduplicated": [stream.kind for stream in STREAMS if stream.deduplicated],
        "id_convention": vocabulary.convention,
        "golden_prompts": prompts,
        # What llama.cpp's own tokenizer needs before a prompt to give its ids; ids themselves need nothing.
        "gguf_prompt_prefix": " " if vocabulary.convention == "slow" else "",
        "gguf": [file.model_dump() for file in files],
        "speech_tokenizer": step.input("tokenizer").id,
        "speech_tokenizer_sha256": {file.name: file.sha256 for file in describe_files(folder / SPEECH_TOKENIZER)},
    }


def _held_out(
    step: ModelStep, vocabulary: Vocabulary, trained: Vocabulary, shape: "PretrainedConfig"
) -> "list[npt.NDArray[np.int64]]":
    """Held-out sequences, as many as `perplexity_tokens` allows; those with text are left out for a model without."""
    import numpy as np

    from tinywave_core.models.trim import new_ids
    from tinywave_core.sequences.index import load_sequences

    table = np.arange(trained.rows) if vocabulary == trained else new_ids(trained)
    room, chosen = step.config.perplexity_tokens, []
    for sequence in load_sequences(step.inputs["tokens"], "held_out", min(1024, shape.max_position_embeddings)):
        ids = table[sequence.ids.astype(np.int64)][: room + 1]
        if len(ids) > 1 and ids.min() >= 0:
            chosen.append(ids)
            room -= len(ids) - 1
    return chosen

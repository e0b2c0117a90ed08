"""Export: the student as a directory that plain `LlamaForCausalLM` and `AutoTokenizer` load and generate from.

Files: model/ with safetensors, config.json, generation_config.json, the tokenizer, speech.json (token ids, rates,
convention), speech_tokenizer/ (codebooks and draft vocoder, or which files of SpiritLM's release turn audio into prompts and
units into audio; with a light vocoder where one was trained), README.md (the model card).
"""

import json
import shutil
from pathlib import Path
from typing import Any

from tinywave_core.config.export import ExportConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.base import Execute, Output, Step, Summary
from tinywave_core.storage.store import MANIFEST, Artifact
from tinywave_core.tokenizers.vocabulary import Vocabulary

VERSION = 3
SPEECH_TOKENIZER = "speech_tokenizer"


def build(
    config: PipelineConfig,
    tokens: Artifact,
    teacher: Artifact,
    student: Artifact,
    scores: Artifact,
    vocoder: Artifact | None,
    execute: Execute,
) -> Artifact:
    """The `model` artifact."""
    tokenizer = tokens.store.find(tokens.summary["tokenizer"], tokens.summary["tokenizer_kind"])
    (model,) = execute(
        [
            Step(
                store=tokens.store,
                stage="export",
                part="model",
                version=VERSION,
                run=run_model,
                config=config.export,
                params={"temperature": config.generation.temperature, "top_p": config.generation.top_p},
                inputs={
                    **{"student": [student], "teacher": [teacher], "tokenizer": [tokenizer], "scores": [scores]},
                    **({} if vocoder is None else {"vocoder": [vocoder]}),
                },
                runtime=config.runtime,
            )
        ]
    )
    return model


def run_model(step: Step, output: Output) -> Summary:
    """Write the directory, then open it with plain transformers as its users will."""
    import torch

    from tinywave_core.exporters.model_card import model_card
    from tinywave_core.models.llama import load_llama
    from tinywave_core.models.trim import trim
    from tinywave_core.synthesis import light
    from tinywave_core.tokenizers.directory import copy_tokenizer, read_directory, write_speech_tokenizer

    config = step.config
    assert isinstance(config, ExportConfig)
    folder = output.folder / "model"
    teacher, tokenizer = step.input("teacher").path("teacher"), step.input("tokenizer")
    trained = vocabulary = read_directory(teacher)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
    student = load_llama(step.input("student").path("model"), dtype=dtype)
    trimmed = step.input("student").summary["vocabulary"] == "speech"  # trained so; else all its rows are there
    if trimmed:
        vocabulary = trained.speech_only()
    elif config.vocabulary == "speech":
        student, vocabulary, _ = trim(student, trained)
    sampling = student.generation_config
    assert sampling is not None
    sampling.do_sample, sampling.temperature, sampling.top_p = True, step.params["temperature"], step.params["top_p"]
    sampling.pad_token_id = 0
    student.save_pretrained(folder, safe_serialization=True)
    if vocabulary != trained:
        write_speech_tokenizer(folder, vocabulary)
    else:
        copy_tokenizer(teacher, folder, vocabulary)
    # Without the manifest: it says when it was made, and the same model has the same bytes.
    shutil.copytree(tokenizer.path(), folder / SPEECH_TOKENIZER, ignore=shutil.ignore_patterns(MANIFEST))
    for vocoder in step.inputs.get("vocoder", []):
        for name in (light.TENSORS, light.DESCRIPTION):
            shutil.copyfile(vocoder.path(name), folder / SPEECH_TOKENIZER / name)
    (folder / "speech.json").write_text(json.dumps(_speech(vocabulary, trained, step), indent=1))
    lineage = {name: artifacts[0].id for name, artifacts in step.inputs.items()}
    about = step.input("student").summary | {"parameters": sum(p.numel() for p in student.parameters())}
    card = model_card(config.name, about, step.input("scores").summary, vocabulary, lineage)
    (folder / "README.md").write_text(card)

    output.progress(1, 2, "checking that it loads")
    parameters = _check(folder, vocabulary)
    output.progress(2, 2, "checked")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "name": config.name,
        "parameters": parameters,
        "dtype": config.dtype,
        "bytes": size,
        "vocabulary": "full" if vocabulary == trained else "speech",
        "vocabulary_rows": vocabulary.rows,
        "trained_rows": trained.rows,
        "trained_parameters": step.input("student").summary["parameters"],
    }


def _speech(vocabulary: Vocabulary, trained: Vocabulary, step: Step) -> dict[str, Any]:
    first = vocabulary.first
    return {
        "format": "tinywave-speech/1",
        "vocabulary": vocabulary.to_json(),
        "trained_vocabulary": trained.to_json(),  # of the token shards; another one where the text was left out here
        "text_marker": vocabulary.text_marker,
        "speech_marker": vocabulary.speech_marker,
        "first_id": first,
        "unit_rate_hz": 25,
        "pitch_rate_hz": 12.5,
        "style_rate_hz": 1,
        "deduplicated": ["hubert", "pitch"],
        "id_convention": vocabulary.convention,
        "golden_prompt": {
            "string": "[Speech][Hu0][Hu1]",
            "ids": [*vocabulary.prompt_ids(vocabulary.speech_marker), first["hubert"], first["hubert"] + 1],
        },
        "speech_tokenizer": step.input("tokenizer").id,
    }


def _check(folder: Path, vocabulary: Vocabulary) -> int:
    """Load with plain transformers; the ids of the golden prompt must come out of AutoTokenizer as promised."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    golden = json.loads((folder / "speech.json").read_text())["golden_prompt"]
    found = tokenizer(golden["string"])["input_ids"]
    assert found == golden["ids"], (
        f"the exported tokenizer gives {found} for {golden['string']}, expected {golden['ids']}"
    )
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert model.config.vocab_size == vocabulary.rows
    return sum(p.numel() for p in model.parameters())
